"""Simulated annotators, and agreement of instance segmentations."""

from napari_peftsam.configs import EvaluationConfig
from napari_peftsam.evaluation.clicks import (
    BatchPredictor,
    Candidates,
    box_ious,
    click_ious,
    clicks_to_reach,
    first_candidates,
)
from napari_peftsam.evaluation.evaluate import (
    EvaluationEvent,
    EvaluationProgress,
    EvaluationReport,
    evaluate,
)
from napari_peftsam.evaluation.metrics import (
    MSA_THRESHOLDS,
    Matching,
    average_precision,
    match_instances,
    mean_segmentation_accuracy,
)
from napari_peftsam.evaluation.targets import LabelledImage, Target

__all__ = [
    "MSA_THRESHOLDS",
    "BatchPredictor",
    "Candidates",
    "EvaluationConfig",
    "EvaluationEvent",
    "EvaluationProgress",
    "EvaluationReport",
    "LabelledImage",
    "Matching",
    "Target",
    "average_precision",
    "box_ious",
    "click_ious",
    "clicks_to_reach",
    "evaluate",
    "first_candidates",
    "match_instances",
    "mean_segmentation_accuracy",
]
