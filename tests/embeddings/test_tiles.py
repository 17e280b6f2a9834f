"""Large images as tiles: the grid, the normalisation they share, what is stored and resumed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import zarr

from napari_peftsam.embeddings import (
    EmbeddingKey,
    EmbeddingStore,
    Encoded,
    EncodeFailed,
    EncodeStarted,
    Tile,
    TiledImage,
    TileGrid,
    embedding_key,
    encode,
    tile_grid,
    tiled_image,
)
from napari_peftsam.errors import ImageError
from napari_peftsam.models import SamModel, frame_of
from napari_peftsam.normalisation import Limits, check_normalisable, normalise, sampled_limits
from napari_peftsam.types import Window

SIDE = 64  # the tiny model's frame


def picture(height: int = 200, width: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (height, width), np.uint8)


# --- the grid -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "side", "halo", "stride"),
    [
        pytest.param(20_000, 20_000, 1024, 128, 4, id="sam"),
        pytest.param(20_001, 19_999, 1024, 128, 4, id="sizes off the lattice"),
        pytest.param(5_003, 384, 384, 48, 2, id="one column"),
        pytest.param(301, 9_000, 1024, 128, 4, id="lower than a tile"),
        pytest.param(193, 65, 64, 8, 2, id="hardly two tiles"),
    ],
)
def test_cores_cover_the_image_once_and_windows_hold_their_halo(
    height: int, width: int, side: int, halo: int, stride: int
) -> None:
    grid = TileGrid(height, width, side, halo, stride)
    tiles = list(grid.ordered())
    assert len(tiles) == len(grid)
    assert sum(t.core.height * t.core.width for t in tiles) == height * width
    ends = grid.window
    for tile in tiles:
        assert tile.window.shape == grid.tile(0, 0).window.shape
        assert tile.window.row % stride == tile.window.col % stride == 0
        assert tile.window & tile.core == tile.core
        for start, stop, low, high, end in zip(
            (tile.core.row, tile.core.col), tile.core.stop,
            (tile.window.row, tile.window.col), tile.window.stop, ends.stop, strict=True,
        ):  # fmt: skip
            assert start - low >= halo or start == 0
            assert high - stop >= halo or stop == end
            assert high < end + stride


def test_a_pixel_belongs_to_the_tile_whose_core_holds_it() -> None:
    grid = TileGrid(500, 700, 64, 8, 2)
    for row, col in [(0, 0), (499, 699), (250, 47), (250, 48), (3, 640)]:
        tile = grid.tile_at(row, col)
        assert tile.core & Window(row, col, 1, 1)
        assert grid.tiles_in(Window(row, col, 1, 1)) == (tile,)


def test_a_window_touches_the_tiles_whose_cores_it_reaches() -> None:
    grid = TileGrid(500, 700, 64, 8, 2)
    corner = grid.tile(3, 4).core.stop
    touched = grid.tiles_in(Window(corner[0] - 1, corner[1] - 1, 2, 2))
    assert [(t.row, t.col) for t in touched] == [(3, 4), (3, 5), (4, 4), (4, 5)]
    assert grid.tiles_in(Window(600, 0, 10, 10)) == ()


def test_visible_tiles_come_first_then_the_nearest() -> None:
    grid = TileGrid(2_000, 2_000, 64, 8, 2)
    seen = Window(900, 1_000, 100, 150)
    order = list(grid.ordered(seen))
    visible = grid.tiles_in(seen)
    assert set(order[: len(visible)]) == set(visible)
    assert len({(t.row, t.col) for t in order}) == len(grid)
    middle = np.array([950, 1_075])
    away = [np.hypot(*(np.add(t.core.stop, (t.core.row, t.core.col)) / 2 - middle)) for t in order]
    assert away[-1] == max(away)


@pytest.mark.parametrize(
    ("shape", "large"), [((192, 192), False), ((10, 193), True), ((193, 10, 3), True)]
)
def test_only_what_is_above_three_frames_is_cut(
    tiny_model: SamModel, shape: tuple[int, ...], large: bool
) -> None:
    assert (len(tile_grid(shape, tiny_model)) > 1) is large


def test_tiles_keep_the_resolution_of_the_image(tiny_model: SamModel) -> None:
    image = tiled_image("slide", picture(301, 203), tiny_model)
    for tile in image.grid.ordered():
        frame = frame_of(image.read(tile), tiny_model)
        assert frame.scale == 1
        assert frame.inner == (SIDE, SIDE)


# --- one normalisation for all tiles -------------------------------------------------------


def test_tiles_are_normalised_as_parts_of_one_image(tiny_model: SamModel) -> None:
    pixels = picture(400, 400)
    pixels[:, 200:] //= 4  # one half is dim: on its own it would be stretched
    image = tiled_image("slide", pixels, tiny_model)
    whole = normalise(pixels, image.intensity_range)
    for tile in (image.grid.tile(0, 0), image.grid.tile(2, 6)):
        part = normalise(image.read(tile), image.intensity_range)
        assert np.array_equal(part, whole[tile.window.slices])


def test_a_tile_without_contrast_is_no_error() -> None:
    flat = np.full((8, 8), 10, np.uint8)
    assert np.array_equal(normalise(flat, Limits(0, 20)), np.full((8, 8, 3), 127.5, np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_sampled_limits_are_close_to_those_of_all_pixels(dtype: str) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(100, 10, (3_000, 3_000)).astype(dtype)
    low, high = np.percentile(pixels, (0.1, 99.9))
    found = sampled_limits(pixels)
    assert found.low == pytest.approx(low, abs=1)
    assert found.high == pytest.approx(high, abs=1)
    assert found == sampled_limits(pixels.copy())


def test_objects_of_a_mostly_empty_slide_are_not_saturated() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(40, 2, (4_000, 4_000)).astype(np.float32)
    for row, col in [(1_000, 1_000), (1_060, 1_090), (3_000, 500)]:
        pixels[row : row + 40, col : col + 40] += 100  # together 0.03 % of the slide
    assert np.percentile(pixels, 99.9) < 50
    assert sampled_limits(pixels).high > 120


def test_where_the_sample_has_no_contrast_all_of_the_plane_is_looked_at() -> None:
    pixels = np.zeros((3_000, 3_000), np.uint8)
    pixels[97:103, 97:103] = 50  # between the places of the sample
    assert sampled_limits(pixels) == Limits(0, 50)


USELESS = [
    pytest.param(np.zeros((4, 300, 300)), id="stack"),
    pytest.param(np.zeros((0, 300)), id="empty"),
    pytest.param(np.zeros((300, 300), complex), id="complex"),
    pytest.param(np.full((300, 300), 7.0), id="constant"),
    pytest.param(np.full((300, 300), np.nan), id="nan"),
]


@pytest.mark.parametrize("pixels", USELESS)
def test_the_check_in_advance_refuses_what_normalising_does(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError) as refused:
        normalise(pixels)
    with pytest.raises(ImageError, match=f"^{re.escape(str(refused.value))}$"):
        check_normalisable(pixels)
    check_normalisable(picture())


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        pytest.param(np.full((300, 300), 7.0), "constant", id="constant"),
        pytest.param(np.full((300, 300), np.nan), "no finite value", id="nan"),
    ],
)
def test_planes_without_contrast_are_refused(
    tiny_model: SamModel, pixels: np.ndarray, message: str
) -> None:
    with pytest.raises(ImageError, match=rf"slide: .*{message}"):
        _ = tiled_image("slide", pixels, tiny_model).intensity_range


# --- embedding as a stream -----------------------------------------------------------------


def lazy(path, pixels: np.ndarray) -> zarr.Array:
    return zarr.create_array(path, data=pixels, chunks=(50, 50))


def test_an_interrupted_run_goes_on_with_what_is_missing(tiny_model: SamModel, tmp_path) -> None:
    image = tiled_image("slide", lazy(tmp_path / "slide.zarr", picture()), tiny_model)
    store = EmbeddingStore(tmp_path / "store")
    done = 0
    events = encode(tiny_model, image.requests(), store)
    for event in events:
        done += isinstance(event, Encoded)
        if done == 5:
            break
    events.close()
    again = [
        event.from_store
        for event in encode(tiny_model, image.requests(), store)
        if isinstance(event, Encoded)
    ]
    assert again == [True] * 5 + [False] * (len(image.grid) - 5)


def test_progress_counts_tiles_and_visible_ones_come_first(tiny_model: SamModel) -> None:
    image = tiled_image("slide", picture(), tiny_model)
    seen = Window(150, 200, 10, 10)
    requests = image.requests(image.grid.ordered(seen)[:6])
    started = [e for e in encode(tiny_model, requests) if isinstance(e, EncodeStarted)]
    first = image.grid.tile_at(155, 205)
    assert started[0] == EncodeStarted(f"slide [{first.row}, {first.col}]", 0, 6)
    assert [e.index for e in started] == list(range(6))


def test_equal_content_has_one_address(tiny_model: SamModel) -> None:
    pixels = picture(400, 400)
    image = tiled_image("a", pixels, tiny_model)
    other = tiled_image("b", pixels.copy(), tiny_model)
    darker = tiled_image("c", np.where(pixels > 150, 150, pixels), tiny_model)
    tile = image.grid.tile(1, 1)

    def address(of: TiledImage, at: Tile) -> EmbeddingKey:
        request = of.request(at)
        return embedding_key(tiny_model, request.pixels, intensity_range=request.intensity_range)

    assert address(image, tile) == address(other, tile)
    assert address(image, tile) != address(image, image.grid.tile(1, 2))
    assert address(image, tile) != address(darker, tile)


class _Broken:
    shape, dtype = (300, 300), np.dtype(np.uint8)

    def __getitem__(self, key: object) -> object:
        raise ValueError("chunk 7 is truncated")


class _HalfBroken(_Broken):
    pixels = picture(300, 300)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        if key[0].start == key[1].start == 0 and key[0].stop == SIDE:  # the first tile
            raise ValueError("chunk 7 is truncated")
        return self.pixels[key]


def failures(model: SamModel, image: TiledImage) -> list[EncodeFailed]:
    """Return what failed; all tiles have an end."""
    events = list(encode(model, image.requests()))
    ends = [e for e in events if isinstance(e, (Encoded, EncodeFailed))]
    assert len(ends) == len(image.grid)
    return [e for e in ends if isinstance(e, EncodeFailed)]


def test_an_unreadable_part_is_told_with_the_name_of_the_image(tiny_model: SamModel) -> None:
    image = tiled_image("slide", _Broken(), tiny_model)
    with pytest.raises(ImageError, match=r"slide: a part .*chunk 7 is truncated"):
        image.read(image.grid.tile(0, 0))
    assert all("chunk 7 is truncated" in str(e.error) for e in failures(tiny_model, image))


def test_the_tiles_beside_an_unreadable_one_are_embedded(tiny_model: SamModel) -> None:
    image = tiled_image("slide", _HalfBroken(), tiny_model)
    assert 0 < len(failures(tiny_model, image)) < len(image.grid)


def test_the_grid_of_a_model_has_its_frame_and_the_stride_of_its_logits(
    tiny_model: SamModel,
) -> None:
    assert tile_grid((1_000, 2_000, 3), tiny_model) == TileGrid(1_000, 2_000, 64, 8, 2)
