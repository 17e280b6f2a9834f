"""Promptable models: architectures, registry, safe loading, the way pixels enter them."""

from napari_peftsam.models.architecture import (
    ARCHITECTURES,
    Architecture,
    PlainVit,
    TinyVit,
    architecture,
)
from napari_peftsam.models.build import (
    DENSE_HEAD,
    build,
    build_random,
    build_tiny,
    find_architecture,
)
from napari_peftsam.models.checkpoint import decoder_state_dict, read_state_dict
from napari_peftsam.models.device import (
    DEVICES,
    PRECISIONS,
    autocast,
    device_memory,
    pick_device,
    pick_precision,
)
from napari_peftsam.models.download import DownloadProgress, download
from napari_peftsam.models.entry import ModelEntry, Part
from napari_peftsam.models.model import (
    SamModel,
    checkpoint_state,
    construct,
    encode_prefix,
    encode_steps,
    encode_suffix,
    encode_tensor,
    frame_of,
    hash_weights,
    network_state,
    standardise,
    to_model_input,
)
from napari_peftsam.models.parts import DenseHead
from napari_peftsam.models.recommendation import (
    IMAGE_KINDS,
    ImageKind,
    guess_image_kind,
    recommend,
)
from napari_peftsam.models.registry import REGISTRY, available_models, find_model, model_names

__all__ = [
    "ARCHITECTURES",
    "DENSE_HEAD",
    "DEVICES",
    "IMAGE_KINDS",
    "PRECISIONS",
    "REGISTRY",
    "Architecture",
    "DenseHead",
    "DownloadProgress",
    "ImageKind",
    "ModelEntry",
    "Part",
    "PlainVit",
    "SamModel",
    "TinyVit",
    "architecture",
    "autocast",
    "available_models",
    "build",
    "build_random",
    "build_tiny",
    "checkpoint_state",
    "construct",
    "decoder_state_dict",
    "device_memory",
    "download",
    "encode_prefix",
    "encode_steps",
    "encode_suffix",
    "encode_tensor",
    "find_architecture",
    "find_model",
    "frame_of",
    "guess_image_kind",
    "hash_weights",
    "model_names",
    "network_state",
    "pick_device",
    "pick_precision",
    "read_state_dict",
    "recommend",
    "standardise",
    "to_model_input",
]
