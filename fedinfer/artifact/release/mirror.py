"""A copy of the repository for devices that come by themselves: static files behind any web server.

A repository offers a version from the moment it is signed, and a rollout brings it to one wave after the other. Devices
that fetch by themselves belong to no wave, so they get a copy that follows when a rollout is over: what waves have not
passed is not in it.

Rules:
* targets are copied first, `timestamp.json` last and each file at once, so who fetches meanwhile sees one state or the
  other;
* files that no state needs any more go afterwards.
"""

from __future__ import annotations

import json
from pathlib import Path

from fedinfer.artifact.release.files import list_files, read_file, remove_file, write_file
from fedinfer.artifact.release.targets import FOLDER, METADATA_FOLDER
from fedinfer.errors import BadSignature
from fedinfer.manifest import current_path

TIMESTAMP = f"{METADATA_FOLDER}/timestamp.json"


def mirror(source: Path, target: Path) -> None:
    """Make the copy say what the repository says now.

    Args:
        source: folder of the repository; nobody writes to it meanwhile.
        target: folder of the copy; made when it does not exist.

    Raises:
        StoreError: when a disk refuses; devices then see the state of before.
    """
    names = [name for name in list_files(source) if name.split("/")[0] in (FOLDER, METADATA_FOLDER)]
    for name in sorted(names, key=_order):
        data = read_file(source, name)
        if data is not None and (name == TIMESTAMP or read_file(target, name) != data):
            write_file(target, name, data)
    for name in set(list_files(target)) - set(names):
        remove_file(target, name)


def renew_mirror(source: Path, target: Path) -> bool:
    """Renew the signatures of a copy, unless the repository offers what the copy does not: a rollout is under way.

    Args:
        source: folder of the repository.
        target: folder of the copy; where there is none, none is made.

    Returns:
        Whether the copy was brought up to date.

    Raises:
        BadSignature: the repository holds no list of targets.
        StoreError: when a disk refuses.
    """
    if not target.is_dir():
        return False
    offered = _offered(source)
    if offered and offered != _offered(target):
        return False
    mirror(source, target)
    return True


def _order(name: str) -> tuple[bool, bool, str]:
    return name == TIMESTAMP, name.startswith(METADATA_FOLDER), name


def _offered(folder: Path) -> str:
    """Digest of the current manifest; empty when nothing is offered."""
    lists = [path for path in (folder / METADATA_FOLDER).glob("*.targets.json")]
    if not lists:
        raise BadSignature(f"{folder} holds no list of targets")
    newest = max(lists, key=lambda path: int(path.name.split(".")[0]))
    targets = json.loads(newest.read_bytes())["signed"]["targets"]
    return str(targets.get(current_path(), {}).get("hashes", {}).get("sha256", ""))
