"""Figures of a model file: metric, agreement, calibration, latency. Pure functions on arrays, except `latency_us`."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.graph import open_session
from fedinfer.manifest import INPUT
from fedinfer.ports import Clock

Floats: TypeAlias = npt.NDArray[np.float64]
Classes: TypeAlias = npt.NDArray[np.int64]
Rows: TypeAlias = npt.NDArray[np.float32]

_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")


def softmax(logits: npt.NDArray[Any], temperature: float = 1.0) -> Floats:
    """Probabilities of logits divided by a temperature; the largest logit is subtracted first, so nothing overflows.

    Args:
        logits: (n, classes), finite.
        temperature: > 0.

    Returns:
        float64 (n, classes); each row sums to 1.
    """
    scaled = logits.astype(np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def cross_entropy(probabilities: Floats, target: Floats) -> float:
    """Mean of -sum(target * log p) over rows, natural logarithm; a probability below 1e-30 counts as 1e-30.

    Args:
        probabilities: float64 (n, classes), n >= 1.
        target: float64 (n, classes); one-hot labels or another model's probabilities.
    """
    return float(-(target * np.log(np.maximum(probabilities, 1e-30))).sum(axis=1).mean())


def fit_temperature(logits: npt.NDArray[Any], target: Floats) -> float:
    """The temperature in [0.2, 20] with the least cross-entropy against target probabilities.

    Golden-section search over log T; the loss is convex in 1/T, so it has one minimum (Guo et al. 2017, section 4.2).

    Args:
        logits: (n, classes), n >= 1.
        target: float64 (n, classes); one-hot labels or another model's probabilities.
    """
    low, high, ratio = np.log(0.2), np.log(20.0), (np.sqrt(5.0) - 1) / 2

    def loss(log_temperature: float) -> float:
        return cross_entropy(softmax(logits, float(np.exp(log_temperature))), target)

    left, right = high - ratio * (high - low), low + ratio * (high - low)
    left_loss, right_loss = loss(left), loss(right)
    for _ in range(30):  # leaves log T within 4.6 * 0.618^30 < 3e-6
        if left_loss <= right_loss:
            high, right, right_loss = right, left, left_loss
            left = high - ratio * (high - low)
            left_loss = loss(left)
        else:
            low, left, left_loss = left, right, right_loss
            right = low + ratio * (high - low)
            right_loss = loss(right)
    return float(np.exp((low + high) / 2))


def calibration_error(probabilities: Floats, y: Classes, bins: int = 10) -> float:
    """Expected calibration error with even confidence bins, in [0, 1] (Guo et al. 2017, equation 3).

    Of a file, over the few rows that are held out from fitting its temperature: 10 bins. `metrics.classes.ece`, of
    weights over all held-out rows, has 15 bins as in the paper.

    Args:
        probabilities: float64 (n, classes), n >= 1.
        y: labels, int64 (n,).
        bins: >= 1, of equal width from 0 to 1.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(y))


def one_hot(y: Classes, classes: int) -> Floats:
    """Labels as probabilities.

    Args:
        y: labels, int64 (n,), in [0, classes).
        classes: number of them.

    Returns:
        float64 (n, classes).
    """
    return np.asarray(np.eye(classes)[y])


def latency_us(model: bytes, row: npt.NDArray[Any], clock: Clock, output: str, repeats: int = 200) -> float:
    """Median time of one prediction on this machine, in microseconds, after 20 calls to warm up.

    Args:
        model: ONNX file.
        row: one raw row, float32 (width,) or text, object (1,).
        clock: measures the time; a frozen one gives 0.
        output: that is asked for.
        repeats: timed predictions, >= 1.

    Raises:
        GateFailed: when the file breaks a rule of `fedinfer.model_file` or cannot be loaded.
    """
    session = open_session(model)
    feed = {INPUT: row.reshape(1, -1)}
    for _ in range(20):
        session.run([output], feed)
    times = np.empty(repeats)
    for i in range(repeats):
        start = clock.seconds()
        session.run([output], feed)
        times[i] = clock.seconds() - start
    return float(np.median(times) * 1e6)


def instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Machine and the vector instructions that matter to int8, for instance "x86_64 avx2".

    Args:
        cpuinfo: where Linux lists them; on a system without such a file only the machine is named.
    """
    try:
        words = set(cpuinfo.read_text().split())
    except OSError:
        words = set()
    return " ".join([platform.machine(), *(flag for flag in _FLAGS if flag in words)])
