"""One model of the registry and its files; which one to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import xxhash

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.folders import model_folder
from napari_peftsam.types import PixelArray

__all__ = [
    "IMAGE_KINDS",
    "ImageKind",
    "ModelEntry",
    "Part",
    "guess_image_kind",
    "recommend",
    "recommend_frame",
]

_HERE = ("127.0.0.1", "::1", "localhost")

Part = Literal["encoder", "decoder"]
"""``"encoder"``: the promptable model; ``"decoder"``: its decoder for automatic segmentation."""


def public(url: str) -> str:
    """Return an address without the name, password and query in it, to be shown."""
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
    except ValueError:  # e.g. a bracket that is not closed
        return url.rpartition("@")[2]


def is_trusted(url: str, xxh128: str) -> bool:
    """Return True if nobody on the way can exchange a file: by TLS, a digest, or no way."""
    parts = urlsplit(url)
    is_web = parts.scheme in {"http", "https"}
    return is_web and bool(parts.scheme == "https" or xxh128 or parts.hostname in _HERE)


@dataclass(frozen=True)
class ModelEntry:
    """A model that users choose by name.

    Attributes
    ----------
    name
        Value of ``--model``.
    title, purpose
        For people: its name, and one sentence on what it is good for.
    architecture
        A name of `ARCHITECTURES`; empty if only the checkpoint shows it.
    megabytes
        Size of the checkpoint file, 0 if unknown.
    license, citation
        Terms of its weights, and the publication to cite; empty if not stated.
    source
        Page or file to read about it.
    file
        Checkpoint that stays in its place; None for models that are downloaded.
    url, xxh128
        Address to download the checkpoint from, and its digest (hex, empty if unknown).
    decoder_url, decoder_xxh128
        The same for the decoder of automatic segmentation; empty if there is none.
    """

    name: str
    title: str
    architecture: str
    megabytes: int
    license: str
    source: str
    purpose: str = ""
    citation: str = ""
    file: Path | None = None
    url: str = ""
    xxh128: str = ""
    decoder_url: str = ""
    decoder_xxh128: str = ""

    @property
    def path(self) -> Path | None:
        """The checkpoint on this computer, None if there is none."""
        path = self.file or (self.target() if self.url else None)
        return path if path is not None and path.is_file() else None

    @property
    def available(self) -> bool:
        """True while `build` can load it by name."""
        return self.path is not None

    @property
    def decoder_path(self) -> Path | None:
        """The decoder on this computer, None if there is none."""
        path = self.target("decoder") if self.decoder_url else None
        return path if path is not None and path.is_file() else None

    def remote(self, part: Part = "encoder") -> tuple[str, str]:
        """Return address and xxh128 (empty if unknown) of a part that is downloaded.

        Raises
        ------
        ConfigurationError
            If there is nothing to download.
        """
        if part == "encoder" and self.url:
            return self.url, self.xxh128
        if part == "decoder" and self.decoder_url:
            return self.decoder_url, self.decoder_xxh128
        if part == "decoder":
            raise ConfigurationError(f"the model {self.name!r} has no decoder to download")
        raise ConfigurationError(f"the model {self.name!r} is not downloaded: it is at {self.file}")

    def target(self, part: Part = "encoder") -> Path:
        """Return the path that a part gets when it is downloaded, see `remote`.

        The name holds the beginning of the digest (or of the address' digest), so that an
        entry whose file was replaced by another version does not find the old one.
        """
        url, xxh128 = self.remote(part)
        version = (xxh128 or xxhash.xxh128_hexdigest(url.encode()))[:8]
        suffix = PurePosixPath(urlsplit(url).path).suffix or ".pth"
        kind = "-decoder" if part == "decoder" else ""
        return model_folder() / f"{self.name}{kind}-{version}{suffix}"

    def unfinished(self, part: Part = "encoder") -> Path:
        """Return the file of a download that is not complete, see `target`."""
        target = self.target(part)
        return target.with_name(f"{target.name}.part")

    def absence(self, part: Part = "encoder") -> str:
        """Return a line saying that a part is not on this computer, and how to get it."""
        if part == "encoder" and self.file is not None:
            return (
                f"the checkpoint of {self.name!r} is not on this computer: {self.file} is missing"
            )
        what, option = ("decoder", " --decoder") if part == "decoder" else ("checkpoint", "")
        size = f" ({self.megabytes} MB)" if part == "encoder" and self.megabytes else ""
        return (
            f"the {what} of {self.name!r} is not on this computer: get it{size} with "
            f"`napari-peftsam download {self.name}{option}`"
        )


# --- recommendations ----------------------------------------------------------------------

ImageKind = Literal["light", "electron", "colour"]
"""The kinds of images that models differ in: light microscopy (fluorescence, phase contrast,
brightfield), electron microscopy, colour images (stained tissue, photographs)."""

IMAGE_KINDS: dict[ImageKind, str] = {
    "light": "light microscopy", "electron": "electron microscopy", "colour": "histology, colour",
}  # fmt: skip
"""Their names for people."""

# The larger and the smaller real checkpoint for each kind, names of the registry.
_LARGE: dict[ImageKind, str] = {
    "light": "vit_l_lm", "electron": "vit_l_em_organelles", "colour": "vit_l",
}  # fmt: skip
_BASE: dict[ImageKind, str] = {
    "light": "vit_b_lm", "electron": "vit_b_em_organelles", "colour": "vit_b",
}  # fmt: skip
_OFFLINE = "builtin"
# Below, a model can annotate but hardly be finetuned. micro-sam's users report ViT-B to be
# tight on 8 to 10 GB (its issues 893, 1015 and 1038).
_BASE_BYTES, _LARGE_BYTES = 7 * 10**9, 16 * 10**9
_SAMPLED = 256  # pixels of each side that a guess looks at
_SMALL_FRAME = 512  # pixels
_COLOURED = 6.0  # of 255: a mean difference between channels that is no compression artefact
_DARK = 0.25  # fluorescence leaves most of the image in this share of its range


def recommend(kind: ImageKind, gpu_memory: int | None) -> tuple[str, str]:
    """Return the name of the model to start with, and the reason in one sentence.

    Parameters
    ----------
    gpu_memory
        Bytes of the GPU that it will run on, see `napari_peftsam.models.device_memory`;
        None for the CPU.
    """
    what, base = IMAGE_KINDS[kind], _BASE[kind]
    if gpu_memory is None:
        return _OFFLINE, (
            "without a GPU the others take about ten seconds per image, and minutes for a few "
            f"steps of finetuning; to annotate only, {base} is worth the wait"
        )
    gigabytes = f"{gpu_memory / 1e9:.0f} GB"
    if gpu_memory < _BASE_BYTES:
        reason = f"{gigabytes} are little to finetune the others with; to annotate only, "
        return _OFFLINE, f"{reason}{base} is better for {what}"
    if gpu_memory < _LARGE_BYTES:
        return base, f"for {what}; finetuning the larger ones wants more than {gigabytes}"
    return _LARGE[kind], f"the best there is for {what}, for which {gigabytes} do"


def recommend_frame(shape: tuple[int, ...], gpu_memory: int | None) -> tuple[int | None, str]:
    """Return the frame to load Segment Anything with for planes of a shape, and the reason.

    None is the frame of the checkpoint. `gpu_memory` is as of `recommend`.
    """
    if gpu_memory is not None or max(shape) > _SMALL_FRAME:
        return None, ""
    return _SMALL_FRAME, (
        f"images up to {_SMALL_FRAME} pixels lose no detail in it, and without a GPU they are "
        "embedded about five times and finetuned about four times faster than at 1024; it "
        "was trained at 1024, so finetune it before you judge it"
    )


def guess_image_kind(pixels: PixelArray, rgb: bool = False) -> ImageKind | None:
    """Guess the kind of an image ``(H, W)``, with `rgb` ``(H, W, 3 or 4)``, from a sample.

    Colour, and the dark background of fluorescence, are recognised. Grey images in the
    middle of their range may be phase contrast or electron microscopy: None, ask the user.
    """
    steps = tuple(max(1, side // _SAMPLED) for side in pixels.shape[:2])
    sample = np.asarray(pixels[:: steps[0], :: steps[1]], np.float32)
    finite = sample[np.isfinite(sample)]
    if finite.size == 0 or finite.min() == finite.max():
        return None
    low, high = (float(v) for v in np.percentile(finite, (1, 99.8)))
    if rgb:
        scale = 255 / max(high - low, 1e-6)
        channels = np.clip((sample[..., :3] - low) * scale, 0, 255)
        if float(np.ptp(channels, axis=-1).mean()) > _COLOURED:
            return "colour"
    return "light" if float(np.median(finite)) < low + _DARK * (high - low) else None
