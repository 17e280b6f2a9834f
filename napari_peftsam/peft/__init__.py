"""Parameter-efficient finetuning: methods, placement, injection, adapter files, merging."""

from napari_peftsam.peft.adapter import (
    Adapter,
    BaseIdentity,
    adapter_bytes,
    adapter_from_bytes,
    apply_adapter,
    capture,
    load_adapter,
    save_adapter,
)
from napari_peftsam.peft.exchange import (
    EXCHANGE_FORMATS,
    ExpectedAdapter,
    check_replaceable,
    export_hf_peft,
    import_adapter,
    restore_adapter,
)
from napari_peftsam.peft.inject import (
    Injection,
    ParameterCounts,
    check_method,
    count_parameters,
    inject,
)
from napari_peftsam.peft.merge import merge
from napari_peftsam.peft.methods import (
    METHODS,
    MethodField,
    first_changed_block,
    parse_method_config,
    with_cobot,
)
from napari_peftsam.peft.methods.lora import CobotLoraConfig, LoraConfig
from napari_peftsam.peft.methods.selective import FrozenEncoderConfig
from napari_peftsam.peft.placement import Placement
from napari_peftsam.peft.protocol import MethodConfig, PlacedConfig
from napari_peftsam.peft.switch import AdapterSwitch

__all__ = [
    "EXCHANGE_FORMATS",
    "METHODS",
    "Adapter",
    "AdapterSwitch",
    "BaseIdentity",
    "CobotLoraConfig",
    "ExpectedAdapter",
    "FrozenEncoderConfig",
    "Injection",
    "LoraConfig",
    "MethodConfig",
    "MethodField",
    "ParameterCounts",
    "PlacedConfig",
    "Placement",
    "adapter_bytes",
    "adapter_from_bytes",
    "apply_adapter",
    "capture",
    "check_method",
    "check_replaceable",
    "count_parameters",
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
