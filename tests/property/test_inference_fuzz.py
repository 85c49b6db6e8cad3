"""Whatever bytes come: every decoder of the device answers with a value or a typed error, never with a crash."""

from __future__ import annotations

import json
import math
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedinfer.errors import (
    ArtifactRejected,
    BadSignature,
    DataError,
    FedInferError,
    GateFailed,
    PatchRefused,
    Rollback,
    StoreError,
)
from fedinfer.inference import Predictor
from fedinfer.inference.install.expand import expand
from fedinfer.inference.install.slots import Pointer, Slots, read_pointer
from fedinfer.inference.predict.rows import LARGEST, RowReader
from fedinfer.inference.predict.session import SessionCache
from fedinfer.inference.serve.answering import answer
from fedinfer.inference.serve.protocol_v2 import read_request
from fedinfer.inference.serve.service import Service
from fedinfer.inference.serve.telemetry import Telemetry
from fedinfer.manifest import Delta, DeltaMethod, model_path
from fedinfer.schema import Categorical
from fedinfer.system import FrozenClock
from tests.unit.inference.device_world import NOW, SCHEMA, Repository, make_model, make_rows, make_updater, softmax_of

MODEL = make_model(seed=3)
PREDICTOR = Predictor.open(MODEL, SCHEMA)
READER = RowReader(SCHEMA)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def mutate(data: bytes, edits: list[tuple[float, int]], cut: float) -> bytes:
    """Change single bytes at relative places, then cut the end off."""
    changed = bytearray(data)
    for place, value in edits if data else ():  # nothing is left where it was cut before
        changed[min(len(changed) - 1, int(place * len(changed)))] = value
    return bytes(changed[: max(1, int(cut * len(changed)))])


unit = st.floats(0, 1)
edits = st.lists(st.tuples(unit, st.integers(0, 255)), min_size=1, max_size=4)
cuts = st.just(1.0) | unit

# Pointer of the slots.

with tempfile.TemporaryDirectory() as _folder:
    _slots = Slots(Path(_folder))
    for _version in (1, 2):
        _slots.swap(_slots.stage(_version, "float", {"model.onnx": b"m"}))
    GOOD_POINTER = (Path(_folder) / "pointer.json").read_bytes()

pointers = (
    st.binary(max_size=200)
    | st.builds(mutate, st.just(GOOD_POINTER), edits, cuts)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"format": st.just(1), "withdrawn": json_values, "active": json_values, "previous": json_values}
    ).map(lambda value: json.dumps(value).encode())
)


def check_pointer(data: bytes) -> None:
    try:
        assert isinstance(read_pointer(data), Pointer)
    except StoreError:
        pass


# Compressed models.

GOOD_FRAME = zstandard.ZstdCompressor(level=9).compress(MODEL)
PLAIN = Delta("model/2.float.full.zst", len(GOOD_FRAME), DeltaMethod.ZSTD, "", "0" * 64)
PATCH = Delta("model/2.float.ab.zst", len(GOOD_FRAME), DeltaMethod.ZSTD_PATCH, "a" * 64, "0" * 64)
frames = st.tuples(
    st.sampled_from([PLAIN, PATCH]), st.binary(max_size=300) | st.builds(mutate, st.just(GOOD_FRAME), edits, cuts)
)


def check_frame(case: tuple[Delta, bytes]) -> None:
    delta, packed = case
    try:
        assert len(expand(delta, packed, MODEL, len(MODEL))) == len(MODEL)
    except BadSignature:
        pass


def patch_world(folder: Path) -> Repository:
    """A device with version 1, and version 2 offered as a patch alone."""
    repository = Repository()
    repository.publish(1)
    make_updater(folder, repository).install(repository.fetch, NOW)
    repository.publish_patch(2, old=1)
    del repository.files[repository.place(model_path(2))]
    return repository


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(edits=edits, cut=cuts)
def test_a_patch_that_is_signed_but_garbage_leaves_the_device_with_its_model(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[float, int]], cut: float
) -> None:
    """The worst case: the bytes come from the signer, so no signature stops them; only what they expand to does."""
    folder = tmp_path_factory.mktemp("patched")
    repository = patch_world(folder)
    (path,) = [name for name in repository.targets.targets if name.endswith(".zst")]
    repository.add(path, mutate(repository.files[repository.place(path)], edits, cut))
    repository.sign_all()
    try:
        assert make_updater(folder, repository).install(repository.fetch, NOW).version == 2
        assert Slots(folder / "slots").load().files["model.onnx"] == make_model(seed=2)  # type: ignore[union-attr]  # it is active
    except PatchRefused:
        assert Slots(folder / "slots").load().files["model.onnx"] == make_model(seed=1)  # type: ignore[union-attr]  # it is active


# Requests of the inference protocol.

tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["input", "age", "ward", "pressure", "smoker"]) | json_values,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | json_values,
        "datatype": st.sampled_from(["FP32", "BYTES", "INT64", "BOOL"]) | json_values,
        "data": st.lists(st.floats() | st.integers() | st.text(max_size=4) | st.none(), max_size=4) | json_values,
    },
)
requests = json_values | st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3)},
    optional={"id": json_values, "outputs": json_values, "parameters": json_values},
)


