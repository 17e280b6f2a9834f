"""Build hook: ship the top-level napari.yaml inside the package, where npe2 looks for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MANIFEST = "napari.yaml"
PACKAGE = "napari_peftsam"


class ManifestHook(BuildHookInterface[Any]):
    """Put the manifest into wheels, and next to the sources of editable installs.

    npe2 reads ``napari_peftsam/napari.yaml`` from the folder that Python imports. A
    wheel simply gets a copy there. An editable install imports the checkout itself, and
    a file forced into its wheel would land in site-packages where nothing is imported
    from; hence the link in the checkout, which git ignores.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Prepare the build of one target; `version` is "standard" or "editable"."""
        if self.target_name != "wheel":
            return
        manifest = Path(self.root, MANIFEST)
        if version == "editable":
            link_or_copy(manifest, Path(self.root, PACKAGE, MANIFEST))
        else:
            build_data["force_include"][str(manifest)] = f"{PACKAGE}/{MANIFEST}"


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a relative link to `source`, or a copy where links are not allowed."""
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(Path("..", source.name))
    except OSError:  # Windows without developer mode, some network drives
        shutil.copyfile(source, target)
