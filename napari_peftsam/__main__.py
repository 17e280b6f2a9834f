"""``python -m napari_peftsam`` is ``napari-peftsam``; what torchrun starts."""

from __future__ import annotations

import sys

from napari_peftsam.cli import main

if __name__ == "__main__":
    sys.exit(main())
