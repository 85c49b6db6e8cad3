"""A malicious server that says what the task is: it may not run code, count rows, read cells, swap the update channel
or mix units of privacy on a real device; and a curious neighbour on the same machine reads no secrets."""

from __future__ import annotations

import importlib
import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import Scenario, to_flat
from fedinfer.data import load_own, public_schema
from fedinfer.deployment.node import open_host
from fedinfer.deployment.store import create_authority, enrol_device, read_authority
from fedinfer.device.counted import layout_of
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.device.reported import MAX_DETAIL, SENTENCES, UNTOLD
from fedinfer.messages import JoinReply, JoinRequest, Kind, Purpose
from fedinfer.messages.joining import MOST_DESCRIPTIONS
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.ledger import ANY_TASK, Budget
from fedinfer.privacy.charges import mechanism_of
from fedinfer.schema import Schema, Text
from fedinfer.system import SystemClock, SystemEntropy, simulation_rng
from fedinfer.types import Relation
from fedinfer.wire import decode, encode
from tests.protocol.fleet import NONCE, SCHEMA, Fleet, enrolled, real, revocations_of, settings, work, write_table

LARGE = Budget(8.0, 1e-5)
SECRET = "4711.815"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return enrolled(tmp_path / "stores", 1, LARGE)[0]


def listed(host: Host, device: str) -> bytes:
    return revocations_of(read_authority(host.folder(device).parent / "authority.key"))


def join(
    host: Host, scenario: Scenario, run_id: str = "run", root: bytes = b"root", schema: Schema | None = None
) -> Answer:
    """Ask the first device; without `schema` with the one that the scenario describes."""
    device, member = next(iter(host.members.items()))
    request = JoinRequest(
        run_id,
        NONCE,
        json.dumps(to_flat(scenario)),
        json.dumps((schema or public_schema(scenario)).to_json()),
        (device,),
        (member.identity.public_bytes,),
        (member.certificate,),
        listed(host, device),
        root,
    )
    return DeviceResponder(host).answer([Ask(device, Kind.JOIN, encode(request))])[0]


def declared(answer: Answer) -> int:
    assert not answer.error, answer
    return decode(JoinReply, answer.body).facts.rows


# --- code ---


def test_a_task_cannot_name_code_that_the_owner_did_not_allow(store: Path) -> None:
    """`this` is a module of Python that prints when it is imported; any installed module would do."""
    sys.modules.pop("this", None)
    host = open_host(store)
    answer = join(host, settings('model.factory = "this:d"'))
    assert answer.error == "Misbehaviour"
    assert "model factory 'this:d'" in answer.detail
    assert host.task is None
    assert "this" not in sys.modules


def test_an_owner_may_allow_a_factory(store: Path) -> None:
    text = json.loads((store / "device.json").read_text())
    (store / "device.json").write_text(json.dumps(text | {"factories": ["hospital.models:risk"]}))
    assert not join(open_host(store), settings('model.factory = "hospital.models:risk"')).error
    assert join(open_host(store), settings('model.factory = "hospital.models:other"'), "two").error == "Misbehaviour"


def test_an_owner_who_takes_a_permission_back_leaves_the_run_but_not_the_fleet(store: Path) -> None:
    text = json.loads((store / "device.json").read_text())
    (store / "device.json").write_text(json.dumps(text | {"factories": ["hospital.models:risk"]}))
    assert not join(open_host(store), settings('model.factory = "hospital.models:risk"'), "one").error
    (store / "device.json").write_text(json.dumps(text))
    host = open_host(store)
    assert host.task is None
    assert not join(host, settings(), "two").error


