"""Methods with their options and numbers of trainable parameters, in comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from napari_peftsam.app.choice import choose_method
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import Architecture, pick_device
from napari_peftsam.peft import (
    METHODS,
    MethodConfig,
    ParameterCounts,
    count_parameters,
)

__all__ = ["MethodOverview", "compare_methods"]


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
        Name → value, as JSON has them.
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

    Raises
    ------
    ConfigurationError
        If the method is unknown or its options do not fit; without a name, if an option or
        its value fits no method.
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
