"""Simulated annotators, and what their prompts are answered with.

The package offers the names that the `__all__` of these modules lists.
"""
# ruff: noqa: F403

from napari_peftsam.evaluation.automatic import *
from napari_peftsam.evaluation.clicks import *
from napari_peftsam.evaluation.evaluate import *
from napari_peftsam.evaluation.instances import *
from napari_peftsam.evaluation.intervals import *
from napari_peftsam.evaluation.targets import *
from napari_peftsam.evaluation.verdict import *
