"""Views of annotated planes in model pixels, and the targets of their objects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.models import Architecture, SamModel, frame_of, to_model_input
from napari_peftsam.models.orientations import turned
from napari_peftsam.segmentation.decode import PromptTensors
from napari_peftsam.training.dataset import AnnotatedPlane, TrainingObject
from napari_peftsam.training.prompts import PromptSimulator, bounding_boxes
from napari_peftsam.types import Frame, Prompts, Window

TURNS = 8  # the dihedral group of the square model frame
_REAL_PROMPTS = 0.25  # how often an object is trained on the user's own prompts
_MOST_ZOOM = 2.0
_NOISY, _BLURRED = 0.3, 0.2  # shares of varied pictures
_SEEN, _ORDER, _TURN = range(3)  # independent streams of random numbers
_MARGIN = 1.0  # an object's surroundings: its own size on each side ...
_LEAST_MARGIN = 12.0  # ... and at least this many model pixels
# Side of the grid on which an object and its surroundings are compared with the truth.
# It follows the object, so that small ones count as much as large ones, at a fixed cost.
_GRID = 96
_TOUCHED = 0.25  # tokens, of four pixels a side: how far outside a sample's neighbours reach


# --- planes -----------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingCrop:
    """A square part of a frame, perhaps magnified.

    Attributes
    ----------
    left, top, window
        The part, in pixels of the frame.
    side
        Side after resampling, in model pixels.
    corner
        ``(x, y)`` of the result's first pixel in the frame.
    """

    left: int
    top: int
    window: int
    side: int
    corner: tuple[int, int]

    def resample(self, x: Tensor) -> Tensor:
        """Return the part of ``(1, C, S, S)``."""
        part = x[..., self.top : self.top + self.window, self.left : self.left + self.window]
        if self.window == self.side:
            return part
        size = (self.side, self.side)
        return functional.interpolate(part.float(), size, mode="bilinear", antialias=True)


@dataclass(frozen=True, eq=False)
class ModelPlane:
    """A plane with its labels in model pixels, ``(1, 3, S, S)`` and ``(S, S)``.

    Image and labels stay on the CPU; views of them are moved to `device`, where the model is.
    """

    source: AnnotatedPlane
    frame: Frame
    image: Tensor
    labels: Tensor
    device: torch.device

    def masks(self, objects: Sequence[TrainingObject], turn: int = 0) -> Tensor:
        """Return masks ``(B, S, S)`` of objects in the rotated and flipped plane (0 to 7)."""
        labels = turned(self.labels.to(self.device), turn)
        numbers = torch.tensor([o.label for o in objects], dtype=labels.dtype, device=self.device)
        return labels[None] == numbers[:, None, None]

    def picture(self, turn: int = 0, crop: TrainingCrop | None = None) -> Tensor:
        """Return the model input ``(1, 3, s, s)`` of the rotated plane, or of a crop of it."""
        image = turned(self.image.to(self.device), turn)
        return crop.resample(image) if crop else image


def varied(picture: Tensor, strength: float) -> Tensor:
    """Change a picture ``(1, 3, s, s)`` at random, as lamps, stains and cameras do.

    Contrast and brightness change as a whole and, of a colour image, each colour a little; three
    of ten get noise, two of ten are blurred. `strength` is the standard deviation of brightness in
    that of the model's training images, and of the logarithm of contrast.
    """
    is_grey = torch.equal(picture[:, 0], picture[:, 1])
    colours = 1 if is_grey else 3

    def drawn(*shape: int) -> Tensor:  # on the CPU, so that devices agree
        return (strength * torch.randn(1, *shape)).to(picture.device)

    middle = picture.mean((-2, -1), keepdim=True)
    contrast, brightness = drawn(1, 1, 1), drawn(1, 1, 1)
    if not is_grey:
        contrast, brightness = contrast + drawn(3, 1, 1) / 2, brightness + drawn(3, 1, 1)
    changed = (picture - middle) * contrast.exp() + middle + brightness
    noisy, share, blurred = torch.rand(3).tolist()
    if noisy < _NOISY:
        changed = changed + share / 2 * drawn(colours, *picture.shape[-2:])
    if blurred < _BLURRED:
        changed = functional.avg_pool2d(functional.pad(changed, (1,) * 4, mode="replicate"), 3, 1)
    return changed


def prepare_planes(
    planes: Sequence[AnnotatedPlane], objects: Sequence[TrainingObject], model: SamModel
) -> Mapping[int, ModelPlane]:
    """Bring the planes that hold any of these objects into the model's frame."""
    return {i: _prepare(planes[i], model) for i in sorted({o.plane for o in objects})}


