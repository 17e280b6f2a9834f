"""Injection of a method into a model, its training access and removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from napari_peftsam.errors import AdapterMismatchError, ConfigurationError
from napari_peftsam.models import Architecture, SamModel, construct
from napari_peftsam.peft.low_rank import LowRankUpdate, install_low_rank
from napari_peftsam.peft.methods import METHODS
from napari_peftsam.peft.placement import Target
from napari_peftsam.peft.protocol import MethodConfig, ParameterHint
from napari_peftsam.peft.surgery import Surgery

__all__ = ["Injection", "ParameterCounts", "check_method", "count_parameters", "inject"]

_MARK = "napari_peftsam_method"
_ENCODER = "image_encoder."
_TRANSFORMER = "mask_decoder.transformer"
_ADAPTED = (".q_proj", ".v_proj")


def inject(model: SamModel, config: MethodConfig, *, loading: bool = False) -> Injection:
    """Put a method into `model`, in place, and freeze everything it does not train.

    New weights are drawn from torch's CPU generator, so ``torch.manual_seed`` makes
    an injection repeatable on every device. Before any training the model goes on
    computing what the base computes, see `MethodConfig.starts_as_base`.

    Parameters
    ----------
    model
        It must carry no adapter.
    config
        Method and options.
    loading
        Whether the tensors of a trained adapter are loaded next, so that a costly start need
        not be computed; until then the model computes nothing sensible.

    Raises
    ------
    ConfigurationError
        If the model is adapted already, the method does not suit its encoder or would
        change or train nothing, or an option does not fit the model (rank, placement).
    """
    surgery = operate(model, config, loading=loading)
    surgery.park()
    return Injection(model, config, surgery)


def operate(
    model: SamModel, config: MethodConfig, *, loading: bool = False, running: bool = True
) -> Surgery:
    """Put a method into the bare network; on failure nothing is changed.

    Without `running`, the device need not be able to compute with the method.
    """
    sam = model.sam
    check_not_adapted(sam)
    check_method(model, config, running=running)
    trainable = [parameter for parameter in sam.parameters() if parameter.requires_grad]
    sam.requires_grad_(False)
    surgery = Surgery(sam, loading)
    try:
        config.install(surgery)
        if config.adapts_encoder and not surgery.changed:
            raise ConfigurationError(
                f"{config.title} found nothing to adapt in this encoder: choose another "
                "placement or method"
            )
        _install_decoder(surgery, config)
        if not surgery.changed:
            raise ConfigurationError(
                f"{config.title} with mask decoder and prompt encoder both fixed leaves "
                "nothing to train: let one of them be trained"
            )
    except BaseException:
        surgery.undo()
        for parameter in trainable:
            parameter.requires_grad_(True)
        raise
    setattr(sam, _MARK, config.title)
    return surgery


def check_method(model: SamModel, config: MethodConfig, *, running: bool = True) -> None:
    """Raise `ConfigurationError` if a method does not fit the model's network or device.

    Without `running`, the device need not be able to compute with the method.
    """
    architecture = model.architecture
    if config.adapts_encoder and not architecture.adaptable:
        names = " or ".join(name for name, m in METHODS.items() if not m.adapts_encoder)
        raise ConfigurationError(
            f"{config.title} is not available for {architecture.name}, into whose image encoder "
            f"no adapters fit: choose the method {names}, or another model"
        )
    # The device of the weights: to count parameters they are on torch's meta device.
    obstacle = config.obstacle(next(model.sam.parameters()).device.type)
    if running and obstacle:
        raise ConfigurationError(f"{config.title} {obstacle}")


def check_not_adapted(sam: nn.Module) -> None:
    """Raise `ConfigurationError` if a method is injected already."""
    title = getattr(sam, _MARK, None)
    if title is not None:
        raise ConfigurationError(
            f"this model already carries an adapter ({title}): remove that injection "
            "first, or build the model anew"
        )


def check_strength(strength: float) -> None:
    """Raise `ConfigurationError` unless it is within [0, 1]."""
    if not 0 <= strength <= 1:
        raise ConfigurationError(f"the strength {strength} is not within 0 and 1")


class Injection:
    """A method inside a model.

    As a context manager it is removed at the end. The names of its tensors start with
    ``encoder.`` or ``decoder.`` (mask decoder and prompt encoder); each tensor is there
    once.
    """

    def __init__(self, model: SamModel, config: MethodConfig, surgery: Surgery) -> None:
        self.model = model
        self.config = config
        self._surgery = surgery
        # Noted now, since a training stage may switch `requires_grad`.
        self._parameters = {
            public_name(n): p for n, p in model.sam.named_parameters() if p.requires_grad
        }
        self._constants = {public_name(n): b for n, b in surgery.constants.items()}
        self._strength = 1.0
        self._removed = False

    @property
    def strength(self) -> float:
        """Factor on the adapter's changes now; 0 if it is out of the model."""
        return self._strength

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the adapter's own parameters by public name."""
        if self._removed:
            raise ConfigurationError("this injection was removed: inject the method again")
        return dict(self._parameters)

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return torch optimiser groups (``name``, ``params``, ``lr``, ``weight_decay``).

        Raises
        ------
        ConfigurationError
            If the adapter is weakened: it would be trained to make up for that.
        """
        if self._strength != 1:
            raise ConfigurationError(
                f"an adapter is trained at strength 1, not at {self._strength:g}: set that first"
            )
        groups: dict[ParameterHint, dict[str, Any]] = {}
        for name, parameter in self.trainable_parameters().items():
            hint = self.config.hint(name)
            group = groups.setdefault(
                hint,
                {
                    "name": hint.group,
                    "params": [],
                    "lr": lr * hint.lr_multiplier if hint.rate is None else hint.rate,
                    "weight_decay": weight_decay if hint.decay else 0.0,
                },
            )
            group["params"].append(parameter)
        return list(groups.values())

    def state(self) -> dict[str, Tensor]:
        """Return copies of the adapter's tensors on the CPU, untrained constants included."""
        return {
            name: tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in self._tensors().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite the adapter's tensors with `state`, which must name exactly these.

        Raises
        ------
        AdapterMismatchError
            If tensors are missing, unknown or of another shape; nothing is loaded then.
        """
        own = self._tensors()
        _check_same({k: v.shape for k, v in own.items()}, {k: v.shape for k, v in state.items()})
        for name, tensor in own.items():
            if tensor.is_floating_point() != state[name].is_floating_point():
                raise AdapterMismatchError(
                    f"the adapter's {name} is {state[name].dtype}, not {tensor.dtype}: use the "
                    "version it was made with"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        if 0 < self._strength < 1:
            self.set_strength(self._strength)  # weakened copies are made anew

    @contextmanager
    def training(self) -> Iterator[None]:
        """Compute as in training inside the ``with`` block, dropout included.

        Outside, an adapter's outputs are repeatable, whatever the mode of the model.
        """
        self._surgery.train(True)
        try:
            yield
        finally:
            self._surgery.train(False)

    def set_strength(self, strength: float) -> None:
        """Weaken the adapter, or take it out for now.

        Parameters
        ----------
        strength
            Factor on all of its changes: 1 as trained, 0 the base model, bit for bit, into
            which another method may be injected then. Training is for 1 only.

        Raises
        ------
        ConfigurationError
            If it is not within [0, 1], the method's update cannot be weakened, the injection
            was removed, or the model carries another adapter by now.
        """
        self.trainable_parameters()
        check_strength(strength)
        if 0 < strength < 1 and not self.config.scalable:
            raise ConfigurationError(
                f"{self.config.title} is not linear in its update and cannot be weakened: "
                "use strength 0 or 1"
            )
        self._take_out()
        if strength > 0:
            check_not_adapted(self.model.sam)
            self._surgery.redo(strength)
            setattr(self.model.sam, _MARK, self.config.title)
        self._strength = strength

    def remove(self) -> None:
        """Restore the base model, bit for bit; its weights are left frozen."""
        self._take_out()
        self._removed = True

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Compute with the base model inside the ``with`` block."""
        strength = self._strength
        self.set_strength(0)
        try:
            yield
        finally:
            self.set_strength(strength)

    def _tensors(self) -> dict[str, Tensor]:
        return {**self.trainable_parameters(), **self._constants}

    def _take_out(self) -> None:
        if self._strength > 0:
            self._surgery.undo()
            delattr(self.model.sam, _MARK)
            self._strength = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def decoder_layers(sam: nn.Module) -> tuple[str, ...]:
    """Return the paths of the layers in the mask decoder that LoRA acts on."""
    layers = sam.get_submodule(_TRANSFORMER).named_modules()
    return tuple(f"{_TRANSFORMER}.{name}" for name, _ in layers if name.endswith(_ADAPTED))


def _install_decoder(surgery: Surgery, config: MethodConfig) -> None:
    """Tune decoder and prompt encoder, or add LoRA to q and v of the decoder's attention."""
    whole = tuple(
        prefix
        for prefix, wanted in (
            ("mask_decoder.", config.tune_mask_decoder and not config.decoder_lora_rank),
            ("prompt_encoder.", config.tune_prompt_encoder),
        )
        if wanted
    )
    if config.decoder_lora_rank:
        install_low_rank(
            surgery,
            [Target(path, "all") for path in decoder_layers(surgery.root)],
            config.decoder_lora_rank,
            lambda site: LowRankUpdate(site.shape, config.decoder_lora_rank, 1.0),
        )
    if whole:
        surgery.tune(lambda path: path.startswith(whole))


def public_name(path: str) -> str:
    """Return the name in adapters of a tensor of the network, see `Injection`."""
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


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of trainable parameters.

    Attributes
    ----------
    encoder
        In the image encoder.
    total
        Together with the mask decoder and prompt encoder, where these are trained.
    """

    encoder: int
    total: int


def count_parameters(architecture: Architecture, config: MethodConfig) -> ParameterCounts:
    """Count the trainable parameters by an injection on torch's meta device (no memory)."""
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            sam = construct(architecture)
        injection = inject(SamModel(architecture.name, architecture, sam, ""), config)
    sizes = {name: p.numel() for name, p in injection.trainable_parameters().items()}
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder."))
    return ParameterCounts(encoder, sum(sizes.values()))
