"""`fedinfer device update|follow`: a device that fetches its models by itself, from a web server or a folder.

It needs no connection to the server of a run, and no Flower.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedinfer.cli.files import read_bytes
from fedinfer.cli.output import JsonOption, a_number, errors_to_exit, print_json, stdout
from fedinfer.errors import ArtifactRejected, StoreError, TransportError
from fedinfer.inference import MOST_LATENCY_US, SessionCache, Slots
from fedinfer.ports import Entropy
from fedinfer.system import SystemClock, SystemEntropy

if TYPE_CHECKING:
    from fedinfer.inference import Fetch, InstallReport

Store = Annotated[Path, typer.Option("--store", help="folder of this device's model")]
Source = Annotated[
    str, typer.Option("--from", help="https:// address of the repository, or a folder with a copy of it")
]
Root = Annotated[
    Path | None, typer.Option("--root", help="root metadata the device was shipped with; needed the first time only")
]
Authority = Annotated[Path | None, typer.Option("--ca", help="authority of the web server's TLS certificate")]
STALE_SECONDS = 7 * 86_400.0
SPREAD = 0.2
"""Devices that were started together do not stay together: a pause is longer or shorter by a tenth."""
_log = logging.getLogger(__name__)


def update(
    store: Store, source: Source, root: Root = None, authority: Authority = None, as_json: JsonOption = False
) -> None:
    """Fetch the newest signed model, verify, check and activate it; without a newer one nothing changes."""
    with errors_to_exit():
        report = _updating(store, source, root, authority)()
    if as_json:
        print_json(asdict(report))
    else:
        stdout.print(said(report), markup=False, soft_wrap=True)


def follow(
    store: Store,
    source: Source,
    every: Annotated[float, typer.Option(min=1, callback=a_number, help="seconds between two questions")] = 3600.0,
    root: Root = None,
    authority: Authority = None,
) -> None:
    """As update, again and again until the process is stopped; whatever goes wrong, the old model serves on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with errors_to_exit():
        once = _updating(store, source, root, authority)
        keep_following(once, pauses(every, SystemEntropy()), time.sleep)


def said(report: InstallReport) -> str:
    """What an update did, in a sentence.

    Args:
        report: of the update.
    """
    gone = "".join(f"version {version} was withdrawn; " for version in report.withdrawn)
    if not report.version:
        return f"{gone}this device has no model: the repository offers none"
    if not report.installed:
        return f"{gone}version {report.version} ({report.variant}) is the newest and was active already"
    before = report.previous_version or "none"
    return f"{gone}version {report.version} ({report.variant}) is active, before: {before}"


def pauses(seconds: float, entropy: Entropy) -> Iterator[float]:
    """Pauses between two questions, without end.

    Args:
        seconds: their mean, > 0.
        entropy: draws how much longer or shorter each is.
    """
    while True:
        share = int.from_bytes(entropy.take(4), "little") / 2**32
        yield seconds * (1 + SPREAD * (share - 0.5))


def keep_following(once: Callable[[], InstallReport], between: Iterator[float], sleep: Callable[[float], None]) -> None:
    """Update as often as there are pauses.

    Args:
        once: one update.
        between: seconds to wait after each.
        sleep: waits.
    """
    for pause in between:
        try:
            _log.info("%s", said(once()))
        except (TransportError, ArtifactRejected, StoreError) as error:
            _log.warning("not updated, the old model serves on: %s: %s", type(error).__name__, error)
        sleep(pause)


def _updating(store: Path, source: str, root: Path | None, authority: Path | None) -> Callable[[], InstallReport]:
    from fedinfer.deployment import trusted_root
    from fedinfer.inference import Updater, UpdateSettings

    trusted = trusted_root(store, b"" if root is None else read_bytes(root))
    fetch = _fetch(source, store / "fetched", authority)
    settings, clock = UpdateSettings(MOST_LATENCY_US, STALE_SECONDS), SystemClock()
    updater = Updater(Slots(store / "slots"), trusted, store / "metadata", settings, clock, SessionCache(4))
    return lambda: updater.install(fetch, clock.now())


def _fetch(source: str, cache: Path, authority: Path | None) -> Fetch:
    from fedinfer.inference import folder_fetch, web_fetch

    return web_fetch(source, cache, authority) if "://" in source else folder_fetch(Path(source))