def test_a_task_cannot_name_a_file_to_read(store: Path) -> None:
    """Neither as the scenario to start from, nor as the table: the table is the one that the owner named."""
    other = store.parent / "private.toml"
    other.write_text('[scenario]\nname = "private"\n')
    device = json.loads((store / "device.json").read_text())["device"]
    request = JoinRequest(
        "run",
        NONCE,
        json.dumps({"scenario": str(other)}),
        json.dumps(SCHEMA.to_json()),
        (),
        (),
        (),
        listed(open_host(store), device),
        b"",
    )
    answer = DeviceResponder(open_host(store)).answer([Ask(device, Kind.JOIN, encode(request))])[0]
    assert answer.error == "BadMessage"
    assert "private" not in answer.detail
    write_table(store.parent / "larger.csv", 1, 90)
    named = settings(f'data.path = "{store.parent / "larger.csv"}"')
    assert declared(join(open_host(store), named)) == 15, "half of its own 30 rows"


def test_a_task_cannot_name_a_file_of_words_and_its_schema_is_what_it_describes(store: Path) -> None:
    """The words come with the task: a path of the server's may mean another file here."""
    secret = store.parent / "secret.txt"
    secret.write_text("Secret not a word\n")
    texts = settings(f'data.ranges = {{}}\ndata.text = "a"\ndata.vocabulary = "{secret}"')
    agreed, longer = (Schema((Text("a", length, ("good",)),), "y", ("no", "yes")) for length in (64, 65))
    assert declared(join(open_host(store), texts, "one", schema=agreed)) == 15
    for number, (scenario, schema) in enumerate(((texts, longer), (texts, SCHEMA), (settings(), longer))):
        answer = join(open_host(store), scenario, f"other-{number}", schema=schema)
        assert answer.error in ("Misbehaviour", "ConfigError")
        assert "ecret" not in answer.detail


# --- questions about the rows in the clothes of a description ---


def test_the_declared_number_of_rows_does_not_depend_on_what_is_in_them(store: Path) -> None:
    """`rows with label X` counts without noise when the server names label, classes and what is missing."""
    host = open_host(store)
    honest = declared(join(host, settings(), "one"))
    assert honest == 15
    only_yes = 'data.unlabelled = "drop"\ndata.missing_text = ["no"]'
    assert declared(join(open_host(store), settings(only_yes), "two")) == honest
    above = 'data.label = "c"\ndata.label_above = 5.0'
    assert declared(join(open_host(store), settings(above), "three")) == honest


def test_no_cell_of_the_table_leaves_in_an_error(store: Path) -> None:
    table = store.parent / "r00.csv"
    table.write_text(table.read_text().replace("a,b,c,y\n", f"a,b,c,y\n0.5,{SECRET}x,1,yes\n"))
    questions = ['data.label = "b"\ndata.labels = ["0", "1"]', "", 'data.drop = ["b"]\ndata.label = "a"']
    for number, question in enumerate(questions):
        answer = join(open_host(store), settings(question), f"run-{number}")
        assert answer.error == "DataError"
        assert SECRET not in answer.detail
        assert str(store.parent) not in answer.detail
        assert not answer.body


def test_a_programming_error_on_a_device_tells_the_server_nothing(store: Path) -> None:
    host = open_host(store)

    def broken(device: str) -> int:
        raise ValueError(f"could not convert string to float: {SECRET}")

    host.rows.training_count = broken  # type: ignore[method-assign]  # stands for any error nobody thought of
    answer = join(host, settings())
    assert answer.error == "FedInferError"
    assert answer.detail == UNTOLD


@pytest.mark.parametrize("scale", [2.0**40, 2.0**60])
def test_no_coordinate_of_an_unnoised_vector_leaves_in_an_error(tmp_path: Path, scale: float) -> None:
    """A huge scale makes the encoder refuse the vector, and its message names the largest coordinate. A large one would
    have the device add up noise for years. Both have as much noise as promised, so the ledger does not mind."""
    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())
    mechanism = encode(replace(fleet.plan.train.mechanism, scale=scale))
    fleet.sum(fleet.promise("round-1", work(), mechanism=mechanism), work())
    answers = fleet.post.answers(Kind.KEYS)
    assert {answer.error for answer in answers.values()} == {"Misbehaviour"}
    assert all("in a ring of" in answer.detail for answer in answers.values())
    assert not fleet.post.answers(Kind.MASKED)


