"""Every decoder of the artifact room on arbitrary and on damaged input: it answers or raises a typed error.

Ten thousand cases in all.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer.artifact.evaluate.metrics import calibration_error, fit_temperature, one_hot, softmax
from fedinfer.artifact.export.graph import OutputHead, finish, load
from fedinfer.artifact.release.delta import compress
from fedinfer.artifact.release.files import inside
from fedinfer.artifact.release.metadata import load_state
from fedinfer.errors import ArtifactRejected, BadSignature
from fedinfer.inference.install.expand import expand
from fedinfer.manifest import Delta, DeltaMethod, Manifest
from tests.unit.artifact.workshop import Site, dense_core, release, vector_schema

MANIFEST = release(3)[0].to_bytes()
FILE = finish(dense_core((3, 4, 2)), OutputHead(vector_schema(3, 2), 1.0, "demo", 1))
FRAME = compress(FILE)
PATCH = compress(FILE, FILE[:500] + b"old" + FILE[600:])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
edits = st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), min_size=1, max_size=8)


def damaged(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Some bytes replaced, then cut (or left whole)."""
    out = bytearray(data)
    for place, value in changes:
        out[place % len(out)] = value
    return bytes(out[: cut % (len(out) + 1)] if cut % 3 else out)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all values inside a JSON document."""
    if isinstance(value, dict):
        return [path, *(p for key, item in value.items() for p in places(item, (*path, key)))]
    if isinstance(value, list):
        return [path, *(p for key, item in enumerate(value) for p in places(item, (*path, key)))]
    return [path]


PLACES = places(json.loads(MANIFEST))[1:]


def read_manifest(data: bytes) -> None:
    try:
        manifest = Manifest.from_bytes(data)
    except ArtifactRejected:
        return
    assert Manifest.from_bytes(manifest.to_bytes()).to_bytes() == manifest.to_bytes()


@given(st.binary(max_size=400))
def test_manifest_of_arbitrary_bytes(data):
    read_manifest(data)


@given(json_values)
def test_manifest_of_arbitrary_json(document):
    read_manifest(json.dumps(document).encode())


@pytest.mark.slow
@settings(max_examples=2000)
@given(st.sampled_from(PLACES), json_values)
def test_manifest_with_one_value_replaced(path, value):
    document = json.loads(MANIFEST)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    read_manifest(json.dumps(document).encode())


@settings(max_examples=300)
@given(st.sampled_from(PLACES))
def test_manifest_with_one_value_removed(path):
    document = json.loads(MANIFEST)
    place = document
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    read_manifest(json.dumps(document).encode())


@pytest.mark.slow
@settings(max_examples=2000)
@given(edits, st.integers(0, 2**31))
def test_manifest_with_damaged_bytes(changes, cut):
    read_manifest(damaged(MANIFEST, changes, cut))


def expanded(packed, old, size):
    method = DeltaMethod.ZSTD_PATCH if old else DeltaMethod.ZSTD
    return expand(Delta("model/2.float.zst", len(packed), method, "a" * 64 if old else "", "0" * 64), packed, old, size)


@given(st.binary(max_size=300), st.one_of(st.just(b""), st.binary(min_size=8, max_size=300)))
def test_delta_round_trip(new, old):
    """Zstandard takes no dictionary of less than eight bytes, and no model file is so short."""
    if new:
        assert expanded(compress(new, old), old, len(new)) == new


@pytest.mark.slow
@settings(max_examples=2500)
@given(st.sampled_from([FRAME, PATCH]), edits, st.integers(0, 2**31), st.integers(-1, 2**40))
def test_damaged_delta_gives_the_file_or_a_typed_error(packed, changes, cut, size):
    wanted = len(FILE) if size % 2 else size
    old = b"" if packed is FRAME else FILE[:500] + b"old" + FILE[600:]
    try:  # what it holds is for the signed digest of the file to judge
        assert len(expanded(damaged(packed, changes, cut), old, wanted)) == wanted
    except BadSignature:
        pass


@given(st.binary(max_size=200))
def test_delta_of_arbitrary_bytes(data):
    with pytest.raises(BadSignature):
        expanded(data, b"", 100)


@pytest.mark.slow
@settings(max_examples=1500)
@given(edits, st.integers(0, 2**31))
def test_damaged_model_file_loads_or_gives_a_typed_error(changes, cut):
    try:
        load(damaged(FILE, changes, cut))
    except ArtifactRejected:
        pass


@given(st.binary(max_size=300))
def test_model_file_of_arbitrary_bytes(data):
    try:
        load(data)
    except ArtifactRejected:
        pass


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    site.publish(1)
    bundle = site.repository.bundle(1)
    metadata = {name.removeprefix("metadata/"): data for name, data in bundle.items() if name.startswith("metadata/")}
    return site.trusted_root, metadata


@pytest.mark.slow
@settings(max_examples=1000)
@given(which=st.integers(0, 2), changes=edits, cut=st.integers(0, 2**31))
def test_damaged_metadata_is_refused_unless_it_still_says_the_same(honest, which, changes, cut):
    trusted_root, metadata = honest
    name = sorted(metadata)[which]
    state = load_state(metadata.get, trusted_root)
    try:
        found = load_state({**metadata, name: damaged(metadata[name], changes, cut)}.get, trusted_root)
    except BadSignature:
        return
    assert found == state


@given(st.sampled_from(["timestamp.json", "1.snapshot.json", "2.root.json"]), st.binary(max_size=200))
def test_arbitrary_metadata_is_refused(honest, name, data):
    trusted_root, metadata = honest
    with pytest.raises(BadSignature):
        load_state({**metadata, "timestamp.json": data, name: data}.get, trusted_root)


@given(st.text(max_size=40))
def test_no_name_leaves_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    try:
        path = inside(folder, name)
    except ArtifactRejected:
        return
    assert folder in path.resolve().parents or path.resolve() == folder / name


@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 2**31))
def test_calibration_figures_stay_in_their_ranges(classes, rows, seed):
    rng = np.random.default_rng(seed)
    logits, y = rng.normal(0, 5, (rows, classes)), rng.integers(0, classes, rows)
    temperature = fit_temperature(logits, one_hot(y, classes))
    assert 0.199 <= temperature <= 20.001
    p = softmax(logits, temperature)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert 0 <= calibration_error(p, y) <= 1
