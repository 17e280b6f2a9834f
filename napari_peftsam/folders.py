"""Folders of the program's own files; torch-free, so that docks and commands start fast.

Each folder has one default, in the user's cache or configuration folder, and one
environment variable that overrides it where machines are shared or managed.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

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
    os.environ[MODELS_VARIABLE] = str(Path(folder).expanduser().absolute())


def configuration_folder() -> Path:
    """Return the folder of ``models.toml``; ``NAPARI_PEFTSAM_CONFIG`` overrides it."""
    return _overridden(CONFIGURATION_VARIABLE, Path(platformdirs.user_config_dir(_PROGRAM)))


def _overridden(variable: str, default: Path) -> Path:
    chosen = os.environ.get(variable, "")
    return Path(chosen).expanduser() if chosen else default
