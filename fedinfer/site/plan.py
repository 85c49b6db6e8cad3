"""The file `site.toml`: the little that somebody must decide before a site can be made; everything else follows."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from fedinfer.errors import ConfigError
from fedinfer.printable import NAME_RULE, is_device_name

PLAN = "site.toml"
TEMPLATE = """\
# One site. `fedinfer server init DIR` makes keys, certificates, configuration and units from this file.
name = "pilot" # letters, digits and hyphens

# Names and IP addresses under which devices reach the server; they are told the first one, the certificate has all.
addresses = ["localhost"]
fleet = "0.0.0.0:9500" # where the server listens for devices
control = "127.0.0.1:9501" # where it listens for who may start runs: leave it on the loopback interface

# Who may be approved; [] = any name.
devices = ["hospital0", "hospital1", "hospital2", "hospital3"]

[run]
scenario = "heart" # a built-in scenario, or a TOML file beside this one
overrides = ["training.deadline_seconds=120", "drift.enabled=false", "fleet.dropout=0"]
public_data = "" # table with rows that the server may hold, beside this file; "" for none
min_devices = 4 # a run starts when so many are connected

[budget] # proposed to the owners of devices; each decides for its own device
epsilon = 5.0
delta = 1e-5
min_survivors = 3 # fewest devices in a sum
"""
HINT = "`fedinfer server init NEWDIR` writes an example with every key"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
MOST_NAME = 253
_HOST_PORT = re.compile(r"(\S+):(\d{1,5})")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("letters, digits and hyphens, at most 63")
    return text


def _device(text: str) -> str:
    if not is_device_name(text):
        raise ValueError(NAME_RULE)
    return text


def _address(text: str) -> str:
    """A name or an IP address that a certificate can hold and a device can reach."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.split(".")
        if len(text) > MOST_NAME or not all(_NAME.fullmatch(label) and label[-1] != "-" for label in labels):
            raise ValueError("a DNS name or an IP address, without a port") from None
    return text


def _listening(text: str) -> str:
    found = _HOST_PORT.fullmatch(text)
    if not found or not 0 < int(found[2]) < 1 << 16:
        raise ValueError("HOST:PORT")
    return text


Listening = Annotated[str, AfterValidator(_listening)]
_STRICT = ConfigDict(frozen=True, extra="forbid")


class SiteRun(BaseModel):
    """What a run of the site is told.

    Args:
        scenario: built-in name, or file beside `site.toml`.
        overrides: texts "section.key=value".
        public_data: table that the server may hold; empty: none.
        min_devices: a run starts when so many are connected.
    """

    model_config = _STRICT
    scenario: str
    overrides: tuple[str, ...] = ()
    public_data: str = ""
    min_devices: int = Field(ge=2)


class ProposedBudget(BaseModel):
    """What the site proposes to owners.

    Args:
        epsilon, delta: over all runs.
        min_survivors: fewest devices in a sum.
    """

    model_config = _STRICT
    epsilon: float = Field(gt=0, allow_inf_nan=False)
    delta: float = Field(gt=0, lt=1)
    min_survivors: int = Field(ge=2)


class SitePlan(BaseModel):
    """What `site.toml` says.

    Args:
        name: of the site.
        addresses: under which devices reach the server, the first one is told to them.
        fleet: HOST:PORT where it listens for devices.
        control: HOST:PORT where it listens for operators.
        devices: names that may be approved; empty: any.
        run: see `SiteRun`.
        budget: see `ProposedBudget`.
    """

    model_config = _STRICT
    name: Annotated[str, AfterValidator(_name)]
    addresses: tuple[Annotated[str, AfterValidator(_address)], ...] = Field(min_length=1)
    fleet: Listening
    control: Listening = "127.0.0.1:9501"
    devices: tuple[Annotated[str, AfterValidator(_device)], ...] = ()
    run: SiteRun
    budget: ProposedBudget

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.devices)) < len(self.devices):
            raise ValueError("devices: a name stands twice")
        if self.devices and max(self.run.min_devices, self.budget.min_survivors) > len(self.devices):
            raise ValueError(
                f"{len(self.devices)} devices are listed, run.min_devices is {self.run.min_devices} and "
                f"budget.min_survivors {self.budget.min_survivors}: no run would ever start"
            )
        if port_of(self.fleet) == port_of(self.control):
            raise ValueError(f"fleet and control have one port, {port_of(self.fleet)}: choose two")
        return self

    @property
    def superlink(self) -> str:
        """HOST:PORT that devices are told."""
        host = self.addresses[0]
        return f"{f'[{host}]' if ':' in host else host}:{port_of(self.fleet)}"


def port_of(listening: str) -> int:
    """The TCP port of HOST:PORT.

    Args:
        listening: as in a plan.
    """
    return int(listening.rpartition(":")[2])


def read_plan(path: Path) -> SitePlan:
    """Read `site.toml`.

    Args:
        path: of the file.

    Raises:
        ConfigError: it cannot be read, or says something impossible; all of it is named.
    """
    try:
        plan = SitePlan.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="fedinfer server init DIR") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(map(_told, error.errors()))}", hint=HINT) from error
    except ValueError as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from error
    return plan


def _told(problem: ErrorDetails) -> str:
    """A problem that pydantic found, in words."""
    key = ".".join(map(str, problem["loc"]))
    match problem["type"]:
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden":
            return f"unknown key {key}"
        case "too_short":
            return f"{key} is empty"
        case "tuple_type":
            return f"{key} must be a list"
        case "model_type":
            return f"[{key}] must be a table"
    rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{key}: {rule}" if key else rule
