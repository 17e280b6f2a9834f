"""Differentiable calls of SAM's prompt encoder and mask decoder on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_peftsam.models.orientations import turned, turned_points
from napari_peftsam.models.sam_parts import MaskDecoder, Sam
from napari_peftsam.segmentation.crops import fine
from napari_peftsam.segmentation.two_way import (
    box_tokens,
    dense_positions,
    layer_norm,
    mask_tokens,
    point_tokens,
    two_way,
)
from napari_peftsam.types import Window

__all__ = ["PromptTensors", "decode"]

Corner = tuple[int, int]
_CACHED = 4096  # tokens whose pixels stay in a CPU's caches


@dataclass(frozen=True, eq=False)
class PromptTensors:
    """Prompts of B objects as SAM's prompt encoder takes them.

    Attributes
    ----------
    points
        ``(B, N, 2)`` in model pixels, order ``(x, y)``, or None.
    labels
        ``(B, N)``: 1 positive, 0 negative, -1 padding.
    boxes
        ``(B, 4)`` in model pixels, ``(x0, y0, x1, y1)``, or None.
    masks
        ``(B, 1, 4 h, 4 w)`` mask prompts (logits of the last masks), or None.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def in_orientations(self, turns: Sequence[int], side: int) -> PromptTensors:
        """Return them as they lie in a frame that is `turned`, for the first turn, the second, ...

        The first is 0; `side` is the frame's.
        """
        if len(turns) == 1:
            return self
        points = boxes = masks = labels = None
        if self.points is not None and self.labels is not None:
            points = torch.cat([turned_points(self.points, turn, side) for turn in turns])
            labels = self.labels.repeat(len(turns), 1)
        if self.boxes is not None:
            corners = self.boxes.unflatten(1, (2, 2))
            corners = torch.cat([turned_points(corners, turn, side) for turn in turns])
            boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
        if self.masks is not None:
            masks = torch.cat([turned(self.masks, turn) for turn in turns])
        return PromptTensors(points, labels, boxes, masks)


def decode(
    sam: Sam, features: Tensor, prompts: PromptTensors, offset: Corner = (0, 0)
) -> tuple[Tensor, Tensor]:
    """Decode B prompted objects in one batch.

    Under autocast, only the computations per pixel use the lower precision; prompts,
    positions and scores never do.

    Parameters
    ----------
    sam
        The network, with or without adapters.
    features
        Image embedding ``(1, C, h, w)`` shared by all objects, or one per object,
        ``(B, C, h, w)``.
    prompts
        At least points or boxes.
    offset
        Token ``(row, column)`` of the embedding's corner in the model's frame, for an
        embedding of a crop; prompts are in the coordinates of the whole frame.

    Returns
    -------
    logits
        ``(B, 4, 4 h, 4 w)``, float32: output 0 answers unambiguous prompts, 1 to 3 are the
        alternatives for ambiguous ones.
    scores
        ``(B, 4)`` predicted IoU, float32.
    """
    outputs = decode_outputs(sam, features, prompts, [offset])
    return outputs.logits(), outputs.scores


