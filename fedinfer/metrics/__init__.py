"""Metrics: figures of merit of classes and of numbers, numpy only."""

from fedinfer.metrics.choice import RARE, JudgedBy, judged_by
from fedinfer.metrics.classes import (
    Labels,
    Probabilities,
    binary_auc,
    confusion,
    f1_of,
    figures,
    mean_recall,
    precisions,
    recalls,
)
from fedinfer.metrics.judgement import Answers, ClassJudgement, judge
from fedinfer.metrics.metric import Metric, class_score, likeliest, loss_of, number_score
from fedinfer.metrics.number_judgement import judge_numbers, number_scores, part_of_numbers, residuals
from fedinfer.metrics.numbers import number_figures
from fedinfer.metrics.parts import Attribute, Part, attribute_of, owners, part_of
from fedinfer.metrics.private_threshold import (
    MOST_COUNTED,
    check_edges,
    chosen_log_odds,
    edges_of,
    histogram_of,
    least_rows,
    log_odds,
)
from fedinfer.metrics.private_threshold import NORM as HISTOGRAM_NORM
from fedinfer.metrics.private_threshold import WIDTH as HISTOGRAM_WIDTH
from fedinfer.metrics.threshold import EVEN, best_threshold, decided_by

__all__ = [
    "EVEN",
    "HISTOGRAM_NORM",
    "HISTOGRAM_WIDTH",
    "MOST_COUNTED",
    "RARE",
    "Answers",
    "Attribute",
    "ClassJudgement",
    "JudgedBy",
    "Labels",
    "Metric",
    "Part",
    "Probabilities",
    "attribute_of",
    "best_threshold",
    "binary_auc",
    "check_edges",
    "chosen_log_odds",
    "class_score",
    "confusion",
    "decided_by",
    "edges_of",
    "f1_of",
    "figures",
    "histogram_of",
    "judge",
    "judge_numbers",
    "judged_by",
    "least_rows",
    "likeliest",
    "log_odds",
    "loss_of",
    "mean_recall",
    "number_figures",
    "number_score",
    "number_scores",
    "owners",
    "part_of",
    "part_of_numbers",
    "precisions",
    "recalls",
    "residuals",
]
