"""When the noise of training rounds may be correlated, and by which strategy (trust central)."""

from __future__ import annotations

from typing import assert_never

from fedinfer.config import Correlation, Robust, Scenario
from fedinfer.errors import ConfigError
from fedinfer.privacy import Central, Factorization, Participation, factorize, noise_model
from fedinfer.types import Json, Unit


def correlate(scenario: Scenario, devices: int, cohort: int, rounds: int) -> Factorization | None:
    """The strategy of a run; None for independent noise.

    Args:
        scenario: says whether.
        devices: enrolled.
        cohort: asked in a round, 1..devices.
        rounds: of the whole run, those of every allowed trigger included.

    Raises:
        ConfigError: correlated noise is wanted where one server cannot add it, or where it would not be one Gaussian
            mechanism.
    """
    correlation = scenario.privacy.correlation
    match correlation:
        case Correlation.NONE:
            return None
        case Correlation.BANDED | Correlation.BLT:
            _check(scenario)
            if not rounds:
                return None
            separation = devices // cohort
            return factorize(Participation(rounds, -(-rounds // separation), separation), correlation)
        case _:
            assert_never(correlation)


def _check(scenario: Scenario) -> None:
    privacy, training = scenario.privacy, scenario.training
    wanted = f"[privacy] correlation = {str(privacy.correlation)!r}"
    if privacy.unit is Unit.NONE:
        raise ConfigError(f"{wanted}: with unit = 'none' there is no noise", hint="set correlation = 'none'")
    if not isinstance(noise_model(privacy.trust, privacy.unit), Central):
        raise ConfigError(
            f"{wanted} with trust = {str(privacy.trust)!r}: one party has to remember the noise of all rounds",
            hint="set trust = 'central', if devices may trust the server, or correlation = 'none'",
        )
    if training.robust is not Robust.MEAN:
        raise ConfigError(
            f"{wanted} with [training] robust = {str(training.robust)!r}: every group would have noise of its own, and "
            "groups change from round to round",
            hint="set robust = 'mean', or correlation = 'none'",
        )
    if privacy.unit is Unit.EXAMPLE and training.sampling_rate < 1:
        raise ConfigError(
            f"{wanted} with [training] sampling_rate = {training.sampling_rate:g}: no amplification by sampling is "
            "proved for correlated noise",
            hint="set sampling_rate = 1, or correlation = 'none'",
        )


def describe(factorization: Factorization | None) -> Json:
    """What a run record says about the strategy; the noise itself is nowhere.

    Args:
        factorization: of the run; None: independent noise.
    """
    if factorization is None:
        return {"kind": str(Correlation.NONE)}
    pattern = factorization.participation
    size = (
        {"buffers": len(factorization.buffers)} if factorization.buffers else {"bands": len(factorization.coefficients)}
    )
    return {
        "kind": str(factorization.kind),
        **size,
        "rounds": pattern.rounds,
        "limit": pattern.most,
        "separation": pattern.separation,
        "sensitivity": factorization.sensitivity,
    }
