"""`fedinfer privacy`: how much noise, what it costs, and what was spent."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, assert_never

import typer
from rich.table import Table

from fedinfer.cli.claims import statement_in
from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stdout
from fedinfer.config import load_scenario
from fedinfer.data import load
from fedinfer.errors import ConfigError
from fedinfer.privacy import (
    ANY_TASK,
    Event,
    Ledger,
    NoiseKind,
    Repeated,
    Spent,
    account,
    at_least,
    at_most,
    calibrate,
    design,
    epsilon_as_of_2017,
    exactly,
    flatten,
    gaussian_events,
    group_epsilon,
    rdp_epsilon,
    read_event,
    relation_of,
    rounding_of,
)
from fedinfer.report import limits, one_more
from fedinfer.store import read_store
from fedinfer.training import load_trainer
from fedinfer.types import Json, Relation, Trust, Unit

app = typer.Typer(no_args_is_help=True, help="Privacy: calibrate noise, account for it, read ledgers.")

BRACKET = (0.02, 1e5)
MAX_LOSS = 0.01

Epsilon = Annotated[float, typer.Option("--epsilon", help="target epsilon, > 0")]
Delta = Annotated[float, typer.Option("--delta", help="delta, in (0, 1)")]
Rounds = Annotated[int, typer.Option("--rounds", help="number of releases")]
Rate = Annotated[float, typer.Option("--sampling-rate", help="Poisson sampling rate of examples; 1 is no sampling")]
NoiseMultiplier = Annotated[
    float, typer.Option("--noise-multiplier", help="standard deviation of the noise over the clipping norm")
]
UnitOption = Annotated[Unit, typer.Option("--unit", help="what is protected: example or device")]
TrustOption = Annotated[Trust, typer.Option("--trust", help="who adds noise; distributed counts integer noise")]
RelationOption = Annotated[str, typer.Option("--relation", help="neighbours; default zero-out-one")]
Dimension = Annotated[
    int | None,
    typer.Option("--dimension", help="trust distributed: length of the vector; default the scenario's, or 1024"),
]
Devices = Annotated[
    int | None,
    typer.Option("--devices", help="trust distributed: devices whose noise is counted; default the scenario's, or 100"),
]
ScenarioOption = Annotated[
    str, typer.Option("--scenario", help="trust distributed: dimension and devices of this scenario, name or file")
]
USUAL_DIMENSION, USUAL_DEVICES = 1024, 100


@app.command()
def noise(
    epsilon: Epsilon,
    delta: Delta,
    rounds: Rounds,
    sampling_rate: Rate = 1.0,
    unit: UnitOption = Unit.EXAMPLE,
    trust: TrustOption = Trust.CENTRAL,
    relation: RelationOption = "",
    dimension: Dimension = None,
    devices: Devices = None,
    scenario: ScenarioOption = "",
    as_json: JsonOption = False,
) -> None:
    """The least noise multiplier for a target epsilon."""
    with errors_to_exit():
        neighbours, rate = _relation(unit, relation), _charged_rate(unit, sampling_rate)
        size = _size(scenario, dimension, devices)
        events = _events(unit, trust, rounds, rate, *size)
        z = calibrate(events, epsilon, delta, neighbours, _bracket(events))
        _show(z, account(events(z), delta, neighbours), rounds, sampling_rate, rate, unit, trust, as_json)


@app.command()
def epsilon(
    noise_multiplier: NoiseMultiplier,
    delta: Delta,
    rounds: Rounds,
    sampling_rate: Rate = 1.0,
    unit: UnitOption = Unit.EXAMPLE,
    trust: TrustOption = Trust.CENTRAL,
    relation: RelationOption = "",
    dimension: Dimension = None,
    devices: Devices = None,
    scenario: ScenarioOption = "",
    conversions: Annotated[
        bool,
        typer.Option("--conversions", help="also what older accounting says of the same noise, as figures in print"),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What a noise multiplier costs."""
    with errors_to_exit():
        neighbours, rate = _relation(unit, relation), _charged_rate(unit, sampling_rate)
        events = _events(unit, trust, rounds, rate, *_size(scenario, dimension, devices))
        done = events(noise_multiplier)
        spent, older = account(done, delta, neighbours), {}
        if conversions:
            older = {
                "renyi, conversion of 2017": epsilon_as_of_2017(done, delta, neighbours),
                "renyi, conversion used here": rdp_epsilon(done, delta, neighbours),
            }
        _show(noise_multiplier, spent, rounds, sampling_rate, rate, unit, trust, as_json, older)


@app.command()
def ledger(
    run_or_store: Annotated[Path, typer.Argument(help="run folder, or the SQLite file of a server or device")],
    owner: Annotated[str, typer.Option("--owner", help="only this owner")] = "",
    as_json: JsonOption = False,
) -> None:
    """Every spend: who, why, how much, and what is left."""
    with errors_to_exit():
        content = _read_ledgers(run_or_store, owner)
    if as_json:
        print_json(content)
        return
    stdout.print(_accounts_table(content["accounts"]))
    stdout.print(_entries_table(content["entries"]))


