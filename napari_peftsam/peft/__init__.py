"""Parameter-efficient finetuning: methods, placement, injection, adapter files, merging."""

from napari_peftsam.peft._matrices import Matrices
from napari_peftsam.peft._protocol import ParameterHint, PeftMethod
from napari_peftsam.peft.adapter import Adapter, BaseIdentity, apply_adapter, capture
from napari_peftsam.peft.cobot import CobotLoraConfig
from napari_peftsam.peft.config import MethodConfig, PlacedConfig
from napari_peftsam.peft.counts import ParameterCounts, count_parameters
from napari_peftsam.peft.exchange import (
    EXCHANGE_FORMATS,
    Told,
    check_replaceable,
    export_hf_peft,
    import_adapter,
    restore_adapter,
)
from napari_peftsam.peft.frozen_encoder import FrozenEncoderConfig
from napari_peftsam.peft.inject import Injection, check_method, inject
from napari_peftsam.peft.io import (
    adapter_bytes,
    adapter_from_bytes,
    load_adapter,
    save_adapter,
)
from napari_peftsam.peft.lora import LoraConfig
from napari_peftsam.peft.merge import merge
from napari_peftsam.peft.placement import Placement, PlacementField
from napari_peftsam.peft.registry import (
    METHODS,
    MethodField,
    MethodInfo,
    OptionInfo,
    describe_methods,
    first_changed_block,
    parse_method_config,
    with_cobot,
)
from napari_peftsam.peft.switch import AdapterSwitch

__all__ = [
    "EXCHANGE_FORMATS",
    "METHODS",
    "Adapter",
    "AdapterSwitch",
    "BaseIdentity",
    "CobotLoraConfig",
    "FrozenEncoderConfig",
    "Injection",
    "LoraConfig",
    "Matrices",
    "MethodConfig",
    "MethodField",
    "MethodInfo",
    "OptionInfo",
    "ParameterCounts",
    "ParameterHint",
    "PeftMethod",
    "PlacedConfig",
    "Placement",
    "PlacementField",
    "Told",
    "adapter_bytes",
    "adapter_from_bytes",
    "apply_adapter",
    "capture",
    "check_method",
    "check_replaceable",
    "count_parameters",
    "describe_methods",
    "export_hf_peft",
    "first_changed_block",
    "import_adapter",
    "inject",
    "load_adapter",
    "merge",
    "parse_method_config",
    "restore_adapter",
    "save_adapter",
    "with_cobot",
]
