"""`device up`: the agent of a device that joined a site; everything it needs came with the approval."""

from __future__ import annotations

from pathlib import Path

from fedinfer.deployment import (
    CERTIFICATE,
    LOCK,
    NODE_KEY,
    TLS_AUTHORITY,
    AgentSettings,
    SiteCard,
    card_of,
    open_device,
    read_card,
)
from fedinfer.errors import ConfigError
from fedinfer.flower import holder
from fedinfer.types import Json

AGENT_LOG = "agent.log"


def site_of(store: Path) -> SiteCard:
    """The site that a device joined.

    Args:
        store: folder of the device.

    Raises:
        ConfigError: no device, or one whose approval named no site.
        Misbehaviour: the card is not signed by the device's authority.
    """
    device = open_device(store)
    data = card_of(store)
    if not data:
        raise ConfigError(
            f"{store} knows no site: its approval named none",
            hint="the authority approves with --site; or start `fedinfer device agent` with the address",
        )
    return read_card(data, device.authority).card


def agent_settings(store: Path, wait_seconds: float) -> AgentSettings:
    """How the agent of a device that joined a site is started.

    Args:
        store: folder of the device.
        wait_seconds: between two questions to the SuperLink, > 0.

    Raises:
        ConfigError: as `site_of`.
        Misbehaviour: as `site_of`.
    """
    return AgentSettings(site_of(store).superlink, store / TLS_AUTHORITY, store / NODE_KEY, wait_seconds)


def enrolled_status(store: Path) -> Json:
    """What there is to say of a device's part in runs; empty for a folder that only holds models.

    Args:
        store: folder of the device.

    Raises:
        ConfigError: its files are damaged.
    """
    if not (store / CERTIFICATE).exists():
        return {}
    device, process = open_device(store), holder(store / LOCK)
    document: Json = {
        "device": device.device,
        "agent": f"up, process {process}" if process else "down",
        "tasks": sorted(device.tasks),
    }
    if card_of(store):
        card = site_of(store)
        document |= {"site": card.site, "superlink": card.superlink}
    return document | {"epsilon_budget": device.budget.epsilon}
