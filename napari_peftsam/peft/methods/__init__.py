"""The finetuning methods by name. A new one is a class here and one line in `_ALL`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.peft.methods.adaptformer import ADAPTFORMER_METHODS
from napari_peftsam.peft.methods.fact import FactConfig
from napari_peftsam.peft.methods.lora import LORA_METHODS
from napari_peftsam.peft.methods.qlora import QLoraConfig
from napari_peftsam.peft.methods.selective import SELECTIVE_METHODS
from napari_peftsam.peft.methods.ssf import SsfConfig
from napari_peftsam.peft.protocol import MethodConfig

__all__ = [
    "METHODS",
    "MethodField",
    "parse_method_config",
    "with_cobot",
]

_ALL: tuple[type[MethodConfig], ...] = (
    *LORA_METHODS,
    QLoraConfig,
    FactConfig,
    SsfConfig,
    *ADAPTFORMER_METHODS,
    *SELECTIVE_METHODS,
)
METHODS: dict[str, type[MethodConfig]] = {
    method.model_fields["method"].default: method for method in _ALL
}


def with_cobot(name: str) -> str:
    """Return the method that is the one called `name` orchestrated by COBOT, or itself if it is.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    forms = {key: method.cobot for key, method in METHODS.items() if method.cobot}
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
    config = METHODS[name]
    try:
        return config.model_validate(dict(options))
    except ValidationError as error:
        problems = "; ".join(_explain(e, config) for e in error.errors(include_url=False))
        raise ConfigurationError(f"method {name}: {problems}") from None


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


def _coerce(value: Any) -> Any:
    return parse_method_config(value) if isinstance(value, Mapping) else value


MethodField = Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_coerce)]
"""Any method's configuration as a field of a pydantic model, read from a mapping too."""
