"""[fleet]: how simulated devices behave, and what a virtual fleet is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedinfer.config.fields import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    PositiveFraction,
    Probability,
    Section,
)

Spread = Annotated[float, Field(ge=0, le=3)]


class FleetDeviceSection(Section):
    """[fleet.device]: what devices of a virtual fleet can do. Medians and spreads are of lognormal distributions."""

    startup_seconds: NonNegative = Field(default=5.0, description="From the request to the first byte, on any device.")
    rows_per_second: Positive = Field(default=200.0, description="Median of the rows that a device trains in a second.")
    speed_spread: Spread = Field(default=0.6, description="Standard deviation of the logarithm of that speed.")
    download_mbit: Positive = Field(default=20.0, description="Median download, Mbit/s.")
    upload_mbit: Positive = Field(default=5.0, description="Median upload, Mbit/s.")
    bandwidth_spread: Spread = Field(default=0.8, description="Standard deviation of the logarithm of both.")
    memory_mb: Positive = Field(default=3000.0, description="Median memory, MB.")
    memory_spread: Spread = Field(default=0.5, description="Standard deviation of its logarithm.")
    battery_wh: Positive = Field(default=14.0, description="Median capacity of the battery, Wh.")
    battery_spread: Spread = Field(default=0.3, description="Standard deviation of its logarithm.")
    train_watts: NonNegative = Field(default=3.0, description="Power that training takes, W.")
    radio_watts: NonNegative = Field(default=1.2, description="Power that sending and receiving take, W.")
    available: PositiveFraction = Field(
        default=0.25, description="Part of the day in which a device is idle, charged and on free network."
    )
    available_swing: Fraction = Field(
        default=0.6,
        description="How much more often that is at 3 h local time, and more rarely at 15 h, as a part of `available`.",
    )
    zones: Annotated[int, Field(ge=1, le=24)] = Field(
        default=24, description="Time zones that the devices live in, from UTC eastwards, equally many in each."
    )
    crash_per_hour: NonNegative = Field(default=0.02, description="Crashes of a device per hour of work.")
    capacity_trace: str = Field(
        default="",
        description="CSV with the columns rows_per_second, download_mbit, upload_mbit, memory_mb, battery_wh (one line "
        "per measured device; devices take lines at random), relative to the TOML; replaces medians and spreads.",
    )
    availability_trace: str = Field(
        default="",
        description="CSV with the columns trace, start_seconds, end_seconds: when each recorded device was available "
        "(FedScale's shape). Devices take a trace and a place in it at random; it repeats after its last end. Replaces "
        "`available`, `available_swing` and `zones`.",
    )


class FleetClockSection(Section):
    """[fleet.clock]: rounds of a virtual fleet, under a virtual clock (`fedinfer fleet`; `fedinfer run` has none)."""

    rounds: Literal["synchronous", "buffered"] = Field(
        default="synchronous",
        description="`synchronous`: a cohort is asked, the first `training.cohort` answers are summed. `buffered`: "
        "devices work all the time, and every `buffer` answers are summed (FedBuff, Nguyen et al. 2022).",
    )
    over_selection: Annotated[float, Field(ge=1, le=10)] = Field(
        default=1.3, description="`synchronous`: devices asked for each one that is wanted."
    )
    concurrency: Natural = Field(default=0, description="`buffered`: devices that work at once; 0: `training.cohort`.")
    buffer: Count = Field(default=100, description="`buffered`: answers in one secure sum.")
    staleness_power: NonNegative = Field(
        default=0.5, description="`buffered`: an answer that is s versions old weighs (1 + s)^-this."
    )
    max_staleness: Natural = Field(default=20, description="`buffered`: older answers are thrown away.")
    participations: Natural = Field(
        default=0,
        description="Most sums that one device's answers go into; noise is planned for so many. 0: all.",
    )
    least_memory_mb: NonNegative = Field(default=0.0, description="Devices with less memory are not asked.")
    least_battery: Fraction = Field(default=0.3, description="Devices whose battery is emptier are not asked.")
    start_hour: Annotated[float, Field(ge=0, lt=24)] = Field(default=0.0, description="Time of day at the start, UTC.")
    target: NonNegative = Field(
        default=0.0, description="Value of the metric at which the time is noted; 0: none. The run goes on."
    )


class FleetSection(Section):
    """[fleet]: how simulated devices behave."""

    dropout: Probability = Field(
        default=0.0, description="Probability that a cohort member drops out before it sends anything."
    )
    late_dropout: Probability = Field(
        default=0.0, description="Probability that it drops out after sending its masked update."
    )
    device: FleetDeviceSection = Field(default=FleetDeviceSection(), description="See [fleet.device].")
    clock: FleetClockSection = Field(default=FleetClockSection(), description="See [fleet.clock].")

    @model_validator(mode="after")
    def _night_fits(self) -> FleetSection:
        most = self.device.available * (1 + self.device.available_swing)
        if most > 1:
            raise ValueError(
                f"[fleet.device] available = {self.device.available:g} with available_swing = "
                f"{self.device.available_swing:g}: at night that is {most:g} of the devices, at most 1 can be"
            )
        return self
