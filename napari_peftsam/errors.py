"""Typed errors of the core; messages name the problem, the finding and the remedy.

Every error a user can cause derives from `PeftSamError`; the command line prints
its message as one line (exit code 2), the docks show it as a notification.
"""

from __future__ import annotations

import re

# Control characters, those that change the direction of text, and halves of characters; not
# tabs and line breaks.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_CUT = " … "


def printable(text: str, most: int = 0) -> str:
    """Return text that is safe to show: control characters are escaped.

    With `most`, it is one line of at most so many characters, cut in its middle: the remedy is
    at the end.
    """
    shown = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    if not most:
        return shown
    shown = " ".join(shown.split())
    tail = (most - len(_CUT)) // 3
    return shown if len(shown) <= most else shown[: most - len(_CUT) - tail] + _CUT + shown[-tail:]


def count_text(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 object``, ``2 objects``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class PeftSamError(Exception):
    """Base of all errors that a user's input or environment can cause."""

    def __str__(self) -> str:
        # Most quote a file's name or content.
        return printable(super().__str__())


class InputFileError(PeftSamError):
    """A file or folder is missing, unreadable or of an unknown kind."""


class UndecidedError(InputFileError):
    """A file can be read in more than one way, and nothing says which one is meant.

    Attributes
    ----------
    question
        What is undecided.
    remedy
        How to decide it on the command line.
    option
        The field of `napari_peftsam.metadata.ReadOptions` that decides it.
    answers
        Its likely values.
    """

    def __init__(self, question: str, remedy: str, option: str, answers: tuple[str, ...]) -> None:
        super().__init__(question, remedy, option, answers)  # all, to be sent between processes
        self.question, self.remedy = question, remedy
        self.option, self.answers = option, answers

    def __str__(self) -> str:
        return printable(f"{self.question}: {self.remedy}")


class ImageError(PeftSamError):
    """An image cannot be used: wrong shape, no finite values, or constant."""


class LabelError(PeftSamError):
    """A label array cannot be used: not integer, empty, or of another shape."""


class PromptError(PeftSamError):
    """A prompt is malformed or lies outside its image."""


class ProjectError(PeftSamError):
    """A project file cannot be opened, read or written; what it held before is untouched."""


class ConfigurationError(PeftSamError, ValueError):
    """An option is unknown, out of range, or contradicts another one."""


class CheckpointError(PeftSamError):
    """A model checkpoint cannot be read or does not fit the architecture."""


class DownloadError(PeftSamError):
    """A model could not be downloaded; a partial file is kept where it can be resumed."""


class AdapterMismatchError(PeftSamError):
    """An adapter file is damaged or was made for another base model."""


class ExportError(PeftSamError):
    """A result could not be written; an earlier file is untouched."""


class ClusterError(PeftSamError):
    """Worker processes cannot be reached, or die repeatedly."""


class TrainingError(PeftSamError):
    """Training cannot start or continue (too few objects, diverged, out of memory)."""
