"""Prompts in large images: which tiles are needed, and what comes of their answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.embeddings import (
    Embedding,
    Encoded,
    EncodeRequest,
    Tile,
    TiledImage,
    TileGrid,
    encode,
    tiled_image,
)
from napari_peftsam.errors import PromptError
from napari_peftsam.models import SamModel, build
from napari_peftsam.segmentation import MOST_TILES, Predictor, predict_in_tiles
from napari_peftsam.segmentation.tiled import Mosaic, lattice
from napari_peftsam.types import BoolArray, Box, MaskPrompt, Point, Prediction, Prompts, Window
from tests.segmentation._slides import Ellipse, Slide

SIDE = 20_000
GOOD = 0.88  # IoU that the built-in model reaches on these objects where one tile holds them


@pytest.fixture(scope="module")
def builtin() -> SamModel:
    return build("builtin")


class Bench:
    """A slide with a model, and the tiles that were encoded for its prompts, in order."""

    def __init__(self, model: SamModel, slide: Slide, image: TiledImage | None = None) -> None:
        self.model, self.slide = model, slide
        self.image: TiledImage = image or tiled_image("slide", slide, model)
        self.grid: TileGrid = self.image.grid
        self.encoded: list[tuple[int, int]] = []
        self._known: dict[Tile, Embedding] = {}

    def embedding(self, tile: Tile) -> Embedding:
        if tile not in self._known:
            self.encoded.append((tile.row, tile.col))
            request = self.image.request(tile)
            [self._known[tile]] = [
                e.embedding for e in encode(self.model, [request]) if isinstance(e, Encoded)
            ]
        return self._known[tile]

    def predict(self, prompts: Prompts, earlier: MaskPrompt | None = None) -> Prediction:
        work = predict_in_tiles(Predictor(self.model), self.grid, prompts, earlier)
        wanted = next(work)
        while True:
            try:
                wanted = work.send(self.embedding(wanted.tile))
            except StopIteration as done:
                found: Prediction = done.value
                return found

    def iou(self, prediction: Prediction, number: int, choice: int = 0) -> float:
        r, c, a, b = self.slide.ellipses[number]
        own = Window(int(r - a) - 1, int(c - b) - 1, int(2 * a) + 3, int(2 * b) + 3)
        window = prediction.window | own
        found = placed(prediction, choice, window)
        truth = self.slide.mask(number, window)
        return float((found & truth).sum() / (found | truth).sum())


def placed(prediction: Prediction, choice: int, window: Window) -> BoolArray:
    """Return a candidate in a window that holds it."""
    found = np.zeros(window.shape, np.bool_)
    found[prediction.window.seen_from(window).slices] = prediction.masks[choice]
    return found


def around(ellipse: Ellipse) -> Prompts:
    r, c, a, b = ellipse
    return Prompts(box=Box(r - a, c - b, r + a + 1, c + b + 1))


# Places in the built-in model's grid over 20,000 pixels: tiles of 384 with a halo of 48.
GRID = TileGrid(SIDE, SIDE, 384, 48, 2)
CORNER = GRID.tile(30, 40).core
MIDDLE: Ellipse = (CORNER.row + 140, CORNER.col + 140, 30, 40)
OVER_A_BORDER: Ellipse = (CORNER.row, CORNER.col + 140, 40, 30)
OVER_A_CORNER: Ellipse = (CORNER.row, CORNER.col, 44, 44)
TWO_TILES_HIGH: Ellipse = (CORNER.row - 20, CORNER.col + 150, 130, 50)


@pytest.fixture(scope="module")
def image(builtin: SamModel) -> TiledImage:
    apart = [
        MIDDLE,
        (OVER_A_BORDER[0] + 3 * 288, *OVER_A_BORDER[1:]),
        (OVER_A_CORNER[0], OVER_A_CORNER[1] + 5 * 288, 44, 44),
        (TWO_TILES_HIGH[0] + 9 * 288, *TWO_TILES_HIGH[1:]),
    ]
    return tiled_image("slide", Slide((SIDE, SIDE), apart), builtin)


@pytest.fixture
def bench(builtin: SamModel, image: TiledImage) -> Bench:
    slide = image.plane
    assert isinstance(slide, Slide)
    return Bench(builtin, slide, image)  # it keeps its limits


def snapped(bench: Bench, number: int) -> Ellipse:
    return bench.slide.ellipses[number]


# --- which tiles ---------------------------------------------------------------------------


def test_an_object_inside_a_core_needs_that_tile_only(bench: Bench) -> None:
    r, c, *_ = snapped(bench, 0)
    found = bench.predict(around(snapped(bench, 0)))
    tile = bench.grid.tile_at(r, c)
    assert bench.encoded == [(tile.row, tile.col)]
    assert bench.iou(found, 0) > GOOD
    assert found.plane_shape == (SIDE, SIDE)


@pytest.mark.parametrize("number", [1, 2, 3], ids=["border", "corner", "two tiles"])
def test_an_object_over_a_border_is_whole(bench: Bench, number: int) -> None:
    found = bench.predict(around(snapped(bench, number)))
    assert bench.iou(found, number) > GOOD
    assert len(bench.encoded) <= 4


def test_a_mask_is_followed_from_a_click_into_the_next_tile(bench: Bench) -> None:
    r, c, a, _ = snapped(bench, 1)
    inside = bench.grid.tile_at(r + 5, c)
    found = bench.predict(Prompts((Point(r + 25, c), Point(r + 5, c + 15), Point(r - 20, c - 5))))
    assert bench.encoded == [(inside.row, inside.col), (inside.row - 1, inside.col)]
    assert found.window.row < r - a * 0.8


def test_little_is_read_of_the_image(bench: Bench) -> None:
    slide = Slide((SIDE, SIDE), bench.slide.ellipses)
    found = Bench(bench.model, slide)
    found.predict(Prompts((Point(*snapped(bench, 0)[:2]),)))
    sample = 24 * 24 * 256 * 256
    assert slide.pixels_read == sample + 384 * 384


def test_a_later_point_refines_the_whole_mask(bench: Bench) -> None:
    r, c, a, _ = snapped(bench, 3)
    first = bench.predict(around(snapped(bench, 3)))
    again = bench.predict(
        around(snapped(bench, 3)).with_point(Point(r + a / 2, c)), first.mask_prompt(0)
    )
    assert bench.iou(again, 3) > GOOD


# --- the answer ----------------------------------------------------------------------------


def test_an_object_in_one_tile_is_as_if_the_tile_were_the_image(bench: Bench) -> None:
    """No blending, no resampling of another kind: pixel for pixel the same."""
    r, c, *_ = snapped(bench, 0)
    tile = bench.grid.tile_at(r, c)
    prompts = Prompts((Point(r, c), Point(r + 9, c + 9)))
    inside = Prompts(
        tuple(Point(p.row - tile.window.row, p.col - tile.window.col) for p in prompts.points)
    )
    found = bench.predict(prompts)
    alone = Predictor(bench.model).predict(bench.embedding(tile), inside)
    for choice in range(3):
        same = placed(found, choice, tile.window) == alone.masks[choice]
        assert same[8:-8, 8:-8].all()
    np.testing.assert_array_equal(found.scores, alone.scores)


def test_the_mask_of_tiles_is_that_of_a_tile_around_the_object(bench: Bench) -> None:
    """An object over a corner of four cores, against a tile with it in the middle."""
    r, c, *_ = snapped(bench, 2)
    window = Window(int(r) - 192, int(c) - 192, 384, 384)
    pixels = bench.slide[window.slices]
    request = EncodeRequest("around", pixels, bench.image.intensity_range)
    [alone] = [e.embedding for e in encode(bench.model, [request]) if isinstance(e, Encoded)]
    box = around(snapped(bench, 2)).box
    assert box is not None
    inside = Box(
        box.row0 - window.row, box.col0 - window.col, box.row1 - window.row, box.col1 - window.col
    )
    whole = Predictor(bench.model).predict(alone, Prompts(box=inside)).masks[0]
    stitched = placed(bench.predict(around(snapped(bench, 2))), 0, window)
    assert (whole & stitched).sum() / (whole | stitched).sum() > 0.9
    truth = bench.slide.mask(2, window)
    alone_iou = (whole & truth).sum() / (whole | truth).sum()
    assert bench.iou(bench.predict(around(snapped(bench, 2))), 2) > alone_iou - 0.02


def test_blending_leaves_no_seam(tiny_model: SamModel) -> None:
    """Two tiles that disagree by a constant: the step between them is spread over the overlap."""
    grid = TileGrid(200, 200, 64, 8, 2)
    mosaic = Mosaic(grid)
    left, right = grid.tile(0, 1), grid.tile(0, 2)
    mosaic.put(left, np.full((32, 32), 4, np.float32))
    mosaic.put(right, np.full((32, 32), -4, np.float32))
    logits, seen = mosaic.blend(mosaic.window)
    assert seen.all()
    overlap = lattice(left.window & right.window, grid).width
    assert np.abs(np.diff(logits, axis=1)).max() < 2 * 8 / overlap
    assert logits[0, 0] == 4
    assert logits[0, -1] == -4


def test_what_no_tile_has_seen_is_background(tiny_model: SamModel) -> None:
    grid = TileGrid(200, 200, 64, 8, 2)
    mosaic = Mosaic(grid)
    mosaic.put(grid.tile(0, 0), np.ones((32, 32), np.float32))
    logits, seen = mosaic.blend(Window(0, 0, 40, 32))
    assert not seen[32:].any()
    assert (logits[32:] < -5).all()
    assert (logits[:32] == 1).all()


def test_a_mask_leads_into_the_tiles_whose_cores_it_reaches_far_enough() -> None:
    grid = TileGrid(300, 300, 64, 8, 2)
    tile = grid.tile(2, 2)
    core = lattice(tile.core, grid).seen_from(lattice(tile.window, grid))
    logits = np.full((32, 32), -5, np.float32)
    logits[10 : core.stop[0] + 1, 10:20] = 5  # a little into the halo: this tile sees it all
    mosaic = Mosaic(grid)
    mosaic.put(tile, logits)
    assert mosaic.next_tiles() == ()
    logits[10:, 10:20] = 5  # to the end of the tile
    mosaic.put(tile, logits)
    assert mosaic.next_tiles() == (grid.tile(3, 2),)


# --- limits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        pytest.param(Prompts(), "there is no prompt", id="none"),
        pytest.param(Prompts((Point(-5, 5),)), "lies outside the image", id="outside"),
        pytest.param(
            Prompts(box=Box(0, 0, 4_000, 4_000)), r"span \d+ tiles of 64", id="a huge box"
        ),
    ],
)
def test_prompts_that_cannot_be_answered(
    tiny_model: SamModel, prompts: Prompts, message: str
) -> None:
    bench = Bench(tiny_model, Slide((SIDE, SIDE), []))
    with pytest.raises(PromptError, match=message):
        bench.predict(prompts)
    assert bench.encoded == []


def test_an_object_without_end_stops_at_the_limit(tiny_model: SamModel) -> None:
    """A mask that fills every tile: as many tiles as are allowed, then it is cut off."""
    bench = Bench(tiny_model, Slide((SIDE, SIDE), []))
    everything = MaskPrompt(np.full((400, 400), 9, np.float32), (9_600, 9_600))
    bench.predict(Prompts((Point(10_000, 10_000),)), everything)
    assert 1 <= len(bench.encoded) <= MOST_TILES


@pytest.mark.parametrize(("row", "col"), [(0, 0), (499, 0), (0, 602), (499, 602)], ids=str)
def test_masks_end_where_the_image_ends(tiny_model: SamModel, row: int, col: int) -> None:
    bench = Bench(tiny_model, Slide((500, 603), [(row, col, 30, 30)]))
    found = bench.predict(Prompts((Point(row, col),)))
    assert found.window & bench.grid.window == found.window


MEMORY = """
import resource, sys
from napari_peftsam.models import build_tiny
from napari_peftsam.types import Point, Prompts
from tests.segmentation._slides import Slide
from tests.segmentation.test_tiled import Bench

side = int(sys.argv[1])
Bench(build_tiny(), Slide((500, 500), [(250, 250, 20, 20)])).predict(Prompts((Point(250, 250),)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
middle = side / 2
bench = Bench(build_tiny(), Slide((side, side), [(middle, middle, 20, 20)]))
bench.predict(Prompts((Point(middle, middle),)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is Unix only")
def test_peak_memory_does_not_depend_on_the_size_of_the_image() -> None:
    def peak(side: int) -> int:
        command = [sys.executable, "-c", MEMORY, str(side)]
        root = Path(__file__).parents[2]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        return int(run.stdout) * 1024

    small, large = peak(5_000), peak(20_000)
    assert large - small < 20e6  # a mask of the whole image alone would have 400 MB
