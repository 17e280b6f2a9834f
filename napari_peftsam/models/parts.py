"""Parts of the built-in model that `segment_anything.modeling` does not have."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from napari_peftsam.models.sam_parts import LayerNorm2d

__all__ = ["DenseHead"]


class ConvStem(nn.Module):
    """Three strided convolutions in place of SAM's patch embedding (stride 8).

    A small encoder learns edges and textures much faster through overlapping
    convolutions than through one linear map of disjoint 8 x 8 patches.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = (3, width // 4, width // 2, width)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            layers += [
                nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1),
                LayerNorm2d(outputs),
                nn.GELU(),
            ]
        layers.append(nn.Conv2d(width, width, kernel_size=3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``(B, 3, H, W)`` to tokens ``(B, H / 8, W / 8, width)``."""
        tokens: torch.Tensor = self.layers(x)
        return tokens.permute(0, 2, 3, 1)


class DenseHead(nn.Module):
    """Foreground, depth and boundary from the image embedding.

    Depth is the distance to the object's border as a share of the largest one: 1 where the
    object is deepest. The boundary is that of each object, to background and neighbours alike.

    Trained beside the promptable decoder: it makes the encoder learn, and is the
    instance decoder of automatic segmentation.
    """

    channels = ("foreground", "depth", "boundary")

    def __init__(self, embedding_width: int) -> None:
        super().__init__()
        half, quarter = embedding_width // 2, embedding_width // 4
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(embedding_width, half, kernel_size=2, stride=2),
            LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, kernel_size=2, stride=2),
            LayerNorm2d(quarter),
            nn.GELU(),
            nn.Conv2d(quarter, len(self.channels), kernel_size=3, padding=1),
        )

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, h, w)`` to logits ``(B, 3, 4 h, 4 w)``, see `channels`."""
        logits: torch.Tensor = self.layers(embedding)
        return logits


class MaskRefiner(nn.Module):
    """Convolutions on the pixels of masks, which make a mask follow corrections.

    SAM sees prompts and the last mask token by token, and draws the pixels of a token from that
    token alone. Networks for clicks see both pixel by pixel, and so change a few pixels for a
    click that says so (RITM, Sofiiuk et al. 2022; FocalClick, Chen et al. 2022). Starts as zero.
    """

    reach = 4
    """How far it looks in each direction, in pixels of masks."""

    strength = 0.5
    """Share of the learned change that is made outside of the pretraining.

    All of it spoils one good mask in four with the first correction; half of it does not, until
    a finetuning has shown it the images at hand (see `napari_peftsam.training.step`).
    """

    def __init__(self, channels: int, hidden: int = 24) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels + PromptDrawing.channels + 1, hidden, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=2, dilation=2),
            nn.GELU(),
            nn.Conv2d(hidden, channels, kernel_size=3, padding=1),
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, pixels: torch.Tensor, guides: torch.Tensor) -> torch.Tensor:
        """Return pixels ``(B, C, H, W)`` changed by guides ``(B, 10, H, W)``, see `guides`."""
        # Channels last, as pixels are: convolutions of so few channels are faster then.
        parts = [each.to(pixels.dtype).permute(0, 2, 3, 1) for each in (pixels, guides)]
        change: torch.Tensor = self.layers(torch.cat(parts, dim=-1).permute(0, 3, 1, 2))
        return pixels + change if self.training else pixels + self.strength * change

    @staticmethod
    def guides(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Return ``(B, 10, H, W)`` of `PromptDrawing.maps` and logits of the last masks."""
        drawn = nn.functional.pixel_shuffle(maps.flatten(1, 3), 2)
        return torch.cat([drawn, torch.tanh(masks.float() / 4)], dim=1)


class PromptDrawing(nn.Module):
    """Prompts drawn as maps, added to SAM's mask prompt.

    SAM gives its decoder positions as Fourier features only, which a large model learns to
    read from a billion masks. A small model learns faster from maps of the box and of the
    distances to clicks, as in click-based segmentation networks. Starts as zero.
    """

    reaches = (4.0, 16.0, 64.0)
    """Widths of the bells around clicks, in model pixels."""

    channels = 3 + 2 * len(reaches)
    """Maps of a prompt: three of its box, bells of its positive and of its negative clicks."""

    def __init__(self, embedding_width: int, patch_size: int, hidden: int = 16) -> None:
        super().__init__()
        self.stride = patch_size // 4  # of the maps, which are as fine as the decoder's masks
        self.layers = nn.Sequential(
            nn.Conv2d(self.channels, hidden, kernel_size=2, stride=2),
            LayerNorm2d(hidden),
            nn.GELU(),
            nn.Conv2d(hidden, 2 * hidden, kernel_size=2, stride=2),
            LayerNorm2d(2 * hidden),
            nn.GELU(),
            nn.Conv2d(2 * hidden, embedding_width, kernel_size=1),
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        points: torch.Tensor | None,
        labels: torch.Tensor | None,
        boxes: torch.Tensor | None,
        window: tuple[int, int, int, int],
    ) -> torch.Tensor:
        """Return ``(B, C, h, w)``, see `maps`."""
        maps = self.maps(points, labels, boxes, window)
        drawn: torch.Tensor = self.layers(nn.functional.pixel_shuffle(maps.flatten(1, 3), 2))
        return drawn

    def maps(
        self,
        points: torch.Tensor | None,
        labels: torch.Tensor | None,
        boxes: torch.Tensor | None,
        window: tuple[int, int, int, int],
    ) -> torch.Tensor:
        """Return the maps that `layers` convolve, ``(B, 9, 2, 2, 2 h, 2 w)``.

        The pixels ``(2 y + i, 2 x + j)`` of a map are in its part ``[i, j]``.

        Parameters
        ----------
        points, labels, boxes
            As SAM's prompt encoder takes them, see `napari_peftsam.segmentation.decode`.
        window
            Top, left, height and width of the embedding in the frame, in tokens.
        """
        given = boxes if points is None else points
        assert given is not None
        top, left, height, width = window
        y = self._centres(4 * top, 4 * height, given.device)[:, None, :, None]
        x = self._centres(4 * left, 4 * width, given.device)[None, :, None, :]
        nothing = given.new_zeros(len(given), 2, 2, 2 * height, 2 * width)
        maps = [nothing] * 3 if boxes is None else [*self._box_maps(boxes, x, y)]
        for sign in (1, 0):
            chosen = None if labels is None else labels == sign
            # To ask a GPU would take longer than to draw.
            none = chosen is None or (chosen.device.type == "cpu" and not chosen.any())
            if points is None or chosen is None or none:
                maps += [nothing] * len(self.reaches)
            else:
                maps += self._point_maps(points, chosen, x, y)
        return torch.stack(maps, dim=1)

    def _centres(self, first: int, count: int, device: torch.device) -> torch.Tensor:
        """Return the centres of a map's even and odd pixels, in model pixels ``(2, n)``."""
        pixels = torch.arange(first, first + count, device=device) * self.stride
        return (pixels + (self.stride - 1) / 2).view(-1, 2).t()

    @staticmethod
    def _box_maps(
        boxes: torch.Tensor, x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return maps of ones, of the depth inside the box and of that inside its ellipse."""
        x0, y0, x1, y1 = (edge.view(-1, 1, 1, 1, 1) for edge in boxes.unbind(1))
        depth = torch.minimum(torch.minimum(x - x0, x1 - x), torch.minimum(y - y0, y1 - y))
        across = (2 * x - x0 - x1) / (x1 - x0).clamp(min=1)
        along = (2 * y - y0 - y1) / (y1 - y0).clamp(min=1)
        ellipse = (1 - across**2 - along**2).clamp(min=-2)
        return torch.ones_like(depth), torch.tanh(depth / 8), ellipse

    def _point_maps(
        self, points: torch.Tensor, chosen: torch.Tensor, x: torch.Tensor, y: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return bells of several widths around the nearest of the chosen clicks."""
        across, along = (
            (axis - points[..., n].view(*points.shape[:2], 1, 1, 1, 1)) ** 2
            for n, axis in enumerate((x, y))
        )
        along = along.masked_fill(~chosen.view(*chosen.shape, 1, 1, 1, 1), torch.inf)
        if points.shape[1] == 1:  # exponentials of rows and columns instead of all pixels
            axes = across[:, 0], along[:, 0]
            row, col = ([torch.exp(a / (-2 * reach**2)) for reach in self.reaches] for a in axes)
            return [a * b for a, b in zip(row, col, strict=True)]
        nearest = (along + across).amin(1)
        return [torch.exp(nearest / (-2 * reach**2)) for reach in self.reaches]
