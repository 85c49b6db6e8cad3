"""Ten thousand damaged inputs for every decoder: each is taken or refused with a typed error of its own kind.

Hypothesis looks for small surprises in the files beside this one; here the numbers are made by seeded mutation.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError

from fedinfer import messages, secagg, wire
from fedinfer.artifact.export.graph import OutputHead, finish, head_of, load
from fedinfer.artifact.release.delta import compress
from fedinfer.artifact.release.metadata import load_state
from fedinfer.config import parse_scenario
from fedinfer.config.load import find_scenario, scenario_names
from fedinfer.data.read import read_table
from fedinfer.errors import (
    ArtifactRejected,
    BadMessage,
    BadSignature,
    ConfigError,
    DataError,
    GateFailed,
    LogTampered,
    ProtocolAbort,
    StoreError,
)
from fedinfer.inference import Predictor
from fedinfer.inference.install import expand as compression
from fedinfer.inference.install.slots import Slots, read_pointer
from fedinfer.inference.predict.rows import RowReader
from fedinfer.inference.predict.session import SessionCache
from fedinfer.inference.predict.texts import TextReader
from fedinfer.inference.serve.answering import answer
from fedinfer.inference.serve.service import Service
from fedinfer.inference.serve.telemetry import Telemetry
from fedinfer.manifest import Delta, DeltaMethod, Manifest
from fedinfer.model_file import check_model
from fedinfer.privacy.accounting.events import (
    Composed,
    GaussianEvent,
    PoissonSampled,
    Repeated,
    SkellamEvent,
    event_from_json,
    to_json,
)
from fedinfer.rollout import log
from fedinfer.rollout.controller import RolloutState
from fedinfer.rollout.plan import read_devices, read_plan
from fedinfer.schema import Schema
from fedinfer.secagg import Stage, StageRequest
from fedinfer.secagg import messages as secagg_messages
from fedinfer.system import FrozenClock
from tests.property.mutants import CASES, MemoryFile, bytes_mutants, example, json_mutants, json_texts, survives
from tests.property.test_secagg_fuzz import recorded
from tests.protocol.secagg_play import STAGES
from tests.unit.artifact.text_model import COLUMN
from tests.unit.artifact.workshop import Site, dense_core, release, vector_schema
from tests.unit.inference.device_world import NOW, SCHEMA, Repository, make_model, make_updater
from tests.unit.rollout.test_rollout_cli import DEVICES, PLAN
from tests.unit.rollout.test_rollout_state import rollout

MANIFEST = json.loads(release(3)[0].to_bytes())
FILE = finish(dense_core((3, 4, 2)), OutputHead(vector_schema(3, 2), 1.0, "demo", 1))
OLD = FILE[:500] + b"old" + FILE[600:]
MODEL = make_model(seed=3)
TEXTS = Schema((COLUMN,), "tone", ("bad", "good"))


def message_kinds(module):
    found = [
        kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__.startswith(module.__name__)
    ]
    return [kind for kind in found if is_dataclass(kind)]


def test_manifests():
    def check(data):
        manifest = Manifest.from_bytes(data)
        assert Manifest.from_bytes(manifest.to_bytes()).to_bytes() == manifest.to_bytes()

    assert survives(check, json_texts([MANIFEST], CASES, 1), ArtifactRejected) > 100


def test_schemas():
    documents = [SCHEMA.to_json(), vector_schema(3, 2).to_json(), TEXTS.to_json()]
    taken = survives(Schema.from_json, json_mutants(documents, CASES, 2), (ConfigError, OverflowError))
    assert taken > 100


@pytest.mark.slow
def test_update_metadata(tmp_path):
    """Root, targets, snapshot and timestamp, as the server side and the device read them."""
    site = Site(tmp_path)
    site.publish(1)
    found = {
        name.removeprefix("metadata/"): data
        for name, data in site.repository.bundle(1).items()
        if name.startswith("metadata/")
    }
    names, state = sorted(found), load_state(found.get, site.trusted_root)

    def cases():
        for part, name in enumerate(names):
            count = CASES // len(names) + (CASES % len(names) if part == 0 else 0)
            yield from ((name, data) for data in json_texts([json.loads(found[name])], count, 30 + part))

    def check(case):
        name, data = case
        assert load_state({**found, name: data}.get, site.trusted_root) == state

    survives(check, cases(), BadSignature)


def test_compressed_files_and_patches():
    packed, patch = compress(FILE), compress(FILE, OLD)
    whole = Delta("model/2.float.full.zst", len(packed), DeltaMethod.ZSTD, "", "0" * 64)
    change = Delta("model/2.float.ab.zst", len(patch), DeltaMethod.ZSTD_PATCH, "a" * 64, "0" * 64)

    def check(data):
        assert len(compression.expand(whole, data, OLD, len(FILE))) == len(FILE)
        assert len(compression.expand(change, data, OLD, len(FILE))) == len(FILE)

    survives(check, bytes_mutants([packed, patch], CASES, 5), BadSignature)


def test_model_files():
    survives(lambda data: head_of(load(data)), bytes_mutants([FILE, MODEL], CASES, 6), ArtifactRejected)


def test_no_damaged_model_file_brings_outside_data_past_the_judge():
    """Two readers, one verdict: what the inspection takes holds no outside data for protobuf's own reader either."""
    outside = onnx.load_model_from_string(FILE)
    outside.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    outside.graph.initializer[0].external_data.add(key="location", value="secret")

    def check(data):
        check_model(data)
        with contextlib.suppress(DecodeError):
            model = onnx.load_model_from_string(data)
            tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute)]
            assert not any(tensor.external_data or tensor.data_location for tensor in tensors)

    survives(check, bytes_mutants([FILE, outside.SerializeToString()], CASES, 6), GateFailed)


