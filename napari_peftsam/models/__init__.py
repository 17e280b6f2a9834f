"""Promptable models: architectures, registry, safe loading, the way pixels enter them."""

from napari_peftsam.models.architecture import ARCHITECTURES, Architecture, architecture
from napari_peftsam.models.build import build, build_random, build_tiny, read_state_dict
from napari_peftsam.models.device import DEVICES, autocast, pick_device
from napari_peftsam.models.model import (
    SamModel,
    construct,
    encode_crop,
    encode_steps,
    encode_tensor,
    hash_weights,
)
from napari_peftsam.models.parts import ConvStem, DenseHead, PromptDrawing
from napari_peftsam.models.preprocess import frame_of, standardise, to_model_input
from napari_peftsam.models.registry import REGISTRY, ModelEntry, available_models, model_names

__all__ = [
    "ARCHITECTURES",
    "DEVICES",
    "REGISTRY",
    "Architecture",
    "ConvStem",
    "DenseHead",
    "ModelEntry",
    "PromptDrawing",
    "SamModel",
    "architecture",
    "autocast",
    "available_models",
    "build",
    "build_random",
    "build_tiny",
    "construct",
    "encode_crop",
    "encode_steps",
    "encode_tensor",
    "frame_of",
    "hash_weights",
    "model_names",
    "pick_device",
    "read_state_dict",
    "standardise",
    "to_model_input",
]
