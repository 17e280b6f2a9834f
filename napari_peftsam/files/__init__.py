"""Images and labels on disk: reading, pairing folders, writing without half-written files."""

from __future__ import annotations

from ._atomic import atomic_path
from ._pairs import ImagePair, check_pair, check_shapes, pair_folders
from ._read import IMAGE_SUFFIXES, check_labels, image_name, open_image, read_image, read_labels

__all__ = [
    "IMAGE_SUFFIXES",
    "ImagePair",
    "atomic_path",
    "check_labels",
    "check_pair",
    "check_shapes",
    "image_name",
    "open_image",
    "pair_folders",
    "read_image",
    "read_labels",
]
