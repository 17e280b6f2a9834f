"""OME metadata of zarr groups, checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from napari_peftsam.errors import InputFileError
from napari_peftsam.limits import validated

Part = TypeVar("Part", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)


class OmeAxis(_Part):
    """An axis; before version 0.4 its name alone."""

    name: str
    type: str | None = None
    unit: str | None = None


class _Scaled(_Part):
    coordinateTransformations: list[dict[str, Any]] | None = None  # noqa: N815


class Dataset(_Scaled):
    """A resolution of an image."""

    path: str


class Multiscale(_Scaled):
    """An image, the highest resolution first; versions 0.1 and 0.2 name no axes."""

    datasets: list[Dataset] = Field(min_length=1, max_length=100)
    axes: list[Annotated[OmeAxis, BeforeValidator(
        lambda axis: {"name": axis} if isinstance(axis, str) else axis
    )]] | None = None  # fmt: skip


class _Place(_Part):
    path: str


class _Wells(_Part):
    wells: list[_Place] = []


class _Fields(_Part):
    images: list[_Place] = []


class OmeImage(_Part):
    """Metadata of an image."""

    multiscales: list[Multiscale] | None = None


class OmePlate(_Part):
    """Metadata of a plate with wells."""

    plate: _Wells | None = None


class OmeWell(_Part):
    """Metadata of a well with fields of view."""

    well: _Fields | None = None


class OmeLabels(_Part):
    """Metadata of a folder of label images."""

    labels: list[str] | None = None


def ome_attributes(group: Any) -> Mapping[str, Any]:
    """Return the OME metadata: below ``ome`` since version 0.5, at the top before."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, Mapping) else {}


def read_ome(group: Any, part: type[Part], path: Path) -> Part:
    """Return a part of a group's OME metadata; `InputFileError` if it is not as the format says."""
    return validated(part, ome_attributes(group), f"{path}: OME metadata", InputFileError)
