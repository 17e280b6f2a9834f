"""Stateless prediction of masks from an embedding and prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_peftsam.embeddings import Embedding
from napari_peftsam.errors import ConfigurationError, PromptError
from napari_peftsam.models import SamModel
from napari_peftsam.models.orientations import ORIENTATIONS, mean_turned_back
from napari_peftsam.segmentation.crops import Crop, cut, fine, placed, turned_window
from napari_peftsam.segmentation.decode import MaskOutputs, PromptTensors, decode_outputs
from napari_peftsam.segmentation.region_labels import object_part, to_image_masks
from napari_peftsam.types import FloatArray, Frame, Prediction, Prompts, Window

__all__ = ["Predictor"]

_CANDIDATES = 3
# What more objects take from memory, and give back, costs a CPU more than the calls they save.
_OBJECTS_ON_CPU, _OBJECTS_ON_GPU = 8, 32

MaskPrompts = Sequence[FloatArray | None] | FloatArray


@dataclass(frozen=True, eq=False)
class Decoded:
    """Candidates of one object before they are scaled to the image, best first.

    Attributes
    ----------
    logits
        ``(K, 4 h, 4 w)``.
    scores
        ``(K,)`` predicted IoU in [0, 1].
    """

    logits: Tensor
    scores: Tensor


class Predictor:
    """Predictor of masks from prompts with one model.

    The mask decoder has four outputs. A lone point without a mask prompt is ambiguous
    (a nucleus, its cell, the cluster): its candidates are outputs 1 to 3, which SAM
    trains for that. All other prompts choose among all four outputs, of which output 0
    is trained for unambiguous prompts; the three of the highest predicted score are
    kept. Candidates are always sorted by predicted score, highest first.

    A predictor keeps no image and no prompt; calls may come from several threads.
    """

    def __init__(self, model: SamModel) -> None:
        self.model = model

    def predict(
        self,
        embedding: Embedding,
        prompts: Prompts,
        mask_prompt: FloatArray | None = None,
    ) -> Prediction:
        """Predict the candidates for one object.

        Parameters
        ----------
        embedding
            Embedding of the image by this model with its live adapter.
        prompts
            At least one point or a box, in image pixels. A box is cut at the image's edge.
        mask_prompt
            ``(4 h, 4 w)`` logits of the chosen candidate of the last prediction for this
            object (one of `Prediction.logits`), to refine it.

        Raises
        ------
        PromptError
            If there are no prompts, one lies outside the image, or `mask_prompt` has
            another shape.
        ConfigurationError
            If the embedding was made by another model.
        """
        [decoded] = self.decode_many(embedding, [prompts], [mask_prompt])
        return _to_prediction(decoded, embedding.frame)

    def predict_many(
        self,
        embedding: Embedding,
        prompts: Sequence[Prompts],
        mask_prompts: MaskPrompts | None = None,
        candidates: int = _CANDIDATES,
        crop: Crop | None = None,
    ) -> list[Prediction]:
        """Predict the candidates for several objects of one image, batched.

        Objects with the same kinds and numbers of prompts share a batch; they may differ.

        Parameters
        ----------
        embedding, prompts, mask_prompts
            As in `predict`, the last two one per object.
        candidates
            Candidates to keep per object, from 1 to 3; 1 keeps the best and saves memory
            and time.
        crop
            To look at the surroundings of each object only; default: at the whole image.
        """
        decoded = self.decode_many(embedding, prompts, mask_prompts, candidates, crop)
        return [_to_prediction(one, embedding.frame) for one in decoded]

    def best_parts(
        self, embedding: Embedding, prompts: Sequence[Prompts]
    ) -> Iterator[tuple[FloatArray, Window]]:
        """Yield the logits ``(h, w)`` in pixels of each object's best candidate, and where.

        They cover the part of the image in which any is above 0.
        """
        for one in self.decode_many(embedding, prompts, keep=1):
            logits, window = object_part(one.logits[0].cpu(), embedding.frame)
            yield logits.numpy(), window

    def decode_many(
        self,
        embedding: Embedding,
        prompts: Sequence[Prompts],
        mask_prompts: MaskPrompts | None = None,
        keep: int = _CANDIDATES,
        crop: Crop | None = None,
    ) -> list[Decoded]:
        """Do `predict_many` without scaling to the image; keep `keep` candidates of each."""
        masks = _check(self.model, embedding, prompts, mask_prompts)
        near = crop is not None and crop.approximate
        seen = embedding.tensors(self.model.device)
        grid: int = seen[0].shape[-1]
        places = [Window(0, 0, grid, grid)] * len(prompts)
        if crop is not None:
            places = [crop.window(one, embedding.frame, grid) for one in prompts]
        if near:
            pairs = zip(masks, places, strict=True)
            masks = [None if one is None else one[fine(place).slices] for one, place in pairs]
        few = _OBJECTS_ON_CPU if seen[0].device.type == "cpu" else _OBJECTS_ON_GPU

        def most(window: Window) -> int:
            objects = few * grid**2 // window.height**2 if near else few
            return max(1, objects // len(seen))

        answers: dict[int, Decoded] = {}
        for batch in _batches(prompts, masks, places, most):
            windows = [places[i] for i in batch]
            tensors = _prompt_tensors(
                [prompts[i] for i in batch], [masks[i] for i in batch], embedding.frame, seen[0]
            )
            with torch.inference_mode(), self.model.autocast():
                decoded = self._decoded(seen, tensors, windows, near)
                # What one orientation alone is sure of is seldom the object: for clicks beside
                # one, the lowest score is right more often than the mean.
                scores = decoded.scores.unflatten(0, (len(seen), -1)).amin(0)
                outputs, scores = _ranked(scores, _outputs(tensors), keep)
                logits = decoded.logits(outputs.repeat(len(seen), 1))
                logits = mean_turned_back(logits.chunk(len(seen)))
                logits = placed(logits, windows, grid)
                answers.update(zip(batch, map(Decoded, logits, scores), strict=True))
        return [answers[i] for i in range(len(prompts))]

    def _decoded(
        self, seen: Sequence[Tensor], prompts: PromptTensors, windows: Sequence[Window], near: bool
    ) -> MaskOutputs:
        """Decode objects that are drawn in windows of tokens, and with `near` see nothing else.

        The answers for the second orientation follow those for the first. Prompts and windows are
        those of the upright image.
        """
        sam, grid, turns = self.model.sam, seen[0].shape[-1], ORIENTATIONS[: len(seen)]
        prompts = prompts.in_orientations(turns, self.model.image_size)
        each = [[turned_window(window, turn, grid) for window in windows] for turn in turns]
        windows, count = [window for one in each for window in one], len(windows)
        if near and windows[0].height < grid:
            corners = [(window.row, window.col) for window in windows]
            features = torch.cat([cut(one, part) for one, part in zip(seen, each, strict=True)])
            return decode_outputs(sam, features, prompts, corners)
        features = seen[0]
        if len(seen) > 1:
            features = torch.cat([one.expand(count, -1, -1, -1) for one in seen])
        return decode_outputs(sam, features, prompts).within(windows)


def _check(
    model: SamModel,
    embedding: Embedding,
    prompts: Sequence[Prompts],
    mask_prompts: MaskPrompts | None,
) -> Sequence[FloatArray | None]:
    """Return one mask prompt per object; raise for anything that cannot be decoded."""
    if embedding.key.model != model.weights_hash:
        raise ConfigurationError(
            f"the embedding was made by another model than {model.name}: embed the image again"
        )
    masks: Sequence[FloatArray | None] = (
        [None] * len(prompts) if mask_prompts is None else list(mask_prompts)
    )
    if len(masks) != len(prompts):
        raise PromptError(
            f"got previous logits of {len(masks)} objects for {len(prompts)}: give one each, or "
            "None"
        )
    expected = tuple(4 * n for n in embedding.features.shape[1:])
    for one, logits in zip(prompts, masks, strict=True):
        if not one:
            raise PromptError("there is no prompt: give at least one point or a box")
        one.check_inside((embedding.frame.height, embedding.frame.width))
        if logits is not None and logits.shape != expected:
            raise PromptError(
                f"previous logits have shape {logits.shape}, expected {expected}: give one "
                "candidate of `Prediction.logits`"
            )
    return masks


def _batches(
    prompts: Sequence[Prompts],
    masks: Sequence[FloatArray | None],
    windows: Sequence[Window],
    most: Callable[[Window], int],
) -> Iterator[list[int]]:
    """Yield indices of objects that one call of the decoder can take, `most` of a window."""
    groups: dict[tuple[int, bool, bool, int], list[int]] = {}
    for index, (one, logits, window) in enumerate(zip(prompts, masks, windows, strict=True)):
        structure = (len(one.points), one.box is not None, logits is not None, window.height)
        groups.setdefault(structure, []).append(index)
    for group in groups.values():
        size = most(windows[group[0]])
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _prompt_tensors(
    prompts: Sequence[Prompts],
    mask_prompts: Sequence[FloatArray | None],
    frame: Frame,
    like: Tensor,
) -> PromptTensors:
    """Stack prompts of equal structure."""
    points = labels = boxes = masks = None
    device = like.device
    if prompts[0].points:
        coordinates = np.stack([frame.points_to_model(one.points) for one in prompts])
        points = torch.from_numpy(coordinates).to(device)
        signs = [[float(p.positive) for p in one.points] for one in prompts]
        labels = torch.tensor(signs, device=device)
    cut = [one.within(Window(0, 0, frame.height, frame.width)).box for one in prompts]
    edges = [frame.box_to_model(box) for box in cut if box is not None]
    if edges:
        boxes = torch.from_numpy(np.stack(edges)).to(device)
    kept = [logits for logits in mask_prompts if logits is not None]
    if kept:
        masks = torch.from_numpy(np.stack(kept).astype(np.float32)).to(device)[:, None]
    return PromptTensors(points, labels, boxes, masks)


def _outputs(prompts: PromptTensors) -> tuple[int, int]:
    """Return the range of decoder outputs that are candidates, see `Predictor`."""
    points = prompts.points
    lone = points is not None and points.shape[1] == 1
    return (1, 4) if lone and prompts.boxes is None and prompts.masks is None else (0, 4)


def _ranked(scores: Tensor, chosen: tuple[int, int], keep: int) -> tuple[Tensor, Tensor]:
    """Return the best of the chosen outputs, ``(B, K)``, and their scores in [0, 1]."""
    first, end = chosen
    scores = scores[:, first:end].nan_to_num(0.0)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :keep]
    return order + first, scores.take_along_dim(order, dim=1).clamp(0, 1)


def _to_prediction(decoded: Decoded, frame: Frame) -> Prediction:
    # The logits go to the CPU in any case; masks in image pixels would be many times as much.
    logits = decoded.logits.cpu()
    return Prediction(to_image_masks(logits, frame), decoded.scores.cpu().numpy(), logits.numpy())