def decode_outputs(
    sam: Sam, features: Tensor, prompts: PromptTensors, offsets: Sequence[Corner] = ((0, 0),)
) -> MaskOutputs:
    """Decode as `decode`, but let the caller choose the masks to compute.

    There may be one of the `offsets` per object, as there may be one embedding.
    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    grid = features.shape[-2], features.shape[-1]
    decoder = sam.mask_decoder
    # Positions in half precision would be off by whole pixels. Prompt tokens are so few that
    # half precision would only cost their weights' conversion.
    with torch.autocast(device, enabled=False):
        tokens = _tokens(sam, prompts)
        maps = _maps(sam, prompts, offsets, grid)
        image = _rows(features, dtype) + _dense(sam, prompts, maps).to(dtype)
        windows = ((*offset, *grid) for offset in offsets)
        placed = [dense_positions(sam.prompt_encoder, window, dtype) for window in windows]
        positions = torch.cat(placed)
        hidden, image = two_way(decoder.transformer, tokens, image, positions)
        mlps = decoder.output_hypernetworks_mlps
        queries = torch.stack([mlp(hidden[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=1)
        scores = decoder.iou_prediction_head(hidden[:, 0])
        guides = None
        if maps is not None and prompts.masks is not None and hasattr(decoder, "refiner"):
            guides = decoder.refiner.guides(maps, prompts.masks)
        return MaskOutputs(scores, queries, image, decoder, grid, guides)


def _tokens(sam: Sam, prompts: PromptTensors) -> Tensor:
    """Return the tokens ``(B, T, C)`` of the decoder, the points and the boxes."""
    encoder, decoder = sam.prompt_encoder, sam.mask_decoder
    found = []
    if prompts.points is not None and prompts.labels is not None:
        closed = prompts.boxes is None
        found.append(point_tokens(encoder, prompts.points, prompts.labels, closed))
    if prompts.boxes is not None:
        found.append(box_tokens(encoder, prompts.boxes))
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    return torch.cat([own.expand(len(found[0]), -1, -1), *found], dim=1)


def _maps(
    sam: Sam, prompts: PromptTensors, offsets: Sequence[Corner], grid: tuple[int, int]
) -> Tensor | None:
    """Return `PromptDrawing.maps`; None if the model does not draw prompts."""
    drawing = getattr(sam.prompt_encoder, "drawing", None)  # SAM's own prompt encoder has none
    if drawing is None:
        return None
    given = prompts.boxes if prompts.points is None else prompts.points
    assert given is not None
    stride = 4 * drawing.stride
    # Points (x, y) are drawn as seen from their object's corner.
    corner = given.new_tensor([(stride * col, stride * row) for row, col in offsets])[:, None]
    points = None if prompts.points is None else prompts.points - corner
    boxes = None if prompts.boxes is None else prompts.boxes - corner.repeat(1, 1, 2)[:, 0]
    maps: Tensor = drawing.maps(points, prompts.labels, boxes, (0, 0, *grid))
    return maps


def _dense(sam: Sam, prompts: PromptTensors, maps: Tensor | None) -> Tensor:
    """Return the mask prompt ``(B or 1, h w or 1, C)``, with the drawn `maps`."""
    encoder = sam.prompt_encoder
    dense: Tensor
    if prompts.masks is None:
        dense = encoder.no_mask_embed.weight[None]
    else:
        quarters = functional.pixel_unshuffle(prompts.masks.float(), 2)
        dense = mask_tokens(encoder.mask_downscaling, quarters.unflatten(1, (-1, 2, 2)))
    if maps is not None:
        dense = dense + mask_tokens(encoder.drawing.layers, maps)
    return dense


def _rows(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the embedding ``(B, C, h, w)`` as tokens ``(B, h w, C)`` in `dtype`."""
    flat = features.to(dtype).flatten(2)
    # torch transposes single matrices in blocks, stacks of them three times slower.
    return torch.stack([one.t().contiguous() for one in flat])