@pytest.mark.slow
def test_model_files_on_the_device():
    survives(Predictor.open, bytes_mutants([FILE, FILE + MODEL], CASES, 7), GateFailed)


def test_messages_of_rounds():
    rng = np.random.default_rng(8)
    kinds = message_kinds(messages)
    seeds = [wire.encode(example(kind, rng)) for kind in kinds]

    def cases():
        for number, data in enumerate(bytes_mutants(seeds, CASES, 8)):
            yield kinds[number % len(kinds)], data

    assert survives(lambda case: wire.decode(*case), cases(), BadMessage) > 100


def test_rollout_states():
    survives(
        lambda data: wire.decode(RolloutState, data), bytes_mutants([wire.encode(rollout())], CASES, 9), BadMessage
    )


def test_messages_of_secure_sums():
    rng = np.random.default_rng(10)
    kinds = [kind for kind in message_kinds(secagg_messages) if kind is not StageRequest]
    seeds = [wire.encode(example(kind, rng)) for kind in kinds]

    def cases():
        for number, data in enumerate(bytes_mutants(seeds, CASES, 10)):
            yield kinds[number % len(kinds)], data

    survives(lambda case: wire.decode(*case), cases(), BadMessage)


def test_sessions_and_stored_states_of_secure_sums():
    requests = recorded(Stage.KEYS)[2]
    sessions = [next(iter(requests.values())).common]
    states = [world.states[world.session.cohort[0]] for world, _, _ in map(recorded, STAGES[1:])]
    survives(secagg.read_session, bytes_mutants(sessions, CASES, 11), BadMessage)
    survives(secagg.decode_state, bytes_mutants(states, CASES, 12), BadMessage)


