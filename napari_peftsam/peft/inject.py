"""Putting a method into a model, training access to it, and taking it out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from napari_peftsam.errors import AdapterMismatchError, ConfigurationError
from napari_peftsam.models import Architecture, SamModel
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import MethodConfig
from napari_peftsam.peft.registry import METHODS, method_of

__all__ = ["Injection", "check_method", "check_not_adapted", "inject", "operate"]

_MARK = "napari_peftsam_method"
_ENCODER = "image_encoder."


def inject(model: SamModel, config: MethodConfig) -> Injection:
    """Put a method into `model`, in place, and freeze everything it does not train.

    New weights are drawn from torch's CPU generator, so ``torch.manual_seed`` makes
    an injection repeatable on every device. Before any training the model goes on
    computing what the base computes.

    Raises
    ------
    ConfigurationError
        If the model is adapted already, the method does not suit its encoder or would
        change or train nothing, or an option does not fit the model (rank, placement).
    """
    surgery = operate(model, config)
    return Injection(model, config, surgery)


def operate(model: SamModel, config: MethodConfig) -> Surgery:
    """Do what `inject` does to the bare network; on failure nothing is changed."""
    sam, method = model.sam, method_of(config)
    check_not_adapted(sam)
    check_method(model.architecture, config)
    sam.requires_grad_(False)
    surgery = Surgery(sam)
    tuned = tuple(
        prefix
        for prefix, wanted in (
            ("mask_decoder.", config.tune_mask_decoder),
            ("prompt_encoder.", config.tune_prompt_encoder),
        )
        if wanted
    )
    try:
        method.install(surgery, config)
        if method.adapts_encoder and not surgery.changed:
            raise ConfigurationError(
                f"{method.title} found nothing to adapt in this encoder: choose another "
                "placement or method"
            )
        if tuned:
            surgery.tune(lambda path: path.startswith(tuned))
        if not surgery.changed:
            raise ConfigurationError(
                f"{method.title} with mask decoder and prompt encoder both fixed leaves "
                "nothing to train: let one of them be trained"
            )
    except BaseException:
        surgery.undo()
        raise
    setattr(sam, _MARK, method.title)
    return surgery


def check_method(architecture: Architecture, config: MethodConfig) -> None:
    """Raise `ConfigurationError` if a method adapts what the architecture does not have."""
    method = method_of(config)
    if method.adapts_encoder and not architecture.adaptable:
        names = " or ".join(m.name for m in METHODS.values() if not m.adapts_encoder)
        raise ConfigurationError(
            f"{method.title} is not available for {architecture.name}, into whose image encoder "
            f"no adapters fit: choose the method {names}, or another model"
        )


def check_not_adapted(sam: nn.Module) -> None:
    """Raise `ConfigurationError` if a method is injected already."""
    title = getattr(sam, _MARK, None)
    if title is not None:
        raise ConfigurationError(
            f"this model already carries an adapter ({title}): remove that injection "
            "first, or build the model anew"
        )


class Injection:
    """A method inside a model.

    As a context manager it is removed at the end. The names of its tensors start with
    ``encoder.`` or ``decoder.`` (mask decoder and prompt encoder); each tensor is there
    once.

    Attributes
    ----------
    model
        The model that was changed.
    config
        Method and options.
    """

    def __init__(self, model: SamModel, config: MethodConfig, surgery: Surgery) -> None:
        self.model = model
        self.config = config
        self._surgery = surgery
        # By path and not by `requires_grad`, which a training stage may switch.
        self._paths = {_public(n): n for n, p in model.sam.named_parameters() if p.requires_grad}
        self._active = True

    @property
    def active(self) -> bool:
        """Whether the method is still in the model."""
        return self._active

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the adapter's own parameters by public name.

        Raises
        ------
        ConfigurationError
            If the injection was removed.
        """
        if not self._active:
            raise ConfigurationError("this injection was removed: inject the method again")
        return {name: self.model.sam.get_parameter(path) for name, path in self._paths.items()}

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return torch optimiser groups (``name``, ``params``, ``lr``, ``weight_decay``)."""
        method = method_of(self.config)
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in self.trainable_parameters().items():
            hint = method.hint(name, self.config)
            group = groups.setdefault(
                hint.group,
                {
                    "name": hint.group,
                    "params": [],
                    "lr": lr * hint.lr_multiplier,
                    "weight_decay": weight_decay if hint.decay else 0.0,
                },
            )
            group["params"].append(parameter)
        return list(groups.values())

    def state(self) -> dict[str, Tensor]:
        """Return copies of the adapter's tensors on the CPU."""
        return {
            name: parameter.detach().to("cpu", copy=True).contiguous()
            for name, parameter in self.trainable_parameters().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite the adapter's tensors with `state`, which must name exactly these.

        Raises
        ------
        AdapterMismatchError
            If tensors are missing, unknown or of another shape; nothing is loaded then.
        """
        own = self.trainable_parameters()
        _check_same({k: v.shape for k, v in own.items()}, {k: v.shape for k, v in state.items()})
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def remove(self) -> None:
        """Restore the base model, bit for bit; its weights are left frozen."""
        if self._active:
            self._surgery.undo()
            delattr(self.model.sam, _MARK)
            self._active = False

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Compute with the base model inside the ``with`` block."""
        self._surgery.undo()
        title = getattr(self.model.sam, _MARK)
        delattr(self.model.sam, _MARK)
        try:
            yield
        finally:
            setattr(self.model.sam, _MARK, title)
            self._surgery.redo()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def _public(path: str) -> str:
    if path.startswith(_ENCODER):
        return "encoder." + path.removeprefix(_ENCODER)
    return f"decoder.{path}"


def _check_same(own: Mapping[str, torch.Size], given: Mapping[str, torch.Size]) -> None:
    problems = []
    for kind, names in (("missing", own.keys() - given), ("unknown", given.keys() - own)):
        if names:
            problems.append(f"{kind}: {_some(sorted(names))}")
    shapes = [
        f"{name} {tuple(given[name])} for {tuple(own[name])}"
        for name in own.keys() & given.keys()
        if given[name] != own[name]
    ]
    if shapes:
        problems.append(f"of another shape: {_some(sorted(shapes))}")
    if problems:
        raise AdapterMismatchError(
            f"the adapter's tensors do not fit its method and the model ({'; '.join(problems)}): "
            "use the model and version it was made with"
        )


def _some(names: list[str], shown: int = 3) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
