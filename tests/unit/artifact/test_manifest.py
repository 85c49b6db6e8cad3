"""The manifest survives a round trip and refuses everything that breaks a bound, with the rule in the message."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from fedinfer.errors import ArtifactRejected, ConfigError
from fedinfer.manifest import (
    FORMAT,
    MAX_MANIFEST_BYTES,
    Delta,
    DeltaMethod,
    Manifest,
    Reference,
    current_path,
    delta_path,
    manifest_path,
    model_path,
)
from tests.unit.artifact.workshop import release

MANIFEST, FILES = release(3)
SHA = MANIFEST.chosen.sha256


def with_everything() -> Manifest:
    delta = Delta(delta_path(3, "int8", "a" * 64), 5, DeltaMethod.ZSTD_PATCH, "a" * 64, SHA)
    plain = Delta(delta_path(3, "int8", ""), 9, DeltaMethod.ZSTD, "", SHA)
    reference = Reference(10, (0.5, 0.25, 0.25), (0.33, 0.6, 1.0), (0.4, 0.6))
    other = replace(MANIFEST.chosen, name="float", path=model_path(3, "float"), sha256="b" * 64)
    return replace(
        MANIFEST,
        variants=(MANIFEST.chosen, other),
        deltas=(delta, plain),
        reference=reference,
        parent_sha256="c" * 64,
        abstain_below=0.4,
        abstain_label="ask a doctor",
        top=2,
    )


@pytest.mark.parametrize("manifest", [MANIFEST, with_everything()])
def test_round_trip(manifest):
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data)
    assert again.to_bytes() == data
    assert again.schema == manifest.schema
    assert again.variants == manifest.variants
    assert again.deltas == manifest.deltas
    assert again.reference == manifest.reference
    assert again.labels == ("well", "ill", "unclear")
    assert math.isnan(again.check_rows[0][1])
    assert again.check_rows[1] == manifest.check_rows[1]
    assert "NaN" not in data.decode()


def test_paths():
    assert manifest_path(7) == "model/7.json"
    assert model_path(7) == "model/7.onnx"
    assert model_path(7, "fp16") == "model/7.fp16.onnx"
    assert delta_path(7, "int8", "") == "model/7.int8.full.zst"
    assert delta_path(7, "int8", "ab" * 32) == "model/7.int8.abababababababab.zst"
    assert current_path() == "model/current.json"
    assert current_path("east") == "cohort/east/current.json"


def test_variant_by_name():
    assert with_everything().variant("float").path == "model/3.float.onnx"
    with pytest.raises(ArtifactRejected, match="no variant 'fp16'"):
        MANIFEST.variant("fp16")


def changed(path: str, value: object) -> bytes:
    document = json.loads(with_everything().to_bytes())
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = document
    for part in parents:
        place = place[part]
    place[last] = value
    return json.dumps(document).encode()


BAD = {
    "format": (FORMAT + 1, "this program reads 1 and 2"),
    "version": (0, "version 0 is outside"),
    "task": ("../x", "task name"),
    "created": (5, "created is int"),
    "parent_sha256": ("xyz", "parent_sha256"),
    "schema.labels": (["one", "one", "two"], "stands twice"),
    "schema.columns": ([], "no inputs"),
    "schema.shape": ([3, 4], "manifest"),
    "schema.pixel_max": ("wide", "manifest"),
    "privacy.epsilon": (0.93, "epsilon is float, not str"),
    "privacy.delta": ("1e-5; rm", "delta"),
    "variants": ([], "0 variants"),
    "variants.0.path": ("model/4.onnx", "path"),
    "variants.1.path": ("../../etc/passwd", "path"),
    "variants.1.name": ("int8", "path"),
    "variants.0.sha256": ("A" * 64, "sha256"),
    "variants.0.bytes": (2**40, "at most"),
    "variants.0.temperature": (0, "temperature"),
    "variants.0.tolerance": (1.5, "tolerance"),
    "variants.0.metric": (True, "not a finite number"),
    "variants.0.labels": ([0], "not 2 answers"),
    "variants.0.labels.1": (3, "label outside"),
    "variants.0.probabilities.0": ([0.5, 0.5], "not 3 columns"),
    "variants.0.probabilities.1": ("x", "list of numbers"),
    "check_rows": ([], "0 self-check rows"),
    "check_rows.0": ([1.0], "not 3 values"),
    "check_rows.1": (7, "not a list"),
    "reference.classes": ([1.0], "reference classes"),
    "reference.edges": ([0.1, 0.05, 1.0], "do not increase"),
    "reference.confidence": ([1.0], "do not fit"),
    "deltas.0.to_sha256": ("d" * 64, "leads to no variant"),
    "deltas.0.from_sha256": ("", "from_sha256"),
    "deltas.0.method": ("bsdiff", "bsdiff"),
    "deltas.0.path": ("model/9.int8.full.zst", "delta path"),
    "deltas.0.bytes": (0, "delta of 0 bytes"),
    "abstain_below": (1.01, "outside"),
    "top": (4, "top 4 of 3"),
    "metrics": ([], "metrics is list"),
}


@pytest.mark.parametrize("path", BAD)
def test_broken_bound_is_named(path):
    value, rule = BAD[path]
    with pytest.raises(ArtifactRejected, match=rule):
        Manifest.from_bytes(changed(path, value))


@pytest.mark.parametrize("text", ["", "-1", "+1", "nan", "0x1", "1 or so", "1e9999", "infinity"])
def test_an_epsilon_is_a_decimal_number_that_nobody_can_misread(text):
    with pytest.raises(ArtifactRejected, match="epsilon"):
        Manifest.from_bytes(changed("privacy.epsilon", text))
    Manifest.from_bytes(changed("privacy.epsilon", "inf"))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": NaN}', b'{"format": 1e999}', b'{"format":1}'],
)
def test_not_a_manifest(data):
    with pytest.raises(ArtifactRejected):
        Manifest.from_bytes(data)


def test_numbers_beyond_floats_are_refused():
    data = changed("float_metric", 0.5).replace(b'"float_metric": 0.5', b'"float_metric": 1e999')
    with pytest.raises(ArtifactRejected, match="finite"):
        Manifest.from_bytes(data)


def test_oversized_manifest_is_not_parsed():
    with pytest.raises(ArtifactRejected, match="at most"):
        Manifest.from_bytes(b" " * (MAX_MANIFEST_BYTES + 1))


def test_the_server_cannot_sign_what_a_device_would_refuse():
    with pytest.raises(ArtifactRejected, match="top 9"):
        replace(MANIFEST, top=9).to_bytes()
    with pytest.raises(ConfigError, match="JSON compliant"):
        replace(MANIFEST, float_metric=float("inf")).to_bytes()


@pytest.mark.parametrize("key", ["isa", "created", "abstain_label"])
def test_control_characters_are_neither_written_nor_read(key):
    manifest = release(3)[0]
    with pytest.raises(ArtifactRejected, match="control character"):
        replace(manifest, **{key: "a\x1b[31m"}).to_bytes()
    document = manifest.to_json() | {key: "a\x1b[31m"}
    with pytest.raises(ArtifactRejected, match="control character"):
        Manifest.from_json(document)
