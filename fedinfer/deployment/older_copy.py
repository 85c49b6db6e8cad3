"""A run folder that was put back from an old copy is noticed before anything is spent: its devices are ahead of it.

What is noticed is a version that the copy does not know. The word of one device does not stop a run; more
than half of those that answer are.
"""

from __future__ import annotations

from fedinfer.coordinator import Server, reachable
from fedinfer.errors import ConfigError, TransportError


def check_not_older(server: Server) -> None:
    """Refuse to go on from a repository that ends before what the devices run.

    Args:
        server: wiring of the run, before its first step.

    Raises:
        ConfigError: most devices that answer run a newer version.
    """
    newest = server.repository.newest_version
    try:
        runs = reachable(server.fleet, max(newest, 1))
    except TransportError:  # nobody answers now; whether that matters is for the next step to say
        return
    ahead = {device: version for device, version in runs.items() if version > newest}
    if 2 * len(ahead) > len(runs):
        raise ConfigError(
            f"{server.folder} is older than what devices got from it: {len(ahead)} of {len(runs)} run a version up to "
            f"{max(ahead.values())}, its repository ends at {newest}",
            hint="put a newer copy of the run folder back; devices take nothing that is older than what they have, and "
            "its ledger does not know what was spent since",
        )
    if ahead:
        server.emit("ahead", {"devices": sorted(ahead), "newest": newest})