def _prepare(plane: AnnotatedPlane, model: SamModel) -> ModelPlane:
    frame = frame_of(plane.pixels, model)
    rows, cols = frame.inner
    row_index = ((np.arange(rows) + 0.5) * (frame.height / rows)).astype(int)
    col_index = ((np.arange(cols) + 0.5) * (frame.width / cols)).astype(int)
    inner = plane.labels[np.ix_(row_index, col_index)].astype(np.int64)
    small = np.abs(inner).max() <= np.iinfo(np.int32).max
    labels = functional.pad(
        torch.from_numpy(inner.astype(np.int32) if small else inner),
        (0, frame.size - cols, 0, frame.size - rows),
    )
    image = to_model_input(plane.pixels, model, plane.limits)
    return ModelPlane(plane, frame, image.cpu(), labels, model.device)


def prompt_tensors(prompts: Prompts, frame: Frame) -> PromptTensors:
    """Return one object's own prompts, unrotated, as a batch of one on the CPU."""
    points = labels = boxes = None
    if prompts.points:
        points = torch.from_numpy(frame.points_to_model(prompts.points))[None]
        labels = torch.tensor([[float(p.positive) for p in prompts.points]])
    if prompts.box is not None:
        boxes = torch.from_numpy(frame.box_to_model(prompts.box))[None]
    return PromptTensors(points, labels, boxes)


