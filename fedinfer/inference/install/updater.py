"""Bringing a new model onto the device: verify, stage, self-check, swap. On any error the old model keeps serving.

Order, and what stops it:

1. refresh the signed metadata (`tuf_channel.open_channel`), and stop serving what it has withdrawn
                                                                  BadSignature, Rollback, TransportError
2. read the current manifest and compare it with what is active   ArtifactRejected, Rollback, GateFailed
3. fetch the model file, by the smallest signed download          BadSignature, PatchRefused, TransportError
4. stage it in the idle slot and read it back from the disk       StoreError, ArtifactRejected
5. judge the bytes, self-check on the manifest's rows: first in a
   confined process, then as the model will serve                GateFailed
6. swap the pointer                                               StoreError
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from fedinfer.errors import (
    ArtifactRejected,
    BadSignature,
    GateFailed,
    PatchRefused,
    Refusal,
    Rollback,
    TransportError,
)
from fedinfer.inference.install.expand import expand
from fedinfer.inference.install.freshness import latest_known, note_refresh, staleness_warning
from fedinfer.inference.install.installed import MANIFEST_FILE, MODEL_FILE, installed_manifest
from fedinfer.inference.install.opening import open_variant
from fedinfer.inference.install.self_check import CheckResult, confined_check, self_check
from fedinfer.inference.install.slots import Loaded, SlotInfo, Slots
from fedinfer.inference.install.tuf_channel import Fetch, ModelChannel, open_channel
from fedinfer.inference.predict.session import SessionCache
from fedinfer.manifest import MAX_ARTIFACT_BYTES, MAX_MANIFEST_BYTES, Manifest, Variant, current_path
from fedinfer.model_file import Isolation
from fedinfer.ports import Clock
from fedinfer.schema import Schema


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """What this device asks of a model.

    Args:
        most_latency_us: bound on the median time of one prediction in the self-check, microseconds, > 0.
        stale_after_seconds: the device warns when the repository was not reached for longer.
        cohort: name of the rollout cohort whose model it runs; empty = the model of all devices.
        schema: rows the embedding program feeds; None = whatever the first model wants.
        measure: variants to measure on the first install, for instance ("float", "int8", "fp16"); the fastest that
            passes is kept, and its kind is kept by later installs. Empty = the variant the server chose.
        isolation: where a model that was never run here runs first.
    """

    most_latency_us: float
    stale_after_seconds: float
    cohort: str = ""
    schema: Schema | None = None
    measure: tuple[str, ...] = ()
    isolation: Isolation = Isolation.PROCESS


@dataclass(frozen=True, slots=True)
class InstallReport:
    """What an install did.

    Args:
        version: that is active now; 0 = none.
        previous_version: that was active before; 0 = none.
        installed: False when the device had the newest version already, or nothing is offered.
        variant: kind of the active model file.
        received_bytes: through the transport, metadata included.
        delta: True when the file came as a compressed frame or patch.
        check: of the installed model; None when nothing was installed.
        rejected: variants that failed while others were measured, with the reasons.
        withdrawn: versions that the repository has withdrawn and this device had until now.
    """

    version: int
    previous_version: int
    installed: bool
    variant: str
    received_bytes: int
    delta: bool = False
    check: CheckResult | None = None
    rejected: tuple[str, ...] = ()
    withdrawn: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A model file that came and whose digest fits."""

    variant: Variant
    model: bytes
    delta: bool


