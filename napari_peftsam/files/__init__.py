"""Images and labels on disk: reading, pairing folders, writing without half-written files."""

from __future__ import annotations

from ._atomic import atomic_path
from ._centres import read_centres
from ._objects import OBJECT_SUFFIXES, LabelFile, holds_objects, read_objects
from ._pairs import (
    ImagePair,
    check_pair,
    check_shapes,
    find_images,
    list_images,
    pair_folders,
    pair_prompts,
    split_pieces,
)
from ._read import (
    FILE_KINDS,
    IMAGE_SUFFIXES,
    ImageFile,
    image_name,
    image_shape,
    open_image,
    open_labels,
    read_image,
    read_labels,
    read_provenance,
)
from ._zarr import is_zarr, list_fields, settle_zarr

__all__ = [
    "FILE_KINDS",
    "IMAGE_SUFFIXES",
    "OBJECT_SUFFIXES",
    "ImageFile",
    "ImagePair",
    "LabelFile",
    "atomic_path",
    "check_pair",
    "check_shapes",
    "find_images",
    "holds_objects",
    "image_name",
    "image_shape",
    "is_zarr",
    "list_fields",
    "list_images",
    "open_image",
    "open_labels",
    "pair_folders",
    "pair_prompts",
    "read_centres",
    "read_image",
    "read_labels",
    "read_objects",
    "read_provenance",
    "settle_zarr",
    "split_pieces",
]
