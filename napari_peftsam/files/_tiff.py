"""Reader of TIFF files by tifffile: OME-TIFF, ImageJ, and plain ones."""

from __future__ import annotations

import logging
import struct
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_peftsam.errors import InputFileError, LabelError
from napari_peftsam.limits import check_claim, check_file, check_xml, parse_json, stored_bytes
from napari_peftsam.metadata import Channel, ReadOptions, plain_unit
from napari_peftsam.types import PixelArray

from ._arrange import RawImage
from ._claims import check_coded, check_tiff

_log = logging.getLogger(__name__)
# tifffile writes what it finds wrong with a file to the log; what matters is said by us.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_LOSSY = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.OJPEG)
_PERHAPS_LOSSY = (
    "JPEG2000", "APERIO_JP2000_RGB", "APERIO_JP2000_YCBC", "JPEGXL", "JPEGXL_DNG", "JPEGXR",
    "JPEGXR_NDPI", "WEBP", "PNG_LOSSY",
)  # fmt: skip
_MOST_PLANES = 10**6
_TABLE_ENTRY = 4  # bytes of the position and length of a strip or tile, at least
_LARGEST_PLAUSIBLE = 100.0  # micrometers; larger "pixels per centimetre" are of a printer


def read_tiff(path: Path, options: ReadOptions, *, labels: bool, above: float) -> RawImage:
    """Open a series of a TIFF, which is read at once if it has at most `above` bytes.

    Parameters
    ----------
    path
        The file.
    options
        Which series, and what to do with sets of files.
    labels
        Read numbers: those of a palette instead of its colours, and not the brightness that
        they stand for.
    above
        Files with more bytes of pixels are read when they are used.
    """
    check_tiff(path)
    with ExitStack() as stack:
        tiff = stack.enter_context(tifffile.TiffFile(path))
        check_xml(tiff.pages.first.description, path)
        _check_complete(tiff, path)
        _check_planes(tiff, path)
        number, series = _choose(tiff, path, options)
        _tell_doubts(tiff, series, path)
        if labels and series.keyframe.compression in _LOSSY:
            raise LabelError(
                f"{path}: JPEG compression changes label numbers: save the labels without loss"
            )
        method = getattr(series.keyframe.compression, "name", "")
        if labels and method in _PERHAPS_LOSSY:
            problem = "may have changed label numbers: save labels without loss"
            _log.warning("%s: %s %s", path, method, problem)
        stored = _check_segments(series, path)
        _check_when_decoded(series, path)
        own = _check_members(tiff, series, path, options)
        lazily = series.nbytes > above and not own and not _is_converted(series, labels, tiff)
        if own:
            array, axes = own
        elif lazily:
            import zarr

            levels = [zarr.open(level.aszarr(), mode="r") for level in series.levels]
            stack.pop_all()  # the file stays open for as long as the arrays are used
            weakref.finalize(levels[0], tiff.close)
            return RawImage(levels[0], series.axes, _scales(tiff, series, number),
                            _channels(tiff, series, number), tuple(levels[1:]))  # fmt: skip
        else:
            check_claim(series.nbytes, stored, path)
            array, axes = np.asarray(series.asarray()), series.axes
            array = array.astype(array.dtype.newbyteorder("="), copy=False)
        array, axes = _meaning(tiff, series.keyframe, array, axes, labels)
        return RawImage(array, axes, _scales(tiff, series, number),
                        _channels(tiff, series, number))  # fmt: skip


def _choose(
    tiff: tifffile.TiffFile, path: Path, options: ReadOptions
) -> tuple[int, tifffile.TiffPageSeries]:
    count = len(tiff.series)
    number = options.series or 0
    if not 0 <= number < count:
        raise InputFileError(f"{path}: there is no image {number}, it holds {count}")
    if count > 1 and options.series is None:
        _log.warning("%s holds %d images, only the first is read", path, count)
    return number, tiff.series[number]


