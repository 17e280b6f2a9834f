"""Entry point of ``python -m napari_peftsam``, the ``napari-peftsam`` command for torchrun."""

from __future__ import annotations

import sys

from napari_peftsam.cli import main

if __name__ == "__main__":
    sys.exit(main())
