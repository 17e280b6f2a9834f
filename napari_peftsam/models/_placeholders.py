"""Reading the tensors of a checkpoint that holds other objects, too, without making these.

A trainer saves its data sets, transforms and settings beside the weights, as pickled objects
of its own classes. Making one imports modules and calls what the file names, which may be
anything. Here everything but tensors and plain values becomes a placeholder: an object that
knows the name of what it stands for, takes every argument and does nothing.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["load_with_placeholders", "name_of_placeholder"]


# torch's list of what a file may name belongs to the whole process: names that another
# thread has just allowed would be missing among ours, and gone when we load.
_LOCK = threading.Lock()

# A courtesy, and not what makes loading safe: placeholders do nothing whatever they stand
# for, and no such list is ever complete. No data set or transform is made by these, so a
# file that names one is refused with the reason instead of being half understood.
_HARMFUL = {
    *("builtins.__import__", "builtins.compile", "builtins.eval", "builtins.exec", "builtins.open"),
    *("code", "ctypes", "importlib", "marshal", "nt", "os", "pickle", "posix", "pty", "runpy"),
    *("shutil", "socket", "subprocess", "sys", "urllib", "webbrowser"),
}


class _Placeholder:
    """Stands for an object of another program; each name in a file gets a subclass."""

    def __new__(cls, *_: object) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Take what the object would have been made of, and forget it."""

    def __setstate__(self, state: object) -> None:
        """Forget the object's state."""


def load_with_placeholders(path: Path) -> object:
    """Return what `torch.save` wrote, with placeholders for all but tensors and plain values.

    It is torch's restricted unpickler that reads. It asks for nothing but what is on its own
    list, what other libraries in this process put there (`add_safe_globals`), and, while
    this reads, our placeholders. One thread reads at a time.

    Raises
    ------
    pickle.UnpicklingError
        If the file names something that acts on the system, or that unpickler refuses it
        still.
    Exception
        Anything else that torch raises for files that are no checkpoints.
    """
    with _LOCK:
        return _load(path)


def _load(path: Path) -> object:
    names = _unknown_names(path)
    if harmful := next(filter(_is_harmful, names), None):
        raise pickle.UnpicklingError(f"GLOBAL {harmful}")
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        _stand_in(name) for name in names
    ]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, TypeError):  # torch 2.6: TypeError for filling
        # Calling a placeholder's result or filling it is too much; told without placeholders,
        # torch's complaint names what the file asks for.
        return torch.load(path, map_location="cpu", weights_only=True)


def name_of_placeholder(value: object) -> str | None:
    """Return which object or class `value` stands for, None if it is no placeholder."""
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}" if issubclass(kind, _Placeholder) else None


def _is_harmful(name: str) -> bool:
    return name in _HARMFUL or name.partition(".")[0] in _HARMFUL


def _unknown_names(path: Path) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (ValueError, pickle.UnpicklingError):
        return []  # not of the present format: it must do without


def _stand_in(full_name: str) -> type[_Placeholder]:
    module, _, name = full_name.rpartition(".")
    return type(name, (_Placeholder,), {"__module__": module, "__qualname__": name})