def check_request(body: object) -> None:
    try:
        request = read_request(body, SCHEMA)
        assert READER.matrix(request.rows).shape[1] == 4
    except DataError:
        pass


# Rows.

texts = st.text(alphabet="ageprsuwdmok,\"'\n\r0123456789.-+enai? \0", max_size=120).map(
    lambda text: "age,pressure,ward,smoker\n" + text
)
cells = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=3)
rows = (
    st.text(max_size=80)
    | texts
    | json_values
    | st.lists(st.lists(cells, max_size=5), max_size=4)
    | st.lists(st.fixed_dictionaries({name: cells for name in READER.names}), max_size=4)
    | st.lists(st.floats(width=32), min_size=4, max_size=4).map(lambda row: np.array([row], np.float32))
)


def check_rows(value: object) -> None:
    try:
        matrix = READER.matrix(value)
    except DataError:
        return
    assert matrix.dtype == np.float32
    assert matrix.shape[1:] == (4,)
    for place, column in enumerate(SCHEMA.columns):
        for cell in matrix[:, place]:
            if isinstance(column, Categorical):
                assert math.isnan(cell) or cell in range(len(column.categories))
            else:
                assert math.isnan(cell) or abs(cell) <= LARGEST


DECODERS = {
    "pointer": (pointers, check_pointer),
    "frame": (frames, check_frame),
    "request": (requests, check_request),
    "rows": (rows, check_rows),
}


def fuzz(name: str, cases: int) -> None:
    strategy, check = DECODERS[name]
    wanted = settings(max_examples=cases, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    wanted(given(strategy)(check))()


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_only_raises_typed_errors(name):
    fuzz(name, 300)


@pytest.mark.soak
@pytest.mark.parametrize("name", DECODERS)
def test_decoder_only_raises_typed_errors_10000_cases(name):
    fuzz(name, 10_000)


@settings(max_examples=150, deadline=None)
@given(st.builds(mutate, st.just(MODEL), edits, cuts))
def test_changed_model_bytes_load_or_are_refused(data):
    try:
        answers = Predictor.open(data, SCHEMA).predict(make_rows(count=2))
        assert answers.probabilities.shape == (2, 3)
    except GateFailed:
        pass


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_changed_repository_never_changes_what_serves_to_something_unsigned(data):
    """Any file of the repository is changed, cut, lost or swapped: the device ends on version 1 or on version 2."""
    repository = Repository()
    repository.publish(1)
    with tempfile.TemporaryDirectory() as folder:
        updater = make_updater(Path(folder), repository)
        updater.install(repository.fetch, NOW)
        repository.publish(2)
        paths = sorted(repository.files)
        for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2)):
            other = repository.files[data.draw(st.sampled_from(paths))]
            good = repository.files[path]
            repository.files[path] = data.draw(
                st.builds(mutate, st.just(good), edits, cuts) | st.just(other) | st.just(good * 3) | st.just(b"")
            )
        try:
            version = updater.install(repository.fetch, NOW + timedelta(minutes=1)).version
        except (ArtifactRejected, FedInferError):
            version = 1
        active = Slots(Path(folder) / "slots").load()
        assert active.info.version == version
        assert active.files["model.onnx"] == make_model(seed=version)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["install", "publish", "rollback", "old"]), max_size=12))
def test_versions_only_grow_unless_rolled_back_and_withdrawn_ones_stay_away(steps):
    repository, newest = Repository(), 1
    repository.publish(1)
    with tempfile.TemporaryDirectory() as folder:
        updater, slots = make_updater(Path(folder), repository), Slots(Path(folder) / "slots", lambda _: None)
        for step in steps:
            before = slots.active()
            if step == "publish":
                newest += 1
                repository.publish(newest)
            elif step == "old":
                repository.publish(max(1, newest - 1))
            elif step == "rollback":
                try:
                    slots.rollback()
                except ArtifactRejected:
                    assert slots.active() == before
            else:
                try:
                    report = updater.install(repository.fetch, NOW)
                    assert report.version == slots.active().version
                    assert before is None or report.version >= before.version
                except (Rollback, ArtifactRejected):
                    assert slots.active() == before
            active = slots.active()
            assert active is None or active.version not in slots.pointer().withdrawn
            assert active is None or slots.load().damaged == ""


@given(st.integers(1, 40), st.integers(0, 10_000))
def test_single_batch_and_stream_agree_with_the_formula(count, seed):
    table = make_rows(count=count, seed=seed)
    expected = softmax_of(MODEL, table)
    np.testing.assert_allclose(PREDICTOR.predict(table).probabilities, expected, atol=1e-5)
    singles = np.stack([answer.probabilities for answer in PREDICTOR.stream(table)])
    np.testing.assert_allclose(singles, expected, atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | requests.map(lambda value: json.dumps(value).encode()))
def test_any_body_gets_a_status_and_a_reason(service, body):
    status, document, _ = answer(body, service, "triage")
    assert status in (200, 400)
    assert (status == 400) == ("error" in document)
    json.dumps(document, allow_nan=False)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder, repository = tmp_path_factory.mktemp("device"), Repository()
    repository.publish(1)
    make_updater(folder, repository).install(repository.fetch, NOW)
    return Service(Slots(folder / "slots"), SessionCache(2), FrozenClock(NOW), Telemetry(), most_failures=10**9)
