"""The slim file or the plain one: the gates and the download decide, and the record says why."""

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
    """Make the slim build and keep it when it passes the gates and gains something, otherwise keep the plain one.

    Args:
        plain: build of the weights as they are.
        make: prunes, fine-tunes, builds; judged against the float model it is given, the unpruned one.
        settings: what was asked for.
        clock: measures the seconds it took.

    Returns:
        The build to push; its `slimming` says what happened.
    """
    start = clock.seconds()
    try:
        compress = make(plain.baseline)
    except GateFailed as error:
        return replace(plain, slimming=_record(plain, None, settings, str(error), clock.seconds() - start))
    seconds = clock.seconds() - start
    reason = _no_gain(plain, compress)
    record = _record(plain, compress, settings, reason, seconds)
    renamed = tuple(replace(figures, recipe=f"slim {figures.recipe}") for figures in compress.tried)
    return replace(plain if reason else compress, slimming=record, tried=plain.tried + renamed)


def download_bytes(built: Built) -> int:
    """Size of the chosen file as one compressed frame."""
    return len(compress(built.files[built.chosen.name]))


def _no_gain(plain: Built, compress: Built) -> str:
    """Why the slim file is not worth it; empty when it is smaller to download or has the better metric."""
    before, after = download_bytes(plain), download_bytes(compress)
    if after < before or compress.chosen.metric > plain.chosen.metric:
        return ""
    return (
        f"no gain: download of {after} bytes against {before}, metric {compress.chosen.metric:.4f} against "
        f"{plain.chosen.metric:.4f}"
    )


def _record(
    plain: Built, compress: Built | None, settings: ArtifactSection, reason: str, seconds: float
) -> Compression:
    return Compression(
        pruning=settings.pruning,
        qat_steps=settings.qat_steps,
        pushed=not reason,
        reason=reason,
        sparsity=sparsity(load(compress.files[compress.chosen.name])) if compress else None,
        metric=compress.chosen.metric if compress else None,
        plain_metric=plain.chosen.metric,
        zstd_bytes=download_bytes(compress) if compress else None,
        plain_zstd_bytes=download_bytes(plain),
        seconds=seconds,
    )
