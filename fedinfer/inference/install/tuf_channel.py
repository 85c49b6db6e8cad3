"""The update channel of a device: python-tuf's client over any transport, in our errors and with our clock.

* Files come from one function, `Fetch`: "metadata/1.root.json", "targets/model/<hash>.7.json", ... to bytes or None.
* Expiry is judged at the time the caller gives. ngclient takes the time of the machine once, when it is made, and has
  no argument for it (python-tuf 7), so `open_channel` replaces that one value, and refuses to work when it is not
  where it is expected: a device that cannot check expiry must not install.
* Metadata and targets are bounded before a byte of them is read.
* What python-tuf refuses becomes BadSignature or Rollback; a file that does not come becomes TransportError.

Source of the rules: The Update Framework Specification 1.0, section 5 (client workflow).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import StorageError
from tuf.api import exceptions as tuf_errors
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from fedinfer.errors import BadSignature, ConfigError, FedInferError, Rollback, StoreError, TransportError
from fedinfer.inference.predict.session import first_line
from fedinfer.manifest import MAX_METADATA_BYTES, read_withdrawn

Fetch = Callable[[str], bytes | None]
"""Path below the repository to its bytes; None when it does not exist. May raise TransportError."""

_METADATA, _TARGETS = "metadata/", "targets/"
_PIECE_BYTES = 65536
_HINT = "pip install 'tuf>=7,<8'"
_CONFIG = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=8,
    root_max_length=MAX_METADATA_BYTES,
    timestamp_max_length=16_384,
    snapshot_max_length=MAX_METADATA_BYTES,
    targets_max_length=MAX_METADATA_BYTES,
)


class ModelChannel:
    """One refresh of the metadata and the downloads that rest on it. Made by `open_channel`."""

    def __init__(self, client: Updater, folder: Path, fetcher: _Fetcher) -> None:
        self._client = client
        self._folder = folder
        self._fetcher = fetcher

    @property
    def received_bytes(self) -> int:
        """Bytes that came through the transport so far."""
        return self._fetcher.received_bytes

    @property
    def withdrawn(self) -> tuple[int, ...]:
        """Versions that the repository has withdrawn: a field of the signed list of targets, so it cannot be held back.

        Raises:
            BadSignature: it is no list of versions.
        """
        return read_withdrawn(_trusted_set(self._client).targets.unrecognized_fields)

    def offers(self, path: str) -> bool:
        """Whether a target is signed.

        Args:
            path: target path, for instance "model/current.json".

        Raises:
            BadSignature: when the metadata of a delegated role is wrong.
            TransportError: when that metadata did not come.
        """
        with _our_errors(path):
            return self._client.get_targetinfo(path) is not None

    def download(self, path: str, most_bytes: int) -> bytes:
        """The bytes of a target whose length and hash are signed.

        Args:
            path: target path, for instance "model/7.onnx".
            most_bytes: refuse a target that is signed to be longer.

        Raises:
            BadSignature: not listed, too long, truncated or tampered.
            TransportError: the file did not come.
            StoreError: the disk refuses.
        """
        with _our_errors(path):
            target = self._client.get_targetinfo(path)
        if target is None:
            raise BadSignature(f"{path} is not signed by the repository")
        if target.length > most_bytes:
            raise BadSignature(f"{path} is signed to have {target.length} bytes, at most {most_bytes} are taken")
        file = self._folder / "download"
        try:
            with _our_errors(path):
                self._client.download_target(target, str(file))
                return file.read_bytes()
        finally:
            file.unlink(missing_ok=True)


def open_channel(trusted_root: bytes, folder: Path, fetch: Fetch, now: datetime) -> ModelChannel:
    """Refresh the trusted metadata.

    Args:
        trusted_root: root metadata the device was shipped with.
        folder: where the last trusted metadata is kept; one per device.
        fetch: the transport.
        now: time at which expiry is judged, timezone-aware.

    Raises:
        BadSignature: wrongly signed, under the threshold, expired, malformed or oversized metadata.
        Rollback: metadata older than what the device has seen.
        TransportError: the repository cannot be reached.
        StoreError: the folder cannot be written.
        ConfigError: `now` has no time zone, or this python-tuf cannot be given a time.
    """
    fetcher = _Fetcher(fetch)
    with _our_errors("metadata"):
        _sweep(folder)
        client = Updater(
            metadata_dir=str(folder),
            metadata_base_url=_METADATA,
            target_dir=str(folder),
            target_base_url=_TARGETS,
            fetcher=fetcher,
            config=_CONFIG,
            bootstrap=trusted_root,
        )
        _set_time(client, now)
        client.refresh()
    return ModelChannel(client, folder, fetcher)


def root_version(data: bytes) -> int:
    """Number of root metadata, which nobody has verified here; 0 when it says none.

    Args:
        data: of the root role, JSON.
    """
    try:
        return int(json.loads(data)["signed"]["version"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0


def folder_fetch(folder: Path) -> Fetch:
    """A transport that reads a copy of the repository in a folder, for instance on a memory stick.

    A path that leads out of the folder does not exist.

    Args:
        folder: with `metadata/` and `targets/`.

    Returns:
        The transport, as `Fetch` says.

    Raises:
        TransportError: only from the transport, when a file is there and cannot be read.
    """
    base = folder.resolve()

    def fetch(path: str) -> bytes | None:
        try:
            file = (base / path).resolve()
            return file.read_bytes() if file.is_relative_to(base) and file.is_file() else None
        except (OSError, ValueError) as error:
            raise TransportError(f"{folder}: {path[:80]!r} cannot be read: {first_line(error)}") from error

    return fetch


class _Fetcher(FetcherInterface):
    """Bytes of a dict, a message or a socket, in pieces, so that python-tuf stops reading at its bound."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch_one = fetch
        self.received_bytes = 0

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._fetch_one(url)
        if data is None:
            raise tuf_errors.DownloadHTTPError(f"{url} is not there", 404)
        self.received_bytes += len(data)
        return (bytes(data[i : i + _PIECE_BYTES]) for i in range(0, len(data), _PIECE_BYTES))