def _check_complete(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise if the chain of pages breaks off: tifffile would return fewer planes."""
    last, layout, file = tiff.pages[-1], tiff.tiff, tiff.filehandle
    file.seek(last.offset)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(last.offset + layout.tagnosize + tags * layout.tagsize)
    following = file.read(layout.offsetsize)
    if following.strip(b"\0") or len(following) < layout.offsetsize:
        raise InputFileError(
            f"{path}: the file breaks off after {len(tiff.pages)} pages; copy or save it again"
        )


def _check_planes(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise if OME metadata claims more planes than tifffile could list, or files it cannot."""
    for name in _member_names(tiff) if tiff.is_ome else ():
        if (member := path.parent / name).exists():
            check_tiff(member)
    if tiff.is_micromanager:  # tifffile opens others of the folder
        for each in path.parent.iterdir():
            if each.suffix.lower() in (".tif", ".index") and each.exists():
                check_file(each)
    planes = _claimed_planes(tiff) if tiff.is_ome else 0
    if planes > _MOST_PLANES:
        raise InputFileError(f"{path}: claims {planes:,} planes, which no image has")


def _claimed_planes(tiff: tifffile.TiffFile) -> int:
    """Return how many planes tifffile would list for all images of the OME metadata."""
    claimed = listed = 0
    for pixels in _find(_ome(tiff), "Pixels"):
        planes, sides = (
            abs(prod(int(pixels.get(f"Size{axis}", 1)) for axis in axes)) for axes in ("ZCT", "XY")
        )
        parts = _find(pixels, "TiffData")
        first = int(parts[0].get("IFD", 0)) if parts else 0  # the page that tifffile divides by
        page = tiff.pages[first] if 0 <= first < len(tiff.pages) else tiff.pages.first
        claimed += max(planes, planes * sides // max(page.size, 1))
        for part in parts:
            number = part.get("PlaneCount", part.get("NumPlanes", "IFD" in part.attrib))
            listed += abs(int(number)) or len(tiff.pages)
    for along in "ZCT":  # of axes within an axis tifffile lists the positions
        for each in _find(_ome(tiff), f"ModuloAlong{along}"):
            start, end, step = (float(each.get(key, 1)) for key in ("Start", "End", "Step"))
            if not step or not isfinite((end - start) / step):
                return _MOST_PLANES + 1
            listed += abs(int((end - start) / step))
    return max(claimed, listed)


def _tell_doubts(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
    """Warn where a description is no XML, or of more than there is: the pixels may be right."""
    claimed = (tiff.imagej_metadata or {}).get("images", 1) if tiff.is_imagej else 1
    planes = series.size // max(series.keyframe.size, 1)
    if isinstance(claimed, int) and claimed > max(planes, 1):
        _log.warning("%s: says that it holds %s images, but holds %d", path, f"{claimed:,}", planes)
    if tiff.is_ome and not len(_ome(tiff)):
        _log.warning("%s: its OME metadata cannot be read and is left out", path)


def _check_segments(series: tifffile.TiffPageSeries, path: Path) -> int:
    """Check the claims of a strip or tile, and return the bytes that the series has on disk."""
    page, stored = series.keyframe, stored_bytes(path)
    segments = prod(page.chunked)
    if segments * _TABLE_ENTRY > path.stat().st_size:
        raise InputFileError(f"{path}: claims {segments:,} parts, for which the file is too short")
    if page.compression != tifffile.COMPRESSION.NONE and page.dtype is not None:
        check_claim(prod(page.chunks) * page.dtype.itemsize, stored, f"a part of {path}")
    return series.nbytes if series.is_multifile else stored


def _check_when_decoded(series: tifffile.TiffPageSeries, path: Path) -> None:
    """Make tifffile raise `InputFileError` for a strip or tile that is larger than its page says.

    That is known when the part is read, be it at once or when its pixels are used.
    """
    none = tifffile.COMPRESSION.NONE
    coded = [level for level in series.levels if level.keyframe.compression != none]
    pages = [page.keyframe for level in coded for page in level.pages if page is not None]
    for page in {id(page): page for page in pages if page is not None}.values():
        page.__dict__["decode"] = partial(_decode, page.decode, prod(page.chunks), path)


def _decode(decode: Any, pixels: int, path: Path, data: Any, *args: Any, **options: Any) -> Any:
    if data is not None:
        check_coded((options.get("jpegheader") or b"") + bytes(data), pixels, path)
    return decode(data, *args, **options)


# --- sets of files ------------------------------------------------------------------


def _check_members(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path, options: ReadOptions
) -> tuple[PixelArray, str] | None:
    """Return the file's own planes if they are asked for; raise if other files are missing."""
    if not (tiff.is_ome and series.is_multifile):
        return None
    names = _member_names(tiff)
    missing = [name for name in names if not path.with_name(Path(name).name).exists()]
    if missing and not options.allow_missing:
        raise InputFileError(
            f"{path}: belongs to a set of {len(names)} files, of which {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: copy the whole set, or read the "
            "rest with --allow-missing"
        )
    if missing:
        _log.warning("%s: planes of missing files are zero: %s", path, ", ".join(missing))
    return _own_planes(tiff, series) if options.own_planes else None


def _member_names(tiff: tifffile.TiffFile) -> list[str]:
    return sorted({str(e.get("FileName")) for e in _find(_ome(tiff), "UUID") if e.get("FileName")})


def _own_planes(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> tuple[PixelArray, str] | None:
    """Return the planes of a set that one of its files holds; None if they form no block."""
    plane_axes = len(series.keyframe.shape)
    leading, axes = series.shape[:-plane_axes], series.axes
    own = {i: p for i, p in enumerate(series.pages) if p is not None and p.parent is tiff}
    if not own or prod(leading) != len(series.pages):
        return None
    at = np.array(np.unravel_index(sorted(own), leading))
    sizes = tuple(len(np.unique(row)) for row in at)
    if prod(sizes) != len(own):
        return None
    planes = [own[i].asarray() for i in sorted(own)]
    return np.stack(planes).reshape(*sizes, *planes[0].shape), axes


# --- pixels -------------------------------------------------------------------------


def _is_converted(series: tifffile.TiffPageSeries, labels: bool, tiff: tifffile.TiffFile) -> bool:
    page = series.keyframe
    is_inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    is_premultiplied = tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples
    is_foreign = page.photometric in _FOREIGN
    is_converted = is_inverted or is_premultiplied or is_foreign or _has_colours(page, tiff)
    return not labels and is_converted


def _has_colours(page: Any, tiff: tifffile.TiffFile) -> bool:
    """Return True for a palette of colours; ImageJ stores how grey values are shown as one."""
    is_palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None
    return bool(is_palette and not tiff.is_imagej)


def _meaning(
    tiff: tifffile.TiffFile, page: Any, array: PixelArray, axes: str, labels: bool
) -> tuple[PixelArray, str]:
    """Convert stored values to what they mean: colours of a palette, brightness, alpha."""
    extra = page.extrasamples
    alphas = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
    colours = 3 if page.photometric in _COLOURED else 1
    if "S" in axes and any(each not in alphas for each in extra):
        # Samples that are neither colour nor alpha are channels.
        axes = axes.replace("S", "C")
    elif "S" in axes and colours == 1 and not extra:
        axes = axes.replace("S", "C")
    if labels:
        return array, axes
    if _has_colours(page, tiff):
        return np.moveaxis(page.colormap[:, array], 0, -1), axes + "S"
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        array = _inverted(array, page.bitspersample)
    if page.photometric == tifffile.PHOTOMETRIC.SEPARATED and "S" in axes:
        array = _from_inks(array, axes.index("S"))
    elif page.photometric in (tifffile.PHOTOMETRIC.CIELAB, tifffile.PHOTOMETRIC.ICCLAB):
        raise InputFileError("the colours are in CIELAB: save them as RGB")
    if "S" in axes and tifffile.EXTRASAMPLE.ASSOCALPHA in extra:
        array = _without_alpha(array, axes.index("S"))
    return array, axes


_FOREIGN = (
    tifffile.PHOTOMETRIC.SEPARATED, tifffile.PHOTOMETRIC.CIELAB, tifffile.PHOTOMETRIC.ICCLAB,
)  # fmt: skip
_COLOURED = (
    tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR, tifffile.PHOTOMETRIC.CIELAB,
    tifffile.PHOTOMETRIC.ICCLAB, tifffile.PHOTOMETRIC.SEPARATED,
)  # fmt: skip


_INKS = 4


def _inverted(array: PixelArray, bits: int) -> PixelArray:
    if array.dtype.kind == "b":
        return ~array
    if array.dtype.kind == "u":
        return np.asarray((2**bits - 1) - array, array.dtype)
    return np.asarray(array.max() - array, array.dtype)


def _from_inks(array: PixelArray, at: int) -> PixelArray:
    """Return red, green and blue of cyan, magenta, yellow and black."""
    if array.shape[at] != _INKS or array.dtype.kind != "u":
        raise InputFileError(f"expected four inks, got {array.shape[at]}: save the image as RGB")
    top = float(np.iinfo(array.dtype).max)
    inks = np.moveaxis(array, at, -1).astype(np.float64)
    colours = (top - inks[..., :3]) * (top - inks[..., 3:]) / top
    return np.asarray(np.rint(np.moveaxis(colours, -1, at)), array.dtype)


def _without_alpha(array: PixelArray, at: int) -> PixelArray:
    """Divide colours by the alpha that they were multiplied by, in place of which they stay."""
    alpha = np.take(array, [-1], at).astype(np.float64)
    top = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
    colours = np.divide(array * top, alpha, out=np.zeros(array.shape), where=alpha > 0)
    colours = np.clip(colours, 0, top)
    if array.dtype.kind != "f":
        colours = np.rint(colours)
    return np.asarray(np.delete(colours, -1, at), array.dtype)


# --- metadata -----------------------------------------------------------------------


def _scales(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, number: int
) -> Mapping[str, tuple[float, str]]:
    if tiff.is_ome:
        pixels = _pixels_of(tiff, number)
        sizes: dict[str, tuple[Any, Any]] = {}
        for letter in "XYZ":
            name = f"PhysicalSize{letter}"
            sizes[letter] = pixels.get(name), pixels.get(f"{name}Unit", "µm")
        sizes["T"] = pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s")
        return _known(sizes)
    if not tiff.is_imagej:
        return _resolution(series.keyframe)
    details = tiff.imagej_metadata or {}
    unit = plain_unit(details.get("unit", ""))
    pixel = _per_pixel(series.keyframe) if unit not in ("", "inch") else {}  # a printer's
    found: dict[str, tuple[Any, Any]] = {letter: (size, unit) for letter, size in pixel.items()}
    found["Z"] = details.get("spacing"), unit
    found["T"] = details.get("finterval"), details.get("tunit", "s")
    return _known(found)


def _resolution(page: Any) -> dict[str, tuple[float, str]]:
    """Return the size of a pixel where tags give it in a plausible unit of a microscope."""
    tag = page.tags.get("ResolutionUnit")
    if tag is None or tag.value != tifffile.RESUNIT.CENTIMETER:
        return {}
    sizes = {letter: 1e4 * size for letter, size in _per_pixel(page).items()}
    plausible = {k: s for k, s in sizes.items() if s < _LARGEST_PLAUSIBLE}
    return {letter: (size, "micrometer") for letter, size in plausible.items()}


def _per_pixel(page: Any) -> dict[str, float]:
    """Return the length of a pixel in the unit of the resolution tags."""
    found = {}
    for letter in "XY":
        tag = page.tags.get(f"{letter}Resolution")
        if tag is not None and tag.value[0] > 0 and tag.value[1] > 0:
            found[letter] = tag.value[1] / tag.value[0]
    return found


def _known(sizes: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[float, str]]:
    """Return the sizes that are positive numbers."""
    found = {}
    for letter, (size, unit) in sizes.items():
        try:
            value = float(size)
        except (TypeError, ValueError):
            continue
        if 0 < value < float("inf"):
            found[letter] = value, plain_unit(unit)
    return found


def _channels(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, number: int
) -> tuple[Channel, ...]:
    if tiff.is_ome:
        return tuple(
            Channel(str(each.get("Name") or ""), _ome_colour(each.get("Color")))
            for each in _find(_pixels_of(tiff, number, whole=True), "Channel")
        )
    if tiff.is_imagej and "C" in series.axes:
        count = series.shape[series.axes.index("C")]
        labels = (tiff.imagej_metadata or {}).get("Labels") or []
        names = labels if len(labels) == count else [""] * count
        return tuple(Channel(str(name)) for name in names)
    return ()


def _ome_colour(colour: Any) -> str:
    """Return ``"RRGGBB"`` of a signed 32-bit RGBA number."""
    try:
        return f"{(int(colour) & 0xFFFFFFFF) >> 8:06X}"
    except (TypeError, ValueError):
        return ""


_PARSED: weakref.WeakKeyDictionary[tifffile.TiffFile, Any] = weakref.WeakKeyDictionary()


def _ome(tiff: tifffile.TiffFile) -> Any:
    import xml.etree.ElementTree as ET

    if tiff not in _PARSED:
        try:
            _PARSED[tiff] = ET.fromstring(tiff.ome_metadata or "<OME/>")  # no entities
        except ET.ParseError:
            _PARSED[tiff] = ET.Element("OME")
    return _PARSED[tiff]


def _pixels_of(tiff: tifffile.TiffFile, number: int, whole: bool = False) -> Any:
    found = _find(_ome(tiff), "Pixels")
    pixels = found[number] if number < len(found) else None
    if pixels is None:
        return _ome(tiff) if whole else {}
    return pixels if whole else pixels.attrib


def _find(element: Any, name: str) -> list[Any]:
    """Return the elements of a name, in whichever version of the OME namespace."""
    return (
        [each for each in element.iter() if each.tag.rpartition("}")[2] == name]
        if len(element)
        else []
    )


def tiff_provenance(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the records of objects that our export wrote into a TIFF."""
    check_tiff(path)
    with tifffile.TiffFile(path) as tiff:
        check_xml(tiff.pages.first.description, path)
        if tiff.is_ome:
            text = next(iter(_find(_ome(tiff), "Description"))).text
        else:
            text = (tiff.imagej_metadata or {})["Info"]
    return tuple(parse_json(text, path)["napari-peftsam"]["objects"])