def test_a_server_cannot_go_on_asking_whether_a_description_fits(store: Path) -> None:
    """Whether a list of classes covers all labels is one bit without noise; only a few of them are answered."""
    for number in range(MOST_DESCRIPTIONS):
        probe = settings(f'data.labels = ["no", "yes"]\ndata.missing_text = ["probe-{number}"]')
        assert not join(open_host(store), probe, f"run-{number}").error
    last = join(open_host(store), settings('data.missing_text = ["one more"]'), "last")
    assert last.error == "Misbehaviour"
    assert "descriptions" in last.detail
    known = settings('data.missing_text = ["probe-0"]')
    assert not join(open_host(store), known, "again").error, "what was tried before may be used for ever"


PROBES = {
    "labels": 'data.labels = ["no", "yes", "probe-{number}"]',
    "ranges": "data.ranges = {{ a = [0, {number}], b = [-1, 1], c = [0, 10] }}",
    "categories": 'data.categorical = ["a"]\ndata.categories = {{ a = ["0", "{number}"] }}\n'
    "data.ranges = {{ b = [-1, 1], c = [0, 10] }}",
}


@pytest.mark.parametrize("part", PROBES)
def test_labels_ranges_and_categories_are_part_of_a_description(part: str, store: Path) -> None:
    """Each of them is a question about the rows: a server that changes only this one asks no more often than others."""
    last = None
    for number in range(1, MOST_DESCRIPTIONS + 2):
        last = join(open_host(store), settings(PROBES[part].format(number=number)), f"run-{number}")
        assert (number <= MOST_DESCRIPTIONS) == ("descriptions" not in last.detail)
    assert last is not None
    assert last.error == "Misbehaviour"


def test_error_texts_are_bounded(store: Path) -> None:
    answer = join(open_host(store), settings(f'model.factory = "{"m" * 100_000}:f"'))
    assert answer.error == "Misbehaviour"
    assert len(answer.detail) <= MAX_DETAIL


# --- one row more or less moves nothing but itself ---


def test_a_row_does_not_decide_where_the_others_go(tmp_path: Path) -> None:
    """Training and held-out rows are chosen by their place: an empty label in one row moves no other row."""
    table, scenario = tmp_path / "t.csv", settings('data.unlabelled = "drop"')
    write_table(table, 3, 40)
    lines = table.read_text().splitlines()
    whole = load_own(scenario, public_schema(scenario), table, simulation_rng(1))
    for gone in range(1, 41):
        cells = lines[gone].split(",")
        table.write_text("\n".join([*lines[:gone], ",".join([*cells[:3], ""]), *lines[gone + 1 :]]) + "\n")
        less = load_own(scenario, public_schema(scenario), table, simulation_rng(1))
        sizes = sorted([len(whole.train_y) - len(less.train_y), len(whole.test_y) - len(less.test_y)])
        assert sizes == [0, 1]
        for before, after in ((whole.train_x, less.train_x), (whole.test_x, less.test_x)):
            kept = [row.tobytes() for row in before]
            assert [row.tobytes() for row in after] == [row for row in kept if row in {r.tobytes() for r in after}]


# --- the update channel ---


def test_the_first_trusted_root_is_pinned_for_all_later_runs(store: Path) -> None:
    assert not join(open_host(store), settings(), "one", b"first root").error
    host = open_host(store)
    assert not join(host, settings(), "two", b"root of somebody else").error
    assert host.joined().trusted_root == b"first root"
    assert open_host(store).joined().trusted_root == b"first root"