# --- views ------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """Objects of one plane in a micro-batch.

    Attributes
    ----------
    objects
        At least one, all of one plane.
    turn
        Rotation and flip of the plane, 0 to 7.
    zoom
        Magnification, for models that are trained on crops.
    own_prompts
        True to begin with the user's own prompts.
    """

    objects: tuple[TrainingObject, ...]
    turn: int = 0
    zoom: float = 1.0
    own_prompts: bool = False


@dataclass(frozen=True, eq=False)
class Views:
    """All views of a run, in an order that depends on the seed only.

    Attributes
    ----------
    objects, planes
        Objects to train on, and their planes by index.
    architecture
        Decides whether the model is trained on crops or whole frames.
    size
        Objects of a view, at most.
    limit
        Number of epochs after which the same views come again, in another order, so that
        activations of frozen blocks are computed only once; None for new views in each epoch.
        A plane that is seen as a whole has one rotation and flip in each epoch.
    """

    objects: Sequence[TrainingObject]
    planes: Mapping[int, ModelPlane]
    architecture: Architecture
    size: int
    seed: int
    limit: int | None = None

    def __iter__(self) -> Iterator[tuple[float, View]]:
        """Yield views without end, with the epochs completed; each has every object once.

        The first view is one of the largest of its epoch: its step shows what memory suffices.
        """
        for epoch in itertools.count():
            number = epoch if self.limit is None else epoch % self.limit
            rng = self._random(_SEEN, number)
            groups = self._neighbours(rng)
            views = [view for objects in groups for view in self._seen(objects, number, rng)]
            order = self._random(_ORDER, epoch).permutation(len(views))
            if epoch == 0:
                largest = max(range(len(order)), key=lambda place: len(views[order[place]].objects))
                order[[0, largest]] = order[[largest, 0]]
            for done, index in enumerate(order, start=1):
                yield epoch + done / len(views), views[index]

    def _neighbours(self, rng: np.random.Generator) -> list[tuple[TrainingObject, ...]]:
        """Return all objects in groups of neighbours."""
        side, size = self.architecture.training_side, self.size
        cells: dict[tuple[int, int, int], list[TrainingObject]] = {}
        shift = rng.random(2)
        for index in rng.permutation(len(self.objects)):
            item = self.objects[index]
            frame = self.planes[item.plane].frame
            centre = np.array([item.bbox[0] + item.bbox[2], item.bbox[1] + item.bbox[3]]) / 2
            # Cells of the crop's size, placed anew in every epoch.
            where = centre * frame.scale / side + shift if self._crops else (0, 0)
            row, col = (int(n) for n in where)
            cells.setdefault((item.plane, row, col), []).append(item)
        return [
            tuple(cell[i : i + size]) for cell in cells.values() for i in range(0, len(cell), size)
        ]

    def _seen(
        self, objects: tuple[TrainingObject, ...], epoch: int, rng: np.random.Generator
    ) -> list[View]:
        """Return a group of objects in one view, or in two if one has own prompts."""
        plane, label = objects[0].plane, objects[0].label
        turn, drawn = int(rng.integers(TURNS)), rng.random()
        if self.limit is not None and not self._crops:
            turn = int(self._random(_TURN, plane).permutation(TURNS)[epoch % TURNS])
        # Objects of all sizes: the few annotated ones must not teach that there is one size.
        zoom = math.exp(math.log(_MOST_ZOOM) * rng.uniform(-1, 1))
        if drawn >= _REAL_PROMPTS or label not in self.planes[plane].source.prompts:
            return [View(objects, turn, zoom)]
        # Objects prompted by hand have layouts of their own, so one at a time.
        own, others = View(objects[:1], own_prompts=True), objects[1:]
        return [own, View(others, turn, zoom)] if others else [own]

    @property
    def _crops(self) -> bool:
        return self.architecture.training_side < self.architecture.image_size

    def _random(self, stream: int, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream, index))


# --- targets ----------------------------------------------------------------------


def crop_masks(
    masks: Tensor, side: int, step: int, zoom: float = 1.0
) -> tuple[Tensor, TrainingCrop | None]:
    """Return the crop around all objects, and the objects that are seen in it.

    Parameters
    ----------
    masks
        ``(B, S, S)`` boolean, none of them empty.
    side
        Side of the crop in model pixels; there is no crop if it is not below `S`, or would
        hold no object since they are far apart.
    step
        Size of a token: the crop's corner in the frame is a multiple of it.
    zoom
        Magnification of the crop. The user's own prompts do not follow it.
    """
    size = masks.shape[-1]
    if side >= size:
        return masks, None
    boxes, window = bounding_boxes(masks), min(size, round(side / zoom))
    middle = (boxes[:, :2].amin(0) + boxes[:, 2:].amax(0)) / 2
    left, top = (_aligned(float(c) - window / 2, size - window, step) for c in middle)
    crop = TrainingCrop(left, top, window, side, (min(left, size - side), min(top, size - side)))
    # As the image is: "nearest" would shift the masks by up to half a pixel.
    cropped = crop.resample(masks[None])[0] >= 0.5
    kept = cropped.flatten(1).any(1)
    return (cropped[kept], crop) if kept.any() else (masks, None)


def _aligned(start: float, most: int, step: int) -> int:
    """Return the multiple of `step` nearest to `start`, in [0, most]."""
    return min(max(round(start / step), 0), most // step) * step


@dataclass(frozen=True, eq=False)
class Targets:
    """Objects of a frame or a crop of it, each sampled on a fixed grid in its window.

    The window is the object with its surroundings: pixels inside that are not the object are
    background, those outside are unknown. Losses and corrections are computed on the grids, so
    the cost depends neither on the model's input nor on the size of the objects.

    Attributes
    ----------
    side
        Side of the model input in pixels.
    corner
        ``(x, y)`` of its first pixel in the model's frame.
    windows
        ``(B, 4)`` as ``(x0, y0, x1, y1)`` in pixel edges of the input, on the masks' device.
    shapes
        ``(B, 1, G, G)`` coverage of the grid by the object, in [0, 1]; on the same device.
    truth
        ``(B, G, G)`` boolean, at least one pixel per object; on the CPU, for simulated prompts.
    boxes
        ``(B, 4)`` tight boxes in pixels of the model's frame, on the CPU.
    """

    side: int
    corner: tuple[int, int]
    windows: Tensor
    shapes: Tensor
    truth: Tensor
    boxes: Tensor

    @classmethod
    def of(cls, masks: Tensor, crop: TrainingCrop | None = None) -> Targets:
        """Return the targets of masks ``(B, s, s)``, none of them empty."""
        side, corner = masks.shape[-1], crop.corner if crop else (0, 0)
        boxes = bounding_boxes(masks)
        margin = ((boxes[:, 2:] - boxes[:, :2]) * _MARGIN).clamp(min=_LEAST_MARGIN)
        windows = torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1).clamp(0, side)
        shapes = _resample(masks[:, None].float(), windows, 1.0)
        lost = ~(shapes >= 0.5).flatten(1).any(1)
        for index in lost.nonzero().flatten().tolist():
            shapes[index, 0] = _touched(masks[index], windows[index])
        tight = boxes.cpu() - 0.5 + torch.tensor([*corner, *corner], dtype=torch.float32)
        return cls(side, corner, windows, shapes, shapes[:, 0].cpu() >= 0.5, tight)

    def user(self, generator: torch.Generator) -> PromptSimulator:
        """Return a user who prompts these objects; `generator` makes all random choices."""
        windows = self.windows.cpu()
        spacing = (windows[:, 2:] - windows[:, :2]) / _GRID
        corner = torch.tensor(self.corner, dtype=torch.float32)
        return PromptSimulator(generator, windows[:, :2] + spacing / 2 - 0.5 + corner, spacing)

    def seen(self, objects: slice, grid: int) -> list[Window]:
        """Return, of ``grid x grid`` tokens, the window that holds all that `view` takes.

        One for each of some of the objects, all of one size.
        """
        edges = self.windows[objects].cpu() * (grid / self.side)
        first = (edges[:, :2] - _TOUCHED).floor().clamp(min=0)
        last = (edges[:, 2:] + _TOUCHED).ceil().clamp(max=grid)
        side = int((last - first).max())
        corners = first.clamp(max=grid - side).int().tolist()
        return [Window(row, col, side, side) for col, row in corners]

    def view(
        self, logits: Tensor, objects: slice, grid: int = 1, seen: Sequence[Window] = ()
    ) -> Tensor:
        """Sample logits ``(B, K, h, w)`` of some of the objects on their grids.

        They are of the whole input, or of the windows of tokens that are `seen`.
        """
        windows = self.windows[objects] * (grid / self.side)  # in tokens
        tokens = seen[0].width if seen else grid
        if seen:
            windows = windows - windows.new_tensor([(w.col, w.row) * 2 for w in seen])
        return _resample(logits.float(), windows, logits.shape[-1] / tokens)


def _resample(x: Tensor, windows: Tensor, scale: float) -> Tensor:
    """Sample ``(B, K, h, w)`` on a fixed grid in each object's own window."""
    from torchvision.ops import roi_align  # imports torch's compiler, for seconds

    index = torch.arange(len(windows), device=windows.device, dtype=windows.dtype)[:, None]
    boxes = torch.cat([index, windows], dim=1)
    grid: Tensor = roi_align(x, boxes, _GRID, spatial_scale=scale, sampling_ratio=1, aligned=True)
    return grid


def _touched(mask: Tensor, window: Tensor) -> Tensor:
    """Return the pixels of the grid that a mask ``(S, S)`` touches.

    A thin object in a large window can lie between all points of the grid.
    """
    x0, y0, x1, y1 = (int(edge) for edge in window.tolist())
    part = mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].float()
    return functional.adaptive_max_pool2d(part[None], _GRID)[0]
