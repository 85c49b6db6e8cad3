"""Metrics: figures of merit of classes and of numbers, numpy only."""

from fedinfer.metrics.classes import Labels, Probabilities, binary_auc, confusion, figures, precisions, recalls
from fedinfer.metrics.metric import Metric, class_score, likeliest, loss_of, number_score
from fedinfer.metrics.numbers import number_figures

__all__ = [
    "Labels",
    "Metric",
    "Probabilities",
    "binary_auc",
    "class_score",
    "confusion",
    "figures",
    "likeliest",
    "loss_of",
    "number_figures",
    "number_score",
    "precisions",
    "recalls",
]