def _set_time(client: Updater, now: datetime) -> None:
    if now.tzinfo is None:
        raise ConfigError("the time for expiry has no time zone")
    trusted = _trusted_set(client)
    if not isinstance(getattr(trusted, "reference_time", None), datetime):
        raise ConfigError("this python-tuf keeps the time of expiry elsewhere", hint=_HINT)
    trusted.reference_time = now.astimezone(UTC)


def _trusted_set(client: Updater) -> Any:
    """The verified metadata, for which ngclient has no public name."""
    trusted = getattr(client, "_trusted_set", None)
    if trusted is None:
        raise ConfigError("this python-tuf keeps what it trusts elsewhere", hint=_HINT)
    return trusted


def _sweep(folder: Path) -> None:
    """Make the folder; remove what a killed process left half-written (python-tuf's temporary names)."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name.startswith("tmp") or path.name == "download":
            path.unlink(missing_ok=True)


@contextmanager
def _our_errors(what: str) -> Iterator[None]:
    try:
        yield
    except FedInferError:
        raise
    except tuf_errors.BadVersionNumberError as error:
        raise Rollback(f"{what}: {first_line(error)}", hint="the server is older than what this device saw") from error
    except tuf_errors.ExpiredMetadataError as error:
        raise BadSignature(f"{what}: {first_line(error)}", hint="check the clock; or the server must sign") from error
    except tuf_errors.UnsignedMetadataError as error:
        raise BadSignature(f"{what}: not enough valid signatures: {first_line(error)}") from error
    except tuf_errors.LengthOrHashMismatchError as error:
        raise BadSignature(f"{what}: tampered or truncated: {first_line(error)}") from error
    except tuf_errors.DownloadLengthMismatchError as error:
        raise BadSignature(f"{what}: oversized: {first_line(error)}") from error
    except tuf_errors.RepositoryError as error:
        raise BadSignature(f"{what}: {first_line(error)}") from error
    except tuf_errors.DownloadError as error:
        raise _download_error(what, error) from error
    except (OSError, StorageError) as error:
        raise StoreError(f"{what}: {first_line(error)}", hint="check free space and permissions") from error


def _download_error(what: str, error: Exception) -> FedInferError:
    """A transport's own typed error travels inside python-tuf's."""
    inner = error.__cause__
    if isinstance(inner, FedInferError):
        return inner
    return TransportError(f"{what}: {first_line(error)}", hint="the device keeps its model and tries again later")
