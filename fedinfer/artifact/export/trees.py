"""Trees of scikit-learn as one ONNX operator: every ensemble is a sum of leaf values per class.

ONNX compares a float32 value with a float32 threshold. What that must be depends on what the estimator compares:

* trees and forests round a row to float32 themselves and keep float64 thresholds. The threshold is rounded down: for a
  float32 x, x <= t holds exactly when x <= the largest float32 that does not exceed t;
* histogram boosting compares float64 values, and its thresholds often are values of the table. The device rounds a
  value to the nearest float32, and rounding keeps order: the threshold is rounded to the nearest too, so that a value
  on it stays on its side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError

Offsets: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Forest:
    """Columns of the TreeEnsembleRegressor operator (ai.onnx.ml 3), filled tree by tree.

    Args:
        classes: number of outputs.
        base: added to every output, float64 (classes,).
        logarithm: True: the sums are probabilities, so that their logarithm is the logit; False: they are logits.
        offsets: what the reading rules take off each column before the graph sees it, float64 (width,).
        columns: attribute name to values.
    """

    classes: int
    base: npt.NDArray[np.float64]
    logarithm: bool
    offsets: Offsets
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def attributes(self) -> dict[str, Any]:
        """Attributes of the operator."""
        return {
            **self.columns,
            "n_targets": self.classes,
            "base_values": [float(value) for value in self.base],
            "aggregate_function": "SUM",
            "post_transform": "NONE",
        }


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree, whatever estimator it came from.

    Args:
        left, right: number of each node's children, int64 (nodes,); any value in a leaf.
        feature: column that a node compares, int64 (nodes,).
        threshold: a row goes left when its value is at most this, float64 (nodes,).
        missing_left: whether a missing value goes left, bool (nodes,).
        leaf: whether a node has no children, bool (nodes,).
        compared: precision in which the estimator compares, float32 or float64.
    """

    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float64]
    missing_left: npt.NDArray[np.bool_]
    leaf: npt.NDArray[np.bool_]
    compared: np.dtype[Any]


def plant(forest: Forest, number: int, tree: Tree, values: npt.NDArray[np.float64], targets: Sequence[int]) -> None:
    """Add a tree to a forest.

    Args:
        forest: grows.
        number: of the tree, 0, 1, ...; unique in the forest.
        tree: its splits.
        values: what each node votes, (nodes, len(targets)); only leaves are read.
        targets: class of each column of `values`.
    """
    nodes = len(tree.leaf)
    inner = ~tree.leaf
    threshold = tree.threshold - forest.offsets[np.where(inner, tree.feature, 0)]  # in double precision
    _extend(
        forest,
        nodes_treeids=[number] * nodes,
        nodes_nodeids=range(nodes),
        nodes_modes=["LEAF" if leaf else "BRANCH_LEQ" for leaf in tree.leaf],
        nodes_featureids=np.where(inner, tree.feature, 0).tolist(),
        nodes_values=_rounded(np.where(inner, threshold, 0.0), tree.compared).tolist(),
        nodes_truenodeids=np.where(inner, tree.left, 0).tolist(),
        nodes_falsenodeids=np.where(inner, tree.right, 0).tolist(),
        nodes_missing_value_tracks_true=(tree.missing_left & inner).astype(int).tolist(),
    )
    leaves = np.flatnonzero(tree.leaf).tolist()
    _extend(
        forest,
        target_treeids=[number] * (len(leaves) * len(targets)),
        target_nodeids=[leaf for leaf in leaves for _ in targets],
        target_ids=list(targets) * len(leaves),
        target_weights=values[tree.leaf].ravel().tolist(),
    )


def random_forest(estimator: Any, classes: int, offsets: Offsets) -> Forest:
    """A tree, a random forest or extra trees: the mean of the class shares in the leaves.

    Args:
        estimator: fitted DecisionTreeClassifier, RandomForestClassifier or ExtraTreesClassifier.
        classes: number of classes it was fitted to.
        offsets: what is taken off each column before the graph sees it, float64 (width,).
    """
    trees = getattr(estimator, "estimators_", None) or [estimator]
    forest = Forest(classes, np.zeros(classes), logarithm=True, offsets=offsets)
    for number, fitted in enumerate(trees):
        shares = fitted.tree_.value[:, 0, :]
        shares = shares / shares.sum(axis=1, keepdims=True) / len(trees)
        plant(forest, number, _of_sklearn(fitted.tree_), shares, range(classes))
    return forest


