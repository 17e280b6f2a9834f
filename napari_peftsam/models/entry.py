"""One model's entry in the registry, wherever its file is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

import xxhash

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.folders import model_folder

__all__ = ["ModelEntry", "Part", "RemoteFile"]

Part = Literal["encoder", "decoder"]
"""``"encoder"``: the promptable model; ``"decoder"``: its decoder for automatic segmentation."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to download, and the xxh128 (hex) it must have; empty if that is not known."""

    url: str
    xxh128: str = ""


@dataclass(frozen=True)
class ModelEntry:
    """One model that can be named.

    Attributes
    ----------
    name
        What ``--model`` takes.
    title, purpose
        For people: its name, and one sentence on what it is good for.
    architecture
        A name of `ARCHITECTURES`; empty where only the checkpoint tells.
    megabytes
        Size of the checkpoint file, 0 if unknown.
    license, citation
        Terms of its weights, and what to cite; empty if not stated.
    source
        Where people can read about it.
    file
        A checkpoint that is kept where it is; None for models that are downloaded.
    url, xxh128
        Where the checkpoint is downloaded from, and its digest (hex, empty if unknown).
    decoder_url, decoder_xxh128
        The same for the decoder of automatic segmentation; empty if there is none.
    folder
        Where downloads are kept; None for `napari_peftsam.folders.model_folder`.
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
    folder: Path | None = None

    @property
    def path(self) -> Path | None:
        """The checkpoint on this computer, None if there is none."""
        return self._here("encoder")

    @property
    def available(self) -> bool:
        """Whether `build` can load it by name."""
        return self.path is not None

    @property
    def has_decoder(self) -> bool:
        """Whether a decoder for automatic segmentation can be downloaded."""
        return bool(self.decoder_url)

    @property
    def decoder_path(self) -> Path | None:
        """The decoder on this computer, None if there is none."""
        return self._here("decoder")

    def remote(self, part: Part = "encoder") -> RemoteFile:
        """Return where a part is downloaded from.

        Raises
        ------
        ConfigurationError
            If there is nothing to download.
        """
        if part == "encoder" and self.url:
            return RemoteFile(self.url, self.xxh128)
        if part == "decoder" and self.decoder_url:
            return RemoteFile(self.decoder_url, self.decoder_xxh128)
        if part == "decoder":
            raise ConfigurationError(f"the model {self.name!r} has no decoder to download")
        raise ConfigurationError(f"the model {self.name!r} is not downloaded: it is at {self.file}")

    def target(self, part: Part = "encoder", folder: Path | None = None) -> Path:
        """Return where a part is once it is downloaded.

        The name holds the beginning of the digest (or of the address' digest), so that an
        entry whose file was replaced by another version does not find the old one.

        Raises
        ------
        ConfigurationError
            If there is nothing to download.
        """
        remote = self.remote(part)
        version = (remote.xxh128 or xxhash.xxh128_hexdigest(remote.url.encode()))[:8]
        suffix = PurePosixPath(urlsplit(remote.url).path).suffix or ".pth"
        kind = "-decoder" if part == "decoder" else ""
        return (folder or self.folder or model_folder()) / f"{self.name}{kind}-{version}{suffix}"

    def unfinished(self, part: Part = "encoder", folder: Path | None = None) -> Path:
        """Return where a download keeps what has come so far, see `target`."""
        target = self.target(part, folder)
        return target.with_name(f"{target.name}.part")

    def absence(self, part: Part = "encoder") -> str:
        """Say in one line that a part is not on this computer, and how to get it."""
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

    def _here(self, part: Part) -> Path | None:
        if part == "encoder" and self.file is not None:
            path = self.file
        elif part == "encoder" or self.has_decoder:
            path = self.target(part)
        else:
            return None
        return path if path.is_file() else None
