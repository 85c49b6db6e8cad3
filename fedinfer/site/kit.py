"""`server kit`: one file with what a device needs that no network reaches: the signed card, units, words, packages."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from fedinfer import __version__
from fedinfer.deployment import CARD, card_of, read_card
from fedinfer.errors import ConfigError, StoreError
from fedinfer.privacy import exactly
from fedinfer.secagg import fingerprint
from fedinfer.site.server import ServerFolder
from fedinfer.site.templates import unit

_READ_ME = """\
Device {device} of the site {site}. fedinfer {version} on both sides.

1. Compare with the site's authority, by telephone: its key has the fingerprint
   {fingerprint}
2. Install fedinfer: {install}
3. On the device; the key is made there and never leaves it:
   fedinfer device request --store STORE --out request --device {device} --data TABLE --site card
   By this its owner agrees to the task {task}, with epsilon {epsilon} and delta {delta} over all runs, in sums of
   {min_survivors} devices or more. --epsilon, --delta, --min-survivors and --task say otherwise.
4. Carry `request` to the authority and tell it the fingerprint that was shown; it answers with one file.
5. fedinfer device join FILE --store STORE
   fedinfer preflight STORE
   fedinfer device up --store STORE          (or install fedinfer-device.service)

SHA256SUMS lists the files: sha256sum -c SHA256SUMS
"""


def write_kit(server: ServerFolder, device: str, out: Path, packages: Sequence[Path] = ()) -> list[str]:
    """Write the kit of a device; nothing in it is secret.

    Args:
        server: of the site.
        device: its name.
        out: .tar file to write.
        packages: wheels, for a device that reaches no index.

    Returns:
        Names of the files in it.

    Raises:
        ConfigError: a name that the site does not list, no card, or a package that cannot be read.
        StoreError: it cannot be written.
    """
    if server.plan.devices and device not in server.plan.devices:
        raise ConfigError(f"{device!r} is no device of the site", hint=f"devices: {', '.join(server.plan.devices)}")
    data = card_of(server.folder)
    if not data:
        raise ConfigError(f"{server.folder / CARD}: no such file", hint="restore it from the offline folder")
    try:
        wheels = {f"packages/{path.name}": path.read_bytes() for path in packages}
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    signed = read_card(data)
    files = {
        CARD: data,
        "README.txt": _read_me(device, data, bool(wheels)).encode(),
        "fedinfer-device.service": unit(
            f"device {device} of {signed.card.site}",
            "fedinfer",
            "/opt/fedinfer/bin/fedinfer device up --store /var/lib/fedinfer/store",
            Path("/var/lib/fedinfer"),
        ).encode(),
        **wheels,
    }
    files["SHA256SUMS"] = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()
    ).encode()
    _write_tar(out, files)
    return list(files)


def _read_me(device: str, data: bytes, has_wheels: bool) -> str:
    signed = read_card(data)
    card = signed.card
    install = "pip install --no-index --find-links packages 'fedinfer[train]'" if has_wheels else (
        "pip install 'fedinfer[train]'"
    )  # fmt: skip
    return _READ_ME.format(
        device=device, site=card.site, version=__version__, fingerprint=fingerprint(signed.authority), install=install,
        task=card.task, epsilon=exactly(card.epsilon), delta=exactly(card.delta), min_survivors=card.min_survivors,
    )  # fmt: skip


def _write_tar(out: Path, files: dict[str, bytes]) -> None:
    try:
        with tarfile.open(out, "w") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror}") from error