def test_a_run_without_a_root_does_not_unpin_it(store: Path) -> None:
    for run_id, root in (("one", b"first root"), ("two", b""), ("three", b"late root")):
        host = open_host(store)
        assert not join(host, settings(), run_id, root).error
        assert host.joined().trusted_root == b"first root"


# --- budgets of rows and of devices ---


def test_a_device_does_not_add_up_budgets_of_different_units(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bound for one row and a bound for a whole device bound different changes: their sum bounds neither."""
    assert not join(open_host(store), settings(), "rows").error
    host = open_host(store)
    answer = join(host, settings('privacy.unit = "device"'), "devices")
    assert answer.error == "ConfigError"
    assert answer.detail == SENTENCES["ConfigError"]
    assert "unit device" in caplog.text  # its owner reads why
    assert host.joined().run_id == "rows"


def test_the_ledger_of_a_device_names_the_relation_of_its_unit(store: Path) -> None:
    host = open_host(store)
    assert not join(host, settings('privacy.unit = "device"'), "run").error
    device = next(iter(host.members))
    for task in ("run", ANY_TASK):
        assert host.ledger.spent(device, task).relation is Relation.ZERO_OUT


def test_counts_of_a_run_that_protects_rows_are_cut_in_a_run_that_protects_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sketch that waits since another task holds raw counts: with trust `local` only the device itself can cut it."""
    from fedinfer.device.aggregate.contribution import private_vectors
    from fedinfer.drift.channels import clip_norm, report_channels, width
    from fedinfer.messages import ReportWork
    from tests.protocol.fleet import simulated

    scenario = settings('privacy.unit = "device"\nprivacy.trust = "local"\nprivacy.epsilon = 1000.0')
    fleet: Fleet = simulated(tmp_path, scenario, 4)
    device, job = min(fleet.hosts), encode(ReportWork(1))
    host = fleet.hosts[device]
    channels = report_channels(SCHEMA.classes)
    host.sketches.put(device, 1, np.full(width(channels), 500.0, np.float32), layout_of(channels))
    module = importlib.import_module("fedinfer.privacy.noise_model")
    monkeypatch.setattr(module, "lattice_gaussian", lambda std, unit, count, words: np.zeros(count))
    plan = fleet.promise("window-1", job, Purpose.DRIFT)
    vector = private_vectors(host, plan, job, [device])[0]
    norm = clip_norm(channels)
    assert np.linalg.norm(vector) <= norm + 1e-3
    assert mechanism_of(plan).clipping_norm > norm, "the ring would not have cut it"


# --- readers of files ---


def test_nobody_else_reads_the_files_of_a_device(store: Path) -> None:
    """device.sqlite holds the keys of a running round and counts without noise."""
    host = open_host(store)
    assert not join(host, settings()).error
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    assert stat.S_IMODE((store / "identity.key").stat().st_mode) == 0o600
    secret = [file for file in store.iterdir() if file.name.startswith("device.sqlite")]
    assert len(secret) >= 2, "the database and its log"
    assert {stat.S_IMODE(file.stat().st_mode) for file in secret} == {0o600}


def test_a_database_that_others_could_read_is_closed_to_them(store: Path) -> None:
    open_host(store)
    (store / "device.sqlite").chmod(0o644)
    open_host(store)
    assert stat.S_IMODE((store / "device.sqlite").stat().st_mode) == 0o600


def test_private_keys_are_in_no_repr(tmp_path: Path) -> None:
    authority = create_authority(tmp_path / "authority.key", SystemEntropy())
    write_table(tmp_path / "t.csv", 1, 10)
    store = enrol_device(tmp_path / "s", "d", tmp_path / "t.csv", LARGE, 2, authority, SystemEntropy(), SystemClock())
    host = open_host(tmp_path / "s")
    for private in (authority.private_bytes, store.identity.private_bytes):
        for shown in (repr(store), repr(host.members), repr(authority), str(host)):
            assert private.hex() not in shown
            assert repr(private)[2:-1] not in shown
