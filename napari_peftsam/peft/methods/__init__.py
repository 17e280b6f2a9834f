"""The finetuning methods by name. A new one is a file here and one line in `_ALL`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.peft.methods.adaptformer import AdaptFormer, CobotAdaptFormer
from napari_peftsam.peft.methods.dora import Dora
from napari_peftsam.peft.methods.fact import Fact
from napari_peftsam.peft.methods.lora import CobotLora, Lora, RsLora
from napari_peftsam.peft.methods.pissa import Pissa
from napari_peftsam.peft.methods.qlora import QLora
from napari_peftsam.peft.methods.selective import SELECTIVE_METHODS
from napari_peftsam.peft.methods.ssf import Ssf
from napari_peftsam.peft.protocol import MethodConfig, PeftMethod

__all__ = [
    "METHODS",
    "MethodField",
    "MethodInfo",
    "OptionInfo",
    "describe_methods",
    "first_changed_block",
    "method_of",
    "parse_method_config",
    "with_cobot",
]

_ALL: tuple[PeftMethod[Any], ...] = (
    Lora(),
    CobotLora(),
    RsLora(),
    Dora(),
    Pissa(),
    QLora(),
    Fact(),
    Ssf(),
    AdaptFormer(),
    CobotAdaptFormer(),
    *SELECTIVE_METHODS,
)
METHODS: dict[str, PeftMethod[Any]] = {method.name: method for method in _ALL}


@dataclass(frozen=True)
class OptionInfo:
    """One option of a method, as forms and command lines show it.

    Attributes
    ----------
    default
        As JSON has it: a placement is its text.
    choices
        The only values allowed, empty if not enumerable.
    minimum
        The smallest value allowed, None without limit.
    above
        The value must be larger than this, None without limit.
    step
        The value must be divisible by this, None if any will do.
    """

    name: str
    title: str
    description: str
    default: str | float | bool
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    above: float | None = None
    step: float | None = None


@dataclass(frozen=True)
class MethodInfo:
    """One method, as lists in the interface show it; texts as in `PeftMethod`.

    Attributes
    ----------
    obstacle
        Why it cannot be used on this device; empty if it can.
    """

    name: str
    title: str
    description: str
    changes: str
    use_when: str
    mergeable: bool
    obstacle: str
    options: tuple[OptionInfo, ...]


def method_of(config: MethodConfig) -> PeftMethod[Any]:
    """Return the method that `config` configures."""
    return METHODS[config.method]


def describe_methods(device: str = "cpu") -> tuple[MethodInfo, ...]:
    """Return all methods with their options, in the order of the registry.

    `device` is a kind of torch device, see `napari_peftsam.models.pick_device`.
    """
    return tuple(
        MethodInfo(
            name=method.name,
            title=method.title,
            description=method.description,
            changes=method.changes,
            use_when=method.use_when,
            mergeable=method.mergeable,
            obstacle=method.obstacle(device),
            options=_options(method.config),
        )
        for method in METHODS.values()
    )


def first_changed_block(config: MethodConfig, depth: int) -> int:
    """Return the first encoder block whose output an adapter can change.

    Outputs before it are the same for every adapter of this configuration. `depth` means that the
    whole encoder stays as it is, -1 that the input of the blocks changes, too.
    """
    return method_of(config).first_changed_block(config, depth)


def with_cobot(name: str) -> str:
    """Return the method that is the one called `name` orchestrated by COBOT, or itself if it is.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    forms = {method.name: method.cobot for method in METHODS.values() if method.cobot}
    if name not in forms and name not in forms.values():
        raise ConfigurationError(
            f"method {name} cannot be combined with COBOT: choose one of {', '.join(forms)}"
        )
    return forms.get(name, name)


def parse_method_config(options: Mapping[str, Any]) -> MethodConfig:
    """Return the configuration that a mapping describes; ``method`` chooses its class.

    Raises
    ------
    ConfigurationError
        If the method or an option is unknown or a value is not allowed; one line
        naming the option, what was found and what is allowed.
    """
    name = options.get("method")
    if not isinstance(name, str) or name not in METHODS:
        known = ", ".join(METHODS)
        found = f"unknown method {name!r}" if "method" in options else "no method is given"
        raise ConfigurationError(f"{found}: choose one of {known}")
    config = METHODS[name].config
    try:
        parsed: MethodConfig = config.model_validate(dict(options))
    except ValidationError as error:
        problems = "; ".join(_explain(e, config) for e in error.errors(include_url=False))
        raise ConfigurationError(f"method {name}: {problems}") from None
    return parsed


def _explain(error: Mapping[str, Any], config: type[MethodConfig]) -> str:
    option = ".".join(str(part) for part in error["loc"])
    limits: dict[str, Any] = error.get("ctx", {})
    if not option:  # options that contradict each other
        return str(limits["error"])
    if error["type"] == "extra_forbidden":
        allowed = ", ".join(name for name in config.model_fields if name != "method")
        return f"unknown option {option!r}, allowed are {allowed}"
    limit = {
        "greater_than_equal": "at least {ge}",
        "greater_than": "more than {gt}",
        "less_than": "less than {lt}",
        "multiple_of": "a number divisible by {multiple_of}",
        "literal_error": "one of {expected}",
        "finite_number": "a finite number",
    }.get(error["type"])
    if limit is None:
        cause = str(limits["error"]) if "error" in limits else str(error["msg"])
        return f"option {option!r} is {error['input']!r}: {cause}"
    return f"option {option!r} is {error['input']!r}, allowed is {limit.format(**limits)}"


def _options(config: type[MethodConfig]) -> tuple[OptionInfo, ...]:
    schema = config.model_json_schema(mode="serialization")["properties"]
    return tuple(
        OptionInfo(
            name=name,
            title=str(field["title"]),
            description=str(field["description"]),
            default=field["default"],
            choices=tuple(field.get("enum", ())),
            minimum=field.get("minimum"),
            above=field.get("exclusiveMinimum"),
            step=field.get("multipleOf"),
        )
        for name, field in schema.items()
        if name != "method"
    )


def _coerce(value: Any) -> Any:
    return parse_method_config(value) if isinstance(value, Mapping) else value


MethodField = Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_coerce)]
"""Any method's configuration as a field of a pydantic model, read from a mapping too."""