@app.command()
def statement(
    path: Annotated[Path, typer.Argument(help="run folder, build, run.json, manifest or statement file")],
    as_json: JsonOption = False,
) -> None:
    """What a run claims: one sentence, or with --json all of it, as run.json and signed manifests hold it."""
    with errors_to_exit():
        found = statement_in(path)
    if as_json:
        print_json(found.to_json())
        return
    stdout.print(found.sentence(), soft_wrap=True, markup=False)
    for line in (one_more(found.to_json()), *limits(found.to_json())):
        if line:
            stdout.print(line.strip(), soft_wrap=True, markup=False)


@app.command()
def group(
    run_or_store: Annotated[Path, typer.Argument(help="run folder, or the SQLite file of a server or device")],
    rows: Annotated[str, typer.Option("--rows", help="how many rows together, several with commas")] = "1,2,5,10",
    owner: Annotated[str, typer.Option("--owner", help="only this owner")] = "",
    as_json: JsonOption = False,
) -> None:
    """What the spends cost somebody with several rows (or devices): epsilon at the same delta, from the events."""
    with errors_to_exit():
        found = _groups(_read_ledgers(run_or_store, owner), _counts(rows))
    if as_json:
        print_json({"path": str(run_or_store), "groups": found})
        return
    stdout.print(_groups_table(found))
    stdout.print("Together at the same delta; a dash: no finite bound is proved.", soft_wrap=True)


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise ConfigError(f"--rows {text!r} is no list of whole numbers", hint="for instance --rows 2,5,10") from error


def _groups(ledgers: Json, counts: Sequence[int]) -> list[Json]:
    """One row per different history: the devices of a fleet mostly spent the same."""
    events: dict[tuple[str, str, str], list[Event]] = {}
    for entry in ledgers["entries"]:
        key = (entry["ledger"], entry["owner"], entry["task"])
        events.setdefault(key, []).append(read_event(entry["event"]))
    found: dict[tuple[object, ...], Json] = {}
    for row in ledgers["accounts"]:
        mine = (row["ledger"], row["owner"])
        own = {task: spent for (*place, task), spent in events.items() if tuple(place) == mine}
        together = [event for spent in own.values() for event in spent] if len(own) > 1 else None
        spent = together if row["task"] == ANY_TASK else own.get(row["task"])
        if spent is None:
            continue
        known = (flatten(spent), row["budget"]["delta"], row["unit"])
        if known in found:
            found[known]["owners"] += 1
            continue
        epsilons = {str(count): group_epsilon(spent, row["budget"]["delta"], count) for count in counts}
        found[known] = {
            "owner": row["owner"],
            "owners": 1,
            "task": row["task"],
            "unit": row["unit"],
            "delta": row["budget"]["delta"],
            "epsilon": {count: value if math.isfinite(value) else None for count, value in epsilons.items()},
        }
    return list(found.values())


def _groups_table(found: Sequence[Json]) -> Table:
    table = _ledger_table(("owner", "task", "together", "epsilon", "delta"), figures=("together", "epsilon", "delta"))
    for row in found:
        others = f" and {row['owners'] - 1} more" if row["owners"] > 1 else ""
        for count, epsilon in row["epsilon"].items():
            unit = row["unit"] if row["unit"] == "device" else "row"
            together = f"{count} {unit}{'s' if count != '1' else ''}"
            told = "-" if epsilon is None else at_most(epsilon, 4)
            table.add_row(f"{row['owner']}{others}", row["task"], together, told, at_most(row["delta"], 6))
    return table


def _relation(unit: Unit, name: str) -> Relation:
    if unit is Unit.NONE:
        raise ConfigError("unit none has no epsilon", hint="choose --unit example or --unit device")
    if not name:
        return relation_of(unit)
    try:
        return Relation(name)
    except ValueError as error:
        raise ConfigError(f"relation {name!r} is not one of {', '.join(Relation)}") from error


def _charged_rate(unit: Unit, rate: float) -> float:
    if not 0 < rate <= 1:
        raise ConfigError(f"sampling rate {rate} is outside (0, 1]")
    return unit.sampling_rate(rate)


def _size(scenario: str, dimension: int | None, devices: int | None) -> tuple[int, int]:
    """Length of a vector and devices in a sum: as said, else those of the scenario, else usual ones."""
    if not scenario:
        return dimension or USUAL_DIMENSION, devices or USUAL_DEVICES
    loaded = load_scenario(scenario)
    federation = load(loaded)
    if dimension is None:
        trainer = load_trainer(loaded.model, federation.schema, loaded.training, loaded.scenario.seed)
        dimension = trainer.dimension
    return dimension, devices or len(federation.devices)


