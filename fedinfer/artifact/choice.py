"""The compressed file or the plain one: the gates and the download size decide, and the record says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fedinfer.artifact.build import Built
from fedinfer.artifact.evaluate.measure import Baseline
from fedinfer.artifact.export.graph import load
from fedinfer.artifact.quantize.compression import Compression, sparsity
from fedinfer.artifact.release.delta import compress
from fedinfer.config import ArtifactSection
from fedinfer.errors import GateFailed
from fedinfer.ports import Clock


def choose(plain: Built, make: Callable[[Baseline], Built], settings: ArtifactSection, clock: Clock) -> Built:
    """Make the compressed build; keep it when it passes the gates and gains something, otherwise keep the plain one.

    Args:
        plain: build of the weights as they are.
        make: prunes, fine-tunes and builds; judged against the float model it is given, which is not pruned. GateFailed
            means that the plain build stays.
        settings: what was asked for.
        clock: measures the seconds it took.

    Returns:
        The build to push; its `slimming` says what happened.
    """
    start = clock.seconds()
    try:
        compressed = make(plain.baseline)
    except GateFailed as error:
        return replace(plain, slimming=_record(plain, None, settings, str(error), clock.seconds() - start))
    seconds = clock.seconds() - start
    reason = _no_gain(plain, compressed)
    record = _record(plain, compressed, settings, reason, seconds)
    renamed = tuple(replace(figures, recipe=f"slim {figures.recipe}") for figures in compressed.tried)
    return replace(plain if reason else compressed, slimming=record, tried=plain.tried + renamed)


def download_bytes(built: Built) -> int:
    """Size in bytes of the chosen file as one compressed frame, which is what a new device downloads.

    Args:
        built: with the file.
    """
    return len(compress(built.files[built.chosen.name]))


def _no_gain(plain: Built, compressed: Built) -> str:
    """Why the compressed file is not worth it; empty when it is smaller to download or has the better metric."""
    before, after = download_bytes(plain), download_bytes(compressed)
    if after < before or plain.loss_to(compressed.chosen.metric) < 0:
        return ""
    return (
        f"no gain: download of {after} bytes against {before}, metric {compressed.chosen.metric:.4f} against "
        f"{plain.chosen.metric:.4f}"
    )


def _record(
    plain: Built, compressed: Built | None, settings: ArtifactSection, reason: str, seconds: float
) -> Compression:
    return Compression(
        pruning=settings.pruning,
        qat_steps=settings.qat_steps,
        pushed=not reason,
        reason=reason,
        sparsity=sparsity(load(compressed.files[compressed.chosen.name])) if compressed else None,
        metric=compressed.chosen.metric if compressed else None,
        plain_metric=plain.chosen.metric,
        zstd_bytes=download_bytes(compressed) if compressed else None,
        plain_zstd_bytes=download_bytes(plain),
        seconds=seconds,
    )
