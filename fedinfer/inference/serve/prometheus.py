"""Counts as Prometheus text (exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedinfer.inference.serve.telemetry import EDGES_SECONDS, STEPS_PER_DOUBLING, VersionFigures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(
    figures: Iterable[VersionFigures],
    active_version: int,
    seconds_since_refresh: float | None,
    statuses: Mapping[int, int] | None = None,
) -> str:
    """All metrics of a device.

    Args:
        figures: of `Telemetry.figures`.
        active_version: that answers now.
        seconds_since_refresh: age of the last contact with the repository; None = never, and the metric is left out.
        statuses: of `Telemetry.statuses`.
    """
    versions = list(figures)
    lines = [*_head("fedinfer_model_version", "gauge", "version of the active model")]
    lines.append(f"fedinfer_model_version {active_version}")
    if seconds_since_refresh is not None:
        lines += _head("fedinfer_repository_age_seconds", "gauge", "time since the repository was last reached")
        lines.append(f"fedinfer_repository_age_seconds {seconds_since_refresh:.3f}")
    lines += _head("fedinfer_requests_total", "counter", "requests over HTTP by the status of their reply")
    for status, count in (statuses or {}).items():
        lines.append(f'fedinfer_requests_total{{status="{status}"}} {count}')
    text = "texts of requests that are no category and counted as missing, by column"
    lines += _head("fedinfer_unknown_categories_total", "counter", text)
    for version in versions:
        for name, count in sorted(version.unknown.items()):
            labels = f'version="{version.version}",column="{_escaped(name)}"'
            lines.append(f"fedinfer_unknown_categories_total{{{labels}}} {count}")
    lines += _head("fedinfer_errors_total", "counter", "refused or failed calls by error class")
    for version in versions:
        for name, count in sorted(version.errors.items()):
            lines.append(f'fedinfer_errors_total{{version="{version.version}",error="{_escaped(name)}"}} {count}')
    lines += _head("fedinfer_prediction_seconds", "histogram", "time per predicted row")
    for version in versions:
        lines += _histogram(version)
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _histogram(version: VersionFigures) -> list[str]:
    """Cumulative counts at every doubling; the finer buckets stay inside."""
    label, lines, total = f'version="{version.version}"', [], 0
    for place, count in enumerate(version.counts):
        total += count
        if place < len(EDGES_SECONDS) and place % STEPS_PER_DOUBLING == 0:
            lines.append(f'fedinfer_prediction_seconds_bucket{{{label},le="{EDGES_SECONDS[place]:.6g}"}} {total}')
    lines.append(f'fedinfer_prediction_seconds_bucket{{{label},le="+Inf"}} {total}')
    lines.append(f"fedinfer_prediction_seconds_sum{{{label}}} {version.seconds:.9g}")
    lines.append(f"fedinfer_prediction_seconds_count{{{label}}} {total}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