def test_questions_to_devices_in_a_secure_sum():
    plays = {stage: recorded(stage) for stage in STAGES[1:]}
    name = plays[STAGES[1]][0].session.cohort[0]

    def cases():
        count = CASES // 2 // len(plays)
        for part, (stage, (_, _, requests)) in enumerate(plays.items()):
            request = requests[name]
            for data in bytes_mutants([request.common], CASES // len(plays) - count, 20 + part):
                yield StageRequest(stage, data, request.own)
            for data in bytes_mutants([request.own], count, 40 + part):
                yield StageRequest(stage, request.common, data)
        for data in bytes_mutants([requests[name].own], CASES % len(plays), 60):
            yield StageRequest(stage, request.common, data)

    def check(request):
        world = plays[request.stage][0]
        before = world.states[name]
        try:
            world.answer(name, request)
        finally:
            world.states[name] = before

    survives(check, cases(), ProtocolAbort)


def test_rows():
    texts = [
        b"age,pressure,ward,smoker\n41,120.5,7,no\n,90,south,yes\n",
        b'smoker,ward,pressure,age,note\r\nyes,"north",1e2,3,"a ""b"""\r\n',
    ]
    reader = RowReader(SCHEMA)

    def check(data):
        matrix = reader.matrix(data.decode("utf-8", "surrogateescape"))
        assert matrix.dtype == np.float32
        assert matrix.shape[1:] == (4,)

    assert survives(check, bytes_mutants(texts, CASES, 13), DataError) > 100


def test_rows_that_are_texts():
    name = COLUMN.name.encode()
    texts = [name + b",tone\nfine film,good\n,bad\n", name + b'\r\n"two\nlines, ""quoted"""\r\n']
    reader = TextReader(COLUMN)

    def check(data):
        rows = reader.matrix(data.decode("utf-8", "surrogateescape"))
        assert rows.shape[1:] == (1,)

    assert survives(check, bytes_mutants(texts, CASES, 22), DataError) > 100


def test_tables():
    texts = [b"a,b,y\n1,2,no\n3,4,yes\n5,,no\n", b'\xef\xbb\xbfa;"b c";y\n1,5;2;no\n3,2;4;"y""s"\n']
    path = MemoryFile("t.csv")

    def check(data):
        path.data = data
        read_table(path)

    assert survives(check, bytes_mutants(texts, CASES, 14), DataError) > 100


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder, repository = tmp_path_factory.mktemp("device"), Repository()
    repository.publish(1)
    make_updater(folder, repository).install(repository.fetch, NOW)
    return Service(Slots(folder / "slots"), SessionCache(2), FrozenClock(NOW), Telemetry(), most_failures=10**9)


def test_requests_to_a_served_model(service):
    row = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [41, 120.5, 2, 0]}
    columns = [
        {"name": "age", "shape": [1], "datatype": "FP64", "data": [3.5]},
        {"name": "ward", "shape": [1], "datatype": "BYTES", "data": ["north"]},
        {"name": "pressure", "shape": [1], "datatype": "INT64", "data": [100]},
        {"name": "smoker", "shape": [1], "datatype": "BYTES", "data": ["no"]},
    ]
    documents = [
        {"id": "a", "inputs": [row], "outputs": [{"name": "probabilities"}], "parameters": {}},
        {"inputs": columns},
    ]

    def check(body):
        status, document, _ = answer(body, service, "triage")
        assert status in (200, 400)
        assert (status == 400) == ("error" in document)
        json.dumps(document, allow_nan=False)

    assert survives(check, json_texts(documents, CASES, 15)) == CASES


def test_pointers_of_the_slots(tmp_path):
    slots = Slots(tmp_path, lambda _: None)
    for version in (1, 2):
        slots.swap(slots.stage(version, "float", {"model.onnx": b"m"}))
    document = json.loads((tmp_path / "pointer.json").read_bytes())
    survives(read_pointer, json_texts([document], CASES, 16), StoreError)


def test_plans_and_device_lists():
    plan, devices = MemoryFile("plan.toml"), MemoryFile("devices.csv")
    devices.data = DEVICES.encode()
    fleet = read_devices(devices)

    def check_plan(data):
        plan.data = data
        read_plan(plan).begin(fleet)

    def check_devices(data):
        devices.data = data
        read_devices(devices)

    assert survives(check_plan, bytes_mutants([PLAN.encode()], CASES, 17), ConfigError) > 100
    assert survives(check_devices, bytes_mutants([DEVICES.encode()], CASES, 18), ConfigError) > 100


def test_audit_logs():
    lines, head = [], log.EMPTY
    for kind in ("start", "command", "measured"):
        line, head = log.entry_line(head, NOW, kind, {"rollout": "r", "by": "ann", "groups": [1.5, None]})
        lines.append(line)
    whole = log.dump(lines)

    def check(data):
        log.entry(data.split(b"\n")[0].decode("utf-8", "surrogateescape"))
        assert log.verify_file(data, head) == head
        assert data == whole

    survives(check, bytes_mutants([whole], CASES, 19), LogTampered)


def test_events_of_the_privacy_ledger():
    sampled = PoissonSampled(0.1, GaussianEvent(1.5))
    skellam = SkellamEvent(100.0, 3.0, 9.0)
    documents = [to_json(Composed((Repeated(sampled, 20), GaussianEvent(2.0)))), to_json(skellam)]

    def check(data):
        event_from_json(data.decode("utf-8", "replace"))

    assert survives(check, json_texts(documents, CASES, 20), ConfigError) > 100


@pytest.mark.slow
def test_scenarios():
    texts = [find_scenario(name).read_bytes() for name in scenario_names()]
    survives(
        lambda data: parse_scenario(data.decode("utf-8", "replace"), Path.cwd(), "draft"),
        bytes_mutants(texts, CASES, 21),
        ConfigError,
    )