class Updater:
    """Installs models on one device.

    Args:
        slots: where models live.
        trusted_root: TUF root metadata the device was shipped with.
        metadata: folder of the last trusted metadata, for this device alone.
        settings: what the device asks of a model.
        clock: for durations only; expiry is judged at the `now` of `install`.
        cache: sessions shared by the devices of this process.
    """

    def __init__(
        self,
        slots: Slots,
        trusted_root: bytes,
        metadata: Path,
        settings: UpdateSettings,
        clock: Clock,
        cache: SessionCache,
    ) -> None:
        self._slots = slots
        self._trusted_root = trusted_root
        self._metadata = Path(metadata)
        self._settings = settings
        self._clock = clock
        self._cache = cache
        self._confined: set[str] = set()

    def install(self, fetch: Fetch, now: datetime) -> InstallReport:
        """Bring the device to the version its repository offers; drop what its repository has withdrawn.

        Where the current version was withdrawn and no other is offered, the report says which one serves: 0 = none.

        Args:
            fetch: path below the repository ("metadata/...", "targets/...") to its bytes, or None.
            now: time at which expiry is judged, timezone-aware; the last refresh when the clock is before that.

        Raises:
            BadSignature: tampered, truncated, oversized, expired, wrongly signed or under the threshold.
            PatchRefused: the same of a patch; the whole file may still be in order.
            Rollback: older than what the device has or saw, or withdrawn on this device.
            GateFailed: the self-check fails, or the rows of the model are not those of this device.
            ArtifactRejected: a malformed manifest.
            TransportError: the repository cannot be reached.
            StoreError: the disk refuses, or another process is installing.
        """
        with self._slots.exclusive():
            channel, gone = self._refresh(fetch, now)
            if channel.withdrawn and not channel.offers(current_path(self._settings.cohort)):
                return self._unchanged(channel, self._slots.active(), gone)
            manifest_bytes = channel.download(current_path(self._settings.cohort), MAX_MANIFEST_BYTES)
            manifest = Manifest.from_bytes(manifest_bytes)
            loaded = _usable(self._slots)
            if loaded is not None and self._has(manifest, loaded):
                return self._unchanged(channel, loaded.info, gone)
            self._admit(manifest, loaded, channel.withdrawn)
            return replace(self._bring(channel, manifest, manifest_bytes, loaded), withdrawn=gone)

    def withdraw(self, fetch: Fetch, now: datetime) -> tuple[int, ...]:
        """Drop what the repository has withdrawn, and install nothing.

        Args:
            fetch: as in `install`.
            now: as in `install`.

        Returns:
            All versions that the repository has withdrawn.

        Raises:
            BadSignature, Rollback, TransportError, StoreError: as in `install`.
        """
        with self._slots.exclusive():
            channel, _ = self._refresh(fetch, now)
            return channel.withdrawn

    def staleness_warning(self, now: datetime) -> str:
        """A sentence when the repository was not reached for longer than the settings allow; empty otherwise.

        Args:
            now: the clock's time, timezone-aware.
        """
        return staleness_warning(self._metadata, now, self._settings.stale_after_seconds)

    def _refresh(self, fetch: Fetch, now: datetime) -> tuple[ModelChannel, tuple[int, ...]]:
        """The channel, and which versions of this device its repository has withdrawn.

        The whole signed list counts each time, not what is new in it: a device that was killed between the metadata and
        the pointer catches up.
        """
        judged_at = latest_known(self._metadata, now)
        channel = open_channel(self._trusted_root, self._metadata, fetch, judged_at)
        note_refresh(self._metadata, judged_at)
        pointer = self._slots.pointer()
        had = {info.version for info in (pointer.active, pointer.previous) if info is not None}
        gone = tuple(version for version in channel.withdrawn if version in had)
        for version in gone:
            self._slots.withdraw(version)
        return channel, gone

    def _unchanged(self, channel: ModelChannel, active: SlotInfo | None, gone: tuple[int, ...]) -> InstallReport:
        version, variant = (0, "") if active is None else (active.version, active.variant)
        return InstallReport(version, version, False, variant, channel.received_bytes, withdrawn=gone)

    def _has(self, manifest: Manifest, loaded: Loaded) -> bool:
        digests = {variant.sha256 for variant in manifest.variants}
        return manifest.version == loaded.info.version and loaded.info.sha256[MODEL_FILE] in digests

    def _admit(self, manifest: Manifest, loaded: Loaded | None, withdrawn: tuple[int, ...]) -> None:
        """Refuse a manifest that does not follow what this device has, had and feeds."""
        self._slots.refuse_withdrawn(manifest.version)
        if manifest.version in withdrawn:
            raise Rollback(f"version {manifest.version} is offered and withdrawn at once", hint="publish a new version")
        active, schema = self._slots.active(), self._settings.schema
        if active is None and manifest.version < (had := max(self._slots.pointer().withdrawn, default=0)):
            raise Rollback(f"version {manifest.version} is offered, version {had} was here and is withdrawn")
        oldest = 0 if active is None else active.version + (loaded is not None)  # the same one only to repair
        if active is not None and manifest.version < oldest:
            raise Rollback(f"version {manifest.version} is offered, version {active.version} is active")
        if loaded is not None:
            old = installed_manifest(loaded)
            schema = schema or old.schema
            if old.task != manifest.task:
                raise GateFailed(
                    f"version {manifest.version} is for task {manifest.task!r}, not {old.task!r}", Refusal.TASK
                )
        if schema is not None and schema.to_json() != manifest.schema.to_json():
            raise GateFailed(
                f"version {manifest.version} wants other rows or labels than this device feeds", Refusal.SCHEMA
            )

    def _bring(
        self, channel: ModelChannel, manifest: Manifest, manifest_bytes: bytes, loaded: Loaded | None
    ) -> InstallReport:
        candidate, rejected = self._choose(channel, manifest, loaded)
        variant, delta = candidate.variant, candidate.delta
        staged = self._slots.stage(
            manifest.version, variant.name, {MODEL_FILE: candidate.model, MANIFEST_FILE: manifest_bytes}
        )
        del candidate  # a large model is in memory once: what is checked is what the disk has
        try:
            check = self._check(self._slots.read(staged)[MODEL_FILE], manifest, variant)
        except ArtifactRejected:
            self._slots.discard(staged)
            raise
        active = self._slots.active()
        self._slots.swap(staged)
        return InstallReport(
            version=staged.version,
            previous_version=active.version if active else 0,
            installed=True,
            variant=staged.variant,
            received_bytes=channel.received_bytes,
            delta=delta,
            check=check,
            rejected=rejected,
        )

    def _choose(
        self, channel: ModelChannel, manifest: Manifest, loaded: Loaded | None
    ) -> tuple[_Candidate, tuple[str, ...]]:
        """The server's choice, or the fastest measured one, or the kind that was fastest before."""
        names = [variant.name for variant in manifest.variants]
        if loaded is not None and self._settings.measure and loaded.info.variant in names:
            return self._fetch_variant(channel, manifest, manifest.variant(loaded.info.variant), loaded), ()
        measured = [name for name in self._settings.measure if name in names]
        if not measured:
            return self._fetch_variant(channel, manifest, manifest.chosen, loaded), ()
        return self._fastest(channel, manifest, measured, loaded)

    def _fastest(
        self, channel: ModelChannel, manifest: Manifest, names: list[str], loaded: Loaded | None
    ) -> tuple[_Candidate, tuple[str, ...]]:
        passed: list[tuple[float, _Candidate]] = []
        rejected: list[str] = []
        for name in names:
            candidate = self._fetch_variant(channel, manifest, manifest.variant(name), loaded)
            try:
                passed.append((self._check(candidate.model, manifest, candidate.variant).latency_us, candidate))
            except GateFailed as error:
                rejected.append(str(error))
        if not passed:
            raise GateFailed(f"version {manifest.version}: none of {names} passes: {'; '.join(rejected)}")
        return min(passed, key=lambda item: item[0])[1], tuple(rejected)

    def _check(self, model: bytes, manifest: Manifest, variant: Variant) -> CheckResult:
        if self._settings.isolation is Isolation.PROCESS and variant.sha256 not in self._confined:
            confined_check(model, manifest, variant, self._clock)
            self._confined.add(
                variant.sha256
            )  # a measured file is checked again when it is staged: that needs no process
        predictor = open_variant(model, manifest, self._cache)
        return self_check(predictor, manifest, variant, self._clock, self._settings.most_latency_us)

    def _fetch_variant(
        self, channel: ModelChannel, manifest: Manifest, variant: Variant, loaded: Loaded | None
    ) -> _Candidate:
        old_digest = loaded.info.sha256[MODEL_FILE] if loaded is not None else ""

        def old() -> bytes:
            return b"" if loaded is None else self._slots.read(loaded.info)[MODEL_FILE]

        model = _by_delta(channel, manifest, variant, old, old_digest)
        delta = model is not None
        if model is None:
            model = _signed(channel.download(variant.path, min(variant.bytes, MAX_ARTIFACT_BYTES)), variant)
        return _Candidate(variant, model, delta)


