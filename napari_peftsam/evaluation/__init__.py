"""Figures: prompts simulated or replayed, and agreement of instance segmentations."""

from napari_peftsam.evaluation._objects import LabelledImage
from napari_peftsam.evaluation.clicks import (
    BatchPredictor,
    Candidates,
    box_ious,
    click_ious,
    clicks_to_reach,
    first_candidates,
)
from napari_peftsam.evaluation.evaluate import (
    EvaluationConfig,
    EvaluationEvent,
    EvaluationProgress,
    EvaluationReport,
    EvaluationStarted,
    evaluate,
)
from napari_peftsam.evaluation.metrics import (
    MSA_THRESHOLDS,
    Matching,
    average_precision,
    iou,
    match_instances,
    mean_segmentation_accuracy,
)
from napari_peftsam.evaluation.prompts import Target, first_click, next_click, tight_box
from napari_peftsam.evaluation.replay import replay

__all__ = [
    "MSA_THRESHOLDS",
    "BatchPredictor",
    "Candidates",
    "EvaluationConfig",
    "EvaluationEvent",
    "EvaluationProgress",
    "EvaluationReport",
    "EvaluationStarted",
    "LabelledImage",
    "Matching",
    "Target",
    "average_precision",
    "box_ious",
    "click_ious",
    "clicks_to_reach",
    "evaluate",
    "first_candidates",
    "first_click",
    "iou",
    "match_instances",
    "mean_segmentation_accuracy",
    "next_click",
    "replay",
    "tight_box",
]
