"""The user's choice of model and method, and all methods in comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_peftsam.batch.plan import ModelSource
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.folders import expanded
from napari_peftsam.models import (
    Architecture,
    device_memory,
    find_architecture,
    find_model,
    pick_device,
)
from napari_peftsam.peft import (
    METHODS,
    CobotLoraConfig,
    MethodConfig,
    ParameterCounts,
    count_parameters,
    load_adapter,
    parse_method_config,
    with_cobot,
)
from napari_peftsam.training import RECIPES, Recipe, recipe
from napari_peftsam.types import ModelReference

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace
    from napari_peftsam.document import Document
    from napari_peftsam.embeddings import EmbeddingStore


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
        """
        from napari_peftsam.app.workspace import Workspace

        workspace = Workspace(document, store)
        workspace.load_model(absolute_model(self.model), self.device, self.precision)
        if self.adapter is not None:
            workspace.load_adapter(self.adapter)
        return workspace


def absolute_model(source: str | Path) -> str:
    """Return a model's name, or its path as it is understood in any folder."""
    reference = ModelReference.parse(source)
    path = expanded(reference.source)
    is_path = path.is_file() and find_model(reference.source) is None
    return str(replace(reference, source=str(path.absolute())) if is_path else reference)


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
        As in `napari_peftsam.peft.METHODS`; default: that of `start`, else LoRA + COBOT, whose
        options are then meant.
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
    """Return a recipe for a model on its device, see `napari_peftsam.training.recipe`."""
    name = name.strip().lower().replace("_", "-")
    fixed = RECIPES.get(name)
    if fixed is not None:
        return fixed
    return recipe(name, find_architecture(choice.model), device_memory(choice.device))


# --- methods in comparison ----------------------------------------------------------------


@dataclass(frozen=True)
class MethodOverview:
    """A method with its options in effect and its parameters in an architecture.

    Attributes
    ----------
    method
        The class of its options, with its texts.
    unavailable
        Why it cannot be used on this computer's device; empty if it can.
    options
        Values by name, as JSON has them.
    counts
        Numbers of trainable parameters; None if there is a `problem`.
    problem
        The reason why it cannot be trained with these options in this architecture, or empty.
    """

    name: str
    method: type[MethodConfig]
    unavailable: str
    options: Mapping[str, Any]
    counts: ParameterCounts | None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a description of JSON values only."""
        return {
            "name": self.name,
            "title": self.method.title,
            "trainable_encoder_parameters": self.counts.encoder if self.counts else None,
            "trainable_parameters": self.counts.total if self.counts else None,
            "mergeable": self.method.mergeable,
            "options": dict(self.options),
            "description": self.method.description,
            "changes": self.method.changes,
            "use_when": self.method.use_when,
            "unavailable": self.unavailable or None,
            "problem": self.problem or None,
        }


def compare_methods(
    architecture: Architecture,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    cobot: bool = False,
) -> tuple[MethodOverview, ...]:
    """Return one method, or all of them, with the parameters they train in an architecture.

    Parameters
    ----------
    architecture
        Built without its weights.
    name
        The only method to return; None for all, in the order of the registry.
    options
        As for `choose_method`. Of several methods each takes those that it has; a value
        that only some of them allow is a `problem` of the others.
    cobot
        Orchestrate the method by COBOT; of all methods return those that are.
    """
    given = dict(options or {})
    if name is not None:
        config = choose_method(name, given, cobot=cobot)
        counts = count_parameters(architecture, config)
        return (_entry(config.method, _values(config), counts),)
    listed = {m.cobot for m in METHODS.values()} if cobot else METHODS.keys()
    entries = [_overview(key, given, architecture) for key in METHODS if key in listed]
    _check_every_option_fits_some(entries, given)
    return tuple(entries)


def _overview(method: str, given: Mapping[str, Any], architecture: Architecture) -> MethodOverview:
    defaults = _values(METHODS[method](method=method))
    own = {name: value for name, value in given.items() if name in defaults}
    try:
        config = choose_method(method, own)
        return _entry(method, _values(config), count_parameters(architecture, config))
    except ConfigurationError as error:
        return _entry(method, defaults | own, None, str(error))


def _entry(
    name: str, options: Mapping[str, Any], counts: ParameterCounts | None, problem: str = ""
) -> MethodOverview:
    method = METHODS[name]
    return MethodOverview(name, method, method.obstacle(pick_device()), options, counts, problem)


def _check_every_option_fits_some(entries: list[MethodOverview], given: Mapping[str, Any]) -> None:
    known = dict.fromkeys(name for entry in entries for name in entry.options)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ConfigurationError(
            f"no method has the option {unknown[0]!r}: there are {', '.join(known)}"
        )
    for name in given:
        concerned = [entry for entry in entries if name in entry.options]
        if all(entry.problem for entry in concerned):
            raise ConfigurationError(concerned[0].problem)


def _values(config: MethodConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"method"})
