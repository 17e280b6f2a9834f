"""Write the table of export formats in formats.md; the words around it are the page's own.

Run it with ``make formats-page``. A test compares the page with what this writes.
"""

from __future__ import annotations

from pathlib import Path

from _tables import filled as filled_page
from _tables import table

from napari_peftsam.export import FORMATS

PAGE = Path(__file__).parent / "formats.md"
_ZARR = (
    (
        "t, z; pixel size, unit, interval; provenance; the image itself; a label image for each "
        "class. To an image of another "
        "program a label image is added"
    ),
    "zarr, ome-zarr",
)
_HOLDS = {
    "tiff": (
        (
            "t, z; pixel size, unit, interval; provenance; where classes overlap, a file for each "
            "beside it. 16 bits for ImageJ; OME-TIFF for "
            "`.ome.tif` and above 65,535 objects"
        ),
        "tifffile",
    ),
    "ome-zarr": _ZARR,
    "ome-zarr-0.4": _ZARR,
    "coco": ("one image per plane; provenance; classes as categories", "pycocotools"),
    "yolo": (
        (
            "one image per plane, as 8-bit PNG; every fifth for validation; classes; holes and "
            "parts by lines of no width"
        ),
        "shapely, Pillow",
    ),
    "roi": ("position in z and t; several parts and holes as composites", "roifile, shapely"),
    "geojson": ("position in z and t; several parts and holes; score; classes", "shapely"),
    "cellpose": (
        (
            "planes of z (Cellpose reads no t beside z); objects are numbered without gaps; "
            "smaller objects on top where classes overlap"
        ),
        "numpy",
    ),
    "csv": (
        (
            "planes of t and z; pixels and unit; intensities of each channel; source, score, "
            "corrected, class"
        ),
        "scikit-image",
    ),
    "overlay": ("one plane", "Pillow"),
}
"""What each format holds beside the labels or outlines, and the packages that write it."""


def written() -> str:
    """Return the formats that are written."""
    return table(
        ("`--format`", "what", "ending", "holds", "written by"),
        "lllll",
        (
            (f"`{one.name}`", one.title, f"`{one.suffixes[0]}`", *_HOLDS[one.name])
            for one in FORMATS.values()
        ),
    )


def filled(page: str) -> str:
    """Return the page with its tables made anew."""
    return filled_page(page, {"written": written}, PAGE.name)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