def gradient_boosting(estimator: Any, classes: int, offsets: Offsets) -> Forest:
    """GradientBoostingClassifier: start value plus learning rate times the leaves of all stages.

    Args:
        estimator: fitted GradientBoostingClassifier.
        classes: number of classes it was fitted to.
        offsets: what is taken off each column before the graph sees it, float64 (width,).

    Raises:
        ConfigError: when it has another loss than log_loss, or starts from an estimator of its own (`init`).
    """
    if estimator.init is not None or estimator.loss != "log_loss":
        raise ConfigError("GradientBoostingClassifier is converted with loss='log_loss' and without init")
    start = np.ravel(estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), np.float32)))
    forest, rate = Forest(classes, _two_sided(start), logarithm=False, offsets=offsets), estimator.learning_rate
    for number, (place, fitted) in enumerate(_with_class(estimator.estimators_)):
        plant(forest, number, _of_sklearn(fitted.tree_), rate * fitted.tree_.value[:, 0, :], (place,))
    return forest


def hist_gradient_boosting(estimator: Any, classes: int, offsets: Offsets) -> Forest:
    """HistGradientBoostingClassifier without categorical splits: start value plus the leaves of all stages.

    Args:
        estimator: fitted HistGradientBoostingClassifier; its leaves hold the learning rate already.
        classes: number of classes it was fitted to.
        offsets: what is taken off each column before the graph sees it, float64 (width,).

    Raises:
        ConfigError: when it has categorical splits.
    """
    if np.any(estimator.is_categorical_):
        raise ConfigError(
            "HistGradientBoostingClassifier with categorical splits cannot be converted",
            hint="fit it with categorical_features=None; category indices are then compared as numbers",
        )
    start = np.ravel(estimator._baseline_prediction)
    forest = Forest(classes, _two_sided(start), logarithm=False, offsets=offsets)
    for number, (place, predictor) in enumerate(_with_class(estimator._predictors)):
        nodes = predictor.nodes
        tree = Tree(
            left=nodes["left"].astype(np.int64),
            right=nodes["right"].astype(np.int64),
            feature=nodes["feature_idx"].astype(np.int64),
            threshold=nodes["num_threshold"],
            missing_left=nodes["missing_go_to_left"].astype(bool),
            leaf=nodes["is_leaf"].astype(bool),
            compared=np.dtype(np.float64),
        )
        plant(forest, number, tree, nodes["value"][:, None], (place,))
    return forest


def _of_sklearn(tree: Any) -> Tree:
    return Tree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=np.asarray(tree.missing_go_to_left).astype(bool),
        leaf=tree.children_left == -1,
        compared=np.dtype(np.float32),
    )


def _with_class(stages: Any) -> Iterable[tuple[int, Any]]:
    """Every tree of every stage with the class it votes for; a binary model has one tree per stage, for class 1."""
    return ((place if len(stage) > 1 else 1, tree) for stage in stages for place, tree in enumerate(stage))


def _two_sided(start: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Start values per class; a binary model has one, the logit of class 1 against a logit of 0."""
    return np.array([0.0, float(start[0])]) if len(start) == 1 else np.asarray(start, np.float64)


def _rounded(threshold: npt.NDArray[np.float64], compared: np.dtype[Any]) -> npt.NDArray[np.float32]:
    """Thresholds as float32: the largest that does not exceed each, or the nearest; see the module for why."""
    limit = np.finfo(np.float32).max
    nearest = np.clip(threshold, -limit, limit).astype(np.float32)
    if compared == np.float64:
        return nearest
    return np.where(nearest > threshold, np.nextafter(nearest, np.float32(-np.inf)), nearest).astype(np.float32)


def _extend(forest: Forest, **values: Iterable[Any]) -> None:
    for name, items in values.items():
        forest.columns.setdefault(name, []).extend(items)
