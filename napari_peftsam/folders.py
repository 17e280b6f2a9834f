"""Folders of the program's own files; torch-free, so that docks and commands start fast.

Each folder has one default, in the user's cache or configuration folder, and one
environment variable that overrides it where machines are shared or managed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import platformdirs

from napari_peftsam.errors import ConfigurationError

_PROGRAM = "napari-peftsam"
CONFIGURATION_VARIABLE = "NAPARI_PEFTSAM_CONFIG"
MODELS_VARIABLE = "NAPARI_PEFTSAM_MODELS"
PROJECTS_VARIABLE = "NAPARI_PEFTSAM_PROJECTS"


def embedding_folder() -> Path:
    """Return the folder of image embeddings."""
    return Path(platformdirs.user_cache_dir(_PROGRAM)) / "embeddings"


def scratch_folder() -> Path:
    """Return the folder of a run's temporary files, which are deleted when it ends."""
    return Path(platformdirs.user_cache_dir(_PROGRAM)) / "scratch"


def pretraining_folder() -> Path:
    """Return the run folder of the pretraining."""
    return Path(platformdirs.user_cache_dir(_PROGRAM)) / "pretraining"


def model_folder() -> Path:
    """Return the folder of downloaded models; ``NAPARI_PEFTSAM_MODELS`` overrides it."""
    return _overridden(MODELS_VARIABLE, Path(platformdirs.user_cache_dir(_PROGRAM)) / "models")


def project_folder() -> Path:
    """Return the folder of projects without a name; ``NAPARI_PEFTSAM_PROJECTS`` overrides it."""
    return _overridden(PROJECTS_VARIABLE, Path(platformdirs.user_data_dir(_PROGRAM)) / "projects")


def use_model_folder(folder: str | Path) -> None:
    """Keep models in another folder, in this process and in those it starts.

    Meant for the preference ``model_folder`` of napari: finetuning runs in a child
    process, which must find the model that is live here.
    """
    os.environ[MODELS_VARIABLE] = str(expanded(folder).absolute())


def configuration_folder() -> Path:
    """Return the folder of ``models.toml``; ``NAPARI_PEFTSAM_CONFIG`` overrides it."""
    return _overridden(CONFIGURATION_VARIABLE, Path(platformdirs.user_config_dir(_PROGRAM)))


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` replaced; `ConfigurationError` without such a user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(
            f"{path}: the home folder is not known: write the whole path"
        ) from error


def resolved(path: str | Path) -> Path:
    """Return the absolute path of what a path leads to; links in a circle stay as they are."""
    return Path(os.path.realpath(expanded(path)))  # `Path.resolve` raises before Python 3.13


def is_own(path: Path) -> bool:
    """Return True inside the program's own folders, which are for the user alone.

    What people place themselves, or share by a variable, follows their umask.
    """
    roots = (platformdirs.user_cache_dir, platformdirs.user_data_dir, platformdirs.user_config_dir)
    return any(path.is_relative_to(root(_PROGRAM)) for root in roots)


def create_folder(folder: Path) -> None:
    """Make a folder with its parents, for the user alone if it is the program's own."""
    for each in (*reversed(folder.parents), folder):
        if is_own(each):
            each.mkdir(mode=0o700, exist_ok=True, parents=True)
            with suppress(OSError):  # one that is from an earlier version, or somebody else's
                each.chmod(0o700)
    folder.mkdir(parents=True, exist_ok=True)


def _overridden(variable: str, default: Path) -> Path:
    chosen = os.environ.get(variable, "")
    return expanded(chosen) if chosen else default