def _bracket(events: Callable[[float], Sequence[Event]]) -> tuple[float, float]:
    """Noise multipliers to search: as much noise as fits into a ring of the largest size."""
    least, most = BRACKET
    while most > 2 * least:
        try:
            events(most)
        except ConfigError:
            most /= 2
        else:
            break
    return least, most


def _events(
    unit: Unit, trust: Trust, rounds: int, rate: float, dimension: int, devices: int
) -> Callable[[float], Sequence[Event]]:
    match trust:
        case Trust.LOCAL | Trust.CENTRAL:
            return lambda z: gaussian_events(z, rounds, rate)
        case Trust.DISTRIBUTED:
            pass
        case _:
            assert_never(trust)
    if rounds < 1:
        raise ConfigError(f"rounds must be at least 1, got {rounds}")
    rounding = rounding_of(unit)

    def make(z: float) -> Sequence[Event]:
        mechanism = design(
            kind=NoiseKind.SKELLAM,
            rounding=rounding,
            dimension=dimension,
            clipping_norm=1.0,
            noise_multiplier=z,
            contributors=devices,
            summands=devices,
            units=devices,
            max_loss=MAX_LOSS,
        )
        return (Repeated(mechanism.event(rate), rounds),)

    return make


def _show(
    z: float,
    spent: Spent,
    rounds: int,
    asked_rate: float,
    rate: float,
    unit: Unit,
    trust: Trust,
    as_json: bool,
    older: Mapping[str, float] = MappingProxyType({}),
) -> None:
    notes = []
    if rate != asked_rate:
        notes.append("sampling of devices is not amplified: the server sees who takes part; charged without sampling")
    result: Json = {
        "noise_multiplier": z,
        **spent.to_json(),
        "rounds": rounds,
        "sampling_rate": rate,
        "unit": str(unit),
        "trust": str(trust),
        "notes": notes,
    }
    if as_json:
        print_json(result | ({"conversions": dict(older)} if older else {}))
        return
    cost = f"epsilon {at_most(spent.epsilon, 6)} at delta {at_most(spent.delta, 6)}"
    stdout.print(f"noise multiplier {at_most(z, 6)}, {cost}")
    stdout.print(f"{rounds} rounds, unit {unit}, trust {trust}, sampling rate {rate:g} ({spent.sampling})")
    stdout.print(f"accountant {spent.accountant}, relation {spent.relation}")
    for name, epsilon in older.items():
        stdout.print(f"{name}: epsilon {at_most(epsilon, 6)}")
    for note in notes:
        stdout.print(f"note: {note}")


def _read_ledgers(path: Path, owner: str) -> Json:
    files = sorted(path.rglob("*.sqlite")) if path.is_dir() else [path]
    found = [(file, read) for file in files if (read := _read_ledger(file)) is not None]
    if not found:
        raise ConfigError(f"{path}: no ledger in it", hint="give a run folder or a server's or device's SQLite file")
    merged: Json = {"path": str(path), "accounts": [], "entries": []}
    for file, read in found:
        for part in ("accounts", "entries"):
            rows = [row for row in read[part] if owner in ("", row["owner"])]
            merged[part] += [{"ledger": file.name, **row} for row in rows]
    return merged


def _read_ledger(path: Path) -> Json | None:
    connection = read_store(path)
    try:
        table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'ledger_accounts'").fetchone()
        return Ledger(connection).to_json() if table else None
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: {error}") from error
    finally:
        connection.close()


def _ledger_table(names: Sequence[str], figures: Sequence[str]) -> Table:
    """Words are folded and figures never cut: an auditor reads it at 80 columns too."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name in figures)
    return table


def _accounts_table(accounts: Sequence[Json]) -> Table:
    table = _ledger_table(
        ("ledger", "owner", "task", "budget", "spent", "left", "delta", "accountant", "relation"),
        figures=("budget", "spent", "left", "delta"),
    )
    for row in accounts:
        spent, budget = row["spent"], row["budget"]
        figures = [exactly(budget["epsilon"]), at_most(spent["epsilon"], 4), at_least(row["remaining_epsilon"], 4)]
        rest = [at_most(budget["delta"], 6), spent["accountant"], spent["relation"]]
        table.add_row(row["ledger"], row["owner"], row["task"], *figures, *rest)
    return table


def _entries_table(entries: Sequence[Json]) -> Table:
    table = _ledger_table(
        ("reserved at", "owner", "task", "reference", "reason", "epsilon alone", "ran"), figures=("epsilon alone",)
    )
    for row in entries:
        names = [row["owner"], row["task"], row["reference"], row["reason"]]
        table.add_row(
            row["reserved_at"], *names, at_most(row["epsilon_alone"], 4), "yes" if row["committed_at"] else "no"
        )
    return table
