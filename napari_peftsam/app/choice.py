"""The user's choice of model and method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_peftsam.batch.plan import ModelSource
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import device_memory, find_architecture, find_model
from napari_peftsam.peft import (
    METHODS,
    CobotLoraConfig,
    MethodConfig,
    load_adapter,
    parse_method_config,
    with_cobot,
)
from napari_peftsam.training import RECIPES, Recipe, recipe

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace
    from napari_peftsam.document import Document
    from napari_peftsam.embeddings import EmbeddingStore

__all__ = ["ModelChoice", "absolute_model", "choose_method", "choose_recipe"]


@dataclass(frozen=True)
class ModelChoice(ModelSource):
    """Choice of a model and its device, of which a workspace can be made."""

    def open(
        self, store: EmbeddingStore | None = None, document: Document | None = None
    ) -> Workspace:
        """Return a workspace with the model and its adapter live; slow.

        Parameters
        ----------
        store
            Where embeddings are kept; None keeps the latest in memory.
        document
            What the workspace is for; default: an empty one. The adapters that it holds for
            the model are there, and without `adapter` its live one is live.

        Raises
        ------
        ConfigurationError, CheckpointError, InputFileError, AdapterMismatchError
            See `Workspace.load_model` and `Workspace.load_adapter`.
        """
        from napari_peftsam.app.workspace import Workspace

        workspace = Workspace(document, store)
        workspace.load_model(absolute_model(self.model), self.device, self.precision)
        if self.adapter is not None:
            workspace.load_adapter(self.adapter)
        return workspace


def absolute_model(source: str | Path) -> str:
    """Return a model's name, or its path as it is understood in any folder."""
    path = Path(source).expanduser()
    is_path = path.is_file() and find_model(str(source)) is None
    return str(path.absolute() if is_path else source)


def choose_method(
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    start: Path | None = None,
    cobot: bool = False,
) -> MethodConfig:
    """Return the method to finetune with.

    Parameters
    ----------
    name
        As in `napari_peftsam.peft.METHODS`; default: that of `start`, else LoRA + COBOT.
    options
        Its options, only those that differ from the default; values may be texts.
    start
        Adapter file to go on from; its method and options are kept.
    cobot
        Take the method that is this one orchestrated by COBOT, see `with_cobot`.

    Raises
    ------
    ConfigurationError
        If the method or an option is unknown or out of range, or contradicts `start`, or
        COBOT cannot orchestrate the method.
    InputFileError, AdapterMismatchError
        If `start` cannot be read.
    """
    given = dict(options or {})
    before = load_adapter(start).config if start is not None else None
    if name is None:
        method = before.method if before is not None else CobotLoraConfig().method
    else:
        method = name.strip().lower().replace("_", "-")
        if method not in METHODS:
            known = ", ".join(METHODS)
            raise ConfigurationError(f"unknown method {name!r}: choose one of {known}")
    if cobot:
        method = with_cobot(method)
    wanted = {**given, "method": method}
    if before is None:
        return parse_method_config(wanted)
    if method == before.method:
        known_options = before.model_dump(mode="json") | wanted
        if parse_method_config(known_options) == before:
            return before
    was = ", ".join(f"{key} {getattr(before, key, 'none')}" for key in wanted)
    asked = ", ".join(f"{key} {value}" for key, value in wanted.items())
    raise ConfigurationError(
        f"{start} was trained with {was}, but {asked} is asked for: leave these options out to go "
        "on from it, or start without it"
    )


def choose_recipe(name: str, choice: ModelChoice) -> Recipe:
    """Return a recipe for a model on its device, see `napari_peftsam.training.recipe`.

    Raises
    ------
    ConfigurationError, CheckpointError
        If there is no such recipe, model or device, or the model cannot be read.
    """
    name = name.strip().lower().replace("_", "-")
    fixed = RECIPES.get(name)
    if fixed is not None:
        return fixed
    return recipe(name, find_architecture(choice.model), device_memory(choice.device))
