"""Typed errors of the core; messages name the problem, the finding and the remedy.

Every error a user can cause derives from `PeftSamError`; the command line prints
its message as one line (exit code 2), the docks show it as a notification.
"""

from __future__ import annotations


class PeftSamError(Exception):
    """Base of all errors that a user's input or environment can cause."""


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
        return f"{self.question}: {self.remedy}"


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
