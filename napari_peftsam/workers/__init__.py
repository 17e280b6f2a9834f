"""Independent tasks computed by several processes; knows nothing of images or models.

`distributed` is imported only when workers are asked for: it is an optional extra. Workers
import nothing heavy but what their tasks need.
"""

from __future__ import annotations

from .cluster import ClusterChoice, open_workers
from .run import Outcome, Place, Work, Workers

__all__ = ["ClusterChoice", "Outcome", "Place", "Work", "Workers", "open_workers"]
