"""One model of the registry and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

import xxhash

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.folders import model_folder

__all__ = ["ModelEntry", "Part"]

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
