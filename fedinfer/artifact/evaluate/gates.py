"""Is a variant good enough to publish? Figures in, reasons out; no reason means yes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fedinfer.config import ArtifactSection
from fedinfer.types import Json


@dataclass(frozen=True, slots=True)
class Limits:
    """What a variant must keep to. All against the float model on the same rows.

    Args:
        max_metric_drop: of the task metric, in [0, 1].
        min_agreement: share of rows with the same class, in [0, 1].
        max_calibration_gap: rise of the expected calibration error, in [0, 1].
        max_batch_difference: how far a probability may move when a row is predicted by itself instead of in a batch.
        max_bytes: of the published file.
        max_latency_us: median of one prediction on this machine, microseconds; inf = no limit.
    """

    max_metric_drop: float
    min_agreement: float
    max_calibration_gap: float
    max_batch_difference: float
    max_bytes: int
    max_latency_us: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured for one variant; a quantization scheme that could not be applied has only a failure.

    Args:
        recipe: name of the scheme.
        variant: name of the variant it makes.
        bytes: size of the published file.
        metric: task metric on held-out rows, in [0, 1]; without labels the agreement with the float model.
        metric_drop: metric of the float model minus `metric`; negative when the variant is better.
        agreement: share of held-out rows with the float model's class, in [0, 1].
        calibration_error: expected calibration error after the temperature was fitted to this variant, in [0, 1].
        temperature: the fitted temperature, in [0.2, 20].
        batch_difference: largest change of a probability when a row is predicted by itself instead of in a batch.
        latency_us: median of one prediction on this machine, microseconds.
        failures: broken limits with their numbers; empty when the variant passed.
    """

    recipe: str
    variant: str
    bytes: int = 0
    metric: float = 0.0
    metric_drop: float = 0.0
    agreement: float = 0.0
    calibration_error: float = 0.0
    temperature: float = 1.0
    batch_difference: float = 0.0
    latency_us: float = 0.0
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True when no limit is broken."""
        return not self.failures

    def to_json(self) -> Json:
        """For reports and `--json`."""
        return {**asdict(self), "failures": list(self.failures), "passed": self.passed}


def limits_of(settings: ArtifactSection) -> Limits:
    """The limits of a scenario; those without a key of their own have fixed, documented values.

    Args:
        settings: section [artifact]; a latency limit of 0 means none.
    """
    return Limits(
        max_metric_drop=settings.max_metric_drop,
        min_agreement=settings.min_agreement,
        max_calibration_gap=settings.max_calibration_gap,
        max_batch_difference=0.05,
        max_bytes=settings.max_bytes,
        max_latency_us=settings.max_latency_us or float("inf"),
    )


def judge(figures: Figures, float_calibration_error: float, limits: Limits) -> tuple[str, ...]:
    """Every limit that is broken, with numbers; empty when the variant passes.

    Args:
        figures: of the variant.
        float_calibration_error: of the float model on the same rows, in [0, 1].
        limits: to keep.
    """
    gap = figures.calibration_error - float_calibration_error
    checks = (
        (figures.metric_drop <= limits.max_metric_drop, "metric drops by", figures.metric_drop, limits.max_metric_drop),
        (figures.agreement >= limits.min_agreement, "agreement", figures.agreement, limits.min_agreement),
        (gap <= limits.max_calibration_gap, "calibration error rises by", gap, limits.max_calibration_gap),
        (
            figures.batch_difference <= limits.max_batch_difference,
            "a row alone differs from a batch by",
            figures.batch_difference,
            limits.max_batch_difference,
        ),
        (figures.bytes <= limits.max_bytes, "bytes", figures.bytes, limits.max_bytes),
        (figures.latency_us <= limits.max_latency_us, "latency in us", figures.latency_us, limits.max_latency_us),
    )
    return tuple(
        f"{what} {_number(value)}, limit {_number(limit)}" for holds, what, value, limit in checks if not holds
    )


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