def _by_delta(
    channel: ModelChannel, manifest: Manifest, variant: Variant, old: Callable[[], bytes], old_digest: str
) -> bytes | None:
    """The model by the smallest delta that fits and is there; None = fetch the whole file."""
    fitting = [
        delta
        for delta in manifest.deltas
        if delta.to_sha256 == variant.sha256 and delta.from_sha256 in ("", old_digest) and delta.bytes < variant.bytes
    ]
    for delta in sorted(fitting, key=lambda item: item.bytes):
        try:
            data, base = channel.download(delta.path, delta.bytes), old() if delta.from_sha256 else b""
            return _signed(expand(delta, data, base, variant.bytes), variant)
        except TransportError:
            continue  # a pruned delta is no loss: the whole file follows
        except BadSignature as error:
            if delta.from_sha256:
                raise PatchRefused(str(error), hint="the whole file may still be in order") from error
            raise
    return None


def _signed(model: bytes, variant: Variant) -> bytes:
    """The model, if it is the one that the manifest means."""
    found = hashlib.sha256(model).hexdigest()
    if found != variant.sha256 or len(model) != variant.bytes:
        raise BadSignature(
            f"{variant.path}: {len(model)} bytes with digest {found[:16]}, "
            f"the manifest says {variant.bytes} and {variant.sha256[:16]}"
        )
    return model


def _usable(slots: Slots) -> Loaded | None:
    """What the device has; with both slots damaged it installs as if it were new."""
    try:
        loaded = slots.load((MANIFEST_FILE,))
    except ArtifactRejected:
        return None
    if loaded is not None:
        slots.settle(loaded)
    return loaded