@dataclass(frozen=True, eq=False)
class MaskOutputs:
    """Transformer output for B objects, from which masks are computed.

    Attributes
    ----------
    scores
        ``(B, 4)`` predicted IoU of the four outputs, float32.
    queries
        ``(B, 4, C / 8)``: what each output multiplies the channels of a pixel by.
    image
        Image tokens ``(B, h w, C)`` of each object.
    decoder
        SAM's mask decoder.
    grid
        ``(h, w)`` tokens.
    guides
        ``(B, 10, 4 h, 4 w)`` by which masks are refined, see `MaskRefiner`; None: they are not.
    drawn
        The windows of the tokens in which to draw; None: all.
    """

    scores: Tensor
    queries: Tensor
    image: Tensor
    decoder: MaskDecoder
    grid: tuple[int, int]
    guides: Tensor | None = None
    drawn: tuple[Window, ...] | None = None

    def logits(self, outputs: Tensor | None = None) -> Tensor:
        """Return float32 logits ``(B, K, 4 h, 4 w)`` of outputs ``(B, K)``; default: all four."""
        queries = self.queries
        if outputs is not None:
            queries = queries.take_along_dim(outputs[..., None], dim=1)
        with torch.autocast(self.image.device.type, enabled=False):
            # Pixels are 4 times as much as tokens.
            on_cpu = self.image.device.type == "cpu"
            size = max(1, _CACHED // self.image.shape[1]) if on_cpu else len(queries)
            guides = repeat(None) if self.guides is None else self.guides.split(size)
            parts = zip(queries.split(size), self.image.split(size), guides, strict=False)
            logits = torch.cat([self._logits(*part) for part in parts])
        if self.drawn is None:
            return logits
        inside = zip(logits, map(fine, self.drawn), strict=True)
        return torch.stack([one[:, *window.slices] for one, window in inside])

    def within(self, windows: Sequence[Window]) -> MaskOutputs:
        """Return the same, to be drawn in a window of tokens for each object, all of one size."""
        if windows[0].shape == self.grid:
            return self
        if self.guides is None:
            return replace(self, image=self._cut(windows), grid=windows[0].shape)
        wider = [self._seen(window) for window in windows]
        guides = zip(self.guides, map(fine, wider), strict=True)
        return replace(
            self,
            image=self._cut(wider),
            grid=wider[0].shape,
            guides=torch.stack([one[:, *window.slices] for one, window in guides]),
            drawn=tuple(w.seen_from(other) for w, other in zip(windows, wider, strict=True)),
        )

    def _cut(self, windows: Sequence[Window]) -> Tensor:
        parts = zip(self.image.unflatten(1, self.grid), windows, strict=True)
        return torch.stack([one[window.slices].flatten(0, 1) for one, window in parts])

    def _seen(self, window: Window) -> Window:
        """Return what the refiner has to see for the right pixels in a window."""
        margin = -(-self.decoder.refiner.reach // 4)
        sides = [min(n + 2 * margin, most) for n, most in zip(window.shape, self.grid, strict=True)]
        starts = (
            min(max(start - margin, 0), most - side)
            for start, side, most in zip((window.row, window.col), sides, self.grid, strict=True)
        )
        return Window(*starts, *sides)

    def _logits(self, queries: Tensor, image: Tensor, guides: Tensor | None) -> Tensor:
        pixels = _upscaled(self.decoder, image)
        if guides is None:
            products = _in_order((pixels @ queries.to(pixels.dtype).mT).float(), self.grid)
        else:
            rows = self._refined(_in_order(pixels, self.grid), guides)
            products = (rows.flatten(1, 2) @ queries.to(rows.dtype).mT).float()
            products = products.unflatten(1, rows.shape[1:3])
        return products.movedim(-1, 1).contiguous()

    def _refined(self, rows: Tensor, guides: Tensor) -> Tensor:
        half = None if rows.dtype == torch.float32 else rows.dtype
        with torch.autocast(rows.device.type, half, enabled=half is not None):
            refined: Tensor = self.decoder.refiner(rows.permute(0, 3, 1, 2), guides)
        return refined.permute(0, 2, 3, 1)


def _in_order(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return ``(B, 4 h, 4 w, N)`` of pixels ``(B, h w 16, N)`` in the order of `_upscaled`."""
    height, width = grid
    cells = pixels.unflatten(1, (height, width, 2, 2, 2, 2))
    ordered: Tensor = cells.permute(0, 1, 3, 5, 2, 4, 6, 7)
    return ordered.reshape(len(pixels), 4 * height, 4 * width, -1)


def _upscaled(decoder: MaskDecoder, image: Tensor) -> Tensor:
    """Scale image tokens ``(B, h w, C)`` up to pixels ``(B, h w 16, C / 8)``.

    Their order is ``(h, w, 2, 2, 2, 2)``, of two scalings by two. Transposed convolutions
    whose stride is their size are products of each token with one matrix, and channels in
    rows are what a layer norm is fast for.
    """
    first, norm, activation, second, last = decoder.output_upscaling
    x = activation(layer_norm(_quadrupled(first, image), norm))
    pixels: Tensor = last(_quadrupled(second, x))
    return pixels


def _quadrupled(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Return ``(B, 4 N, out)`` for ``(B, N, in)``: the 2 x 2 pixels of each, row by row."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2).to(x.dtype)
    assert layer.bias is not None
    bias = layer.bias.to(x.dtype).repeat(4)
    return functional.linear(x, weight, bias).view(len(x), -1, layer.out_channels)
