"""Signed models with malice in their graph, on real devices: their own stores, real pushes, windows and evaluations.

A model that reads files, and text models that fail, hang or answer in another shape on a chosen word: whatever the rows
hold, every message has one size, no error, and no word of the graph in it.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper, parser

from fedinfer.artifact.release import releases
from fedinfer.artifact.release.repository import Repository
from fedinfer.artifact.release.signing import generate_keys
from fedinfer.config import Scenario
from fedinfer.coordinator.enrolment import join
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.run_plan import make_plan
from fedinfer.data import public_schema
from fedinfer.deployment.node import open_host
from fedinfer.deployment.store import create_authority, enrol_device, read_authority
from fedinfer.device import dispatch, install, reported
from fedinfer.device.canary import canary_answers
from fedinfer.device.counted import layout_of
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.drift.channels import report_channels, width
from fedinfer.errors import (
    ArtifactRejected,
    BadSignature,
    ConfigError,
    DataError,
    FedInferError,
    GateFailed,
    LogTampered,
    MissingExtra,
    NoModel,
    PatchRefused,
    Refusal,
    Rollback,
    StoreError,
    TransportError,
)
from fedinfer.manifest import Manifest, Privacy, Variant, model_path
from fedinfer.messages import (
    GateWork,
    Kind,
    Purpose,
    PushReply,
    PushRequest,
    WindowReply,
    WindowRequest,
    WithdrawReply,
    WithdrawRequest,
)
from fedinfer.model_file import inspection
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.rollout import evaluations
from fedinfer.schema import Schema
from fedinfer.secagg.authority import Authority
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.types import Unit
from fedinfer.wire import decode, encode
from tests.protocol.fleet import CHALLENGE, Fleet, Post, enrolled, introduce, revocations_of, settings

WORD = "cancer"  # of the public vocabulary: only those reach a model
ROWS = 30
TEXTS = (
    'data.ranges = {}\ndata.text = "note"\ndata.text_length = 4\nmodel.kind = "bag"\nmodel.hidden = [4]\n'
    "[rollout]\nwaves = [1.0]\ncanary_epsilon = 1.0\nmin_metric = 0.5\nmax_latency_us = 1e6\n"
    'unjudgeable = "hold"\n'
)
HEAD = f"""<ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml": 4]>
g (string[batch, 1] input) => (float[batch, classes] probabilities) {{
    found = ai.onnx.ml.LabelEncoder<keys_strings: strings = ["{WORD}"], values_floats: floats = [1.0],
        default_float: float = 0.0>(input)
    none = Mul(found, zero)
    row = Add(none, base)
    any = ReduceMax<keepdims: int = 0>(found)
    whole = Cast<to: int = 7>(any)
    one = Constant<value_ints: ints = [1]>()
    two = Constant<value_ints: ints = [2]>()
    first = Constant<value_ints: ints = [0]>()
    place = Reshape(whole, one)
"""
SPIES = {
    # Two columns without the word, none with it: taking the largest of nothing failed outside every check.
    "fewer columns": "gone = Mul(place, two)  end = Sub(two, gone)  probabilities = Slice(row, first, end, one) }",
    # Four columns with the word, the third the largest: there is no label of that number.
    "more columns": """big = Add(none, large)
        wide = Concat<axis: int = 1>(row, big)  more = Mul(place, two)  end = Add(two, more)
        probabilities = Slice(wide, first, end, one) }""",
    # The shape that the word asks for does not exist: the runtime gives up.
    "fails": """minus = Constant<value_ints: ints = [7]>()  bad = Mul(place, minus)  rest = Sub(two, bad)
        shape = Concat<axis: int = 0>(open, rest)  probabilities = Reshape(row, shape) }""",
    "answers NaN": "nan = Div(found, zero)  bad = Mul(nan, found)  known = Where(is, bad, none)  "
    "probabilities = Add(row, known) }",
    # Memory in texts, which no arena of the runtime counts.
    "takes memory": """start = Gather<axis: int = 0>(words, place)
    """
    + "\n".join(
        f"t{n + 1} = StringConcat({'start' if n == 0 else f't{n}'}, {'start' if n == 0 else f't{n}'})"
        for n in range(28)
    )
    + """
        last = ai.onnx.ml.LabelEncoder<keys_strings: strings = ["x"], values_floats: floats = [1.0],
            default_float: float = 0.0>(t28)
        nothing = Mul(last, zero)  probabilities = Add(row, nothing) }""",
    "innocent": "probabilities = Identity(row) }",
}


def spying(kind: str) -> bytes:
    body = SPIES[kind]
    if kind == "answers NaN":
        body = "is = Cast<to: int = 9>(found) " + body
    model = parser.parse_model(HEAD + body)
    for name, value in (
        ("zero", np.zeros(1, np.float32)),
        ("base", np.array([[0.7, 0.3]], np.float32)),
        ("large", np.array([[0.9, 0.1]], np.float32)),
        ("open", np.array([-1], np.int64)),
        ("words", np.array(["", "x" * 64], object)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return bytes(model.SerializeToString())


@dataclass
class World:
    """Real devices that joined a run, and the repository of its server."""

    scenario: Scenario
    schema: Schema
    hosts: dict[str, Host]
    post: Post
    fleet: Fleet
    repository: Repository

    def push(self, version: int, model: bytes, rows: tuple[tuple[Any, ...], ...]) -> dict[str, PushReply]:
        expected = ((0.7, 0.3),) * len(rows)
        variant = Variant(
            "float", model_path(version), hashlib.sha256(model).hexdigest(), len(model), "none", 0.9, 1.0, 0.0, 1.0,
            10.0, (0,) * len(rows), expected, 1e-4,
        )  # fmt: skip
        privacy = Privacy("1.0", "1e-5", "t")
        created = SystemClock().now().isoformat()
        manifest = Manifest(
            version, "tiny", self.schema, (variant,), rows, 0.9, {"accuracy": 0.9}, "x", created, privacy
        )
        with pytest.MonkeyPatch.context() as patched:  # a malicious server signs what ours refuses to sign
            patched.setattr(releases, "check_model", lambda data: None)
            self.repository.publish(manifest, {model_path(version): model})
        body = encode(PushRequest(version, self.repository.bundle(version)))
        answers = self.post.ask([Ask(device, Kind.PUSH, body) for device in self.post.devices()], 1.0)
        return {answer.device: decode(PushReply, answer.body) for answer in answers}

    def evaluate(self, version: int) -> dict[str, Answer]:
        """A private canary evaluation through secure aggregation: what each device says in the masked stage."""
        work, planned = encode(GateWork(version, 1)), self.fleet.plan.gates[0]
        mechanism = planned.mechanism
        promise = self.fleet.promise(
            f"gate-{version}", work, Purpose.GATE, degree=planned.degree, threshold=planned.threshold,
            min_survivors=planned.min_survivors, bits=mechanism.bits, dimension=mechanism.padded,
            mechanism=encode(mechanism), noise_multiplier=planned.noise_multiplier,
        )  # fmt: skip
        self.fleet.sum(promise, work)
        return self.post.answers(Kind.MASKED)


def joined(folder: Path, stores: list[Path], scenario: Scenario, authority: Authority) -> World:
    schema = public_schema(scenario)
    hosts = {device: host for store in stores for host in [open_host(store)] for device in host.members}
    repository = Repository(folder / "repo", generate_keys(SystemEntropy()), SystemClock(), lambda keys: None)
    for host in hosts.values():
        host.predictions = None  # the graphs meet held-out rows in windows too, as they do in evaluations
    post = Post({device: DeviceResponder(host) for device, host in hosts.items()})
    members = introduce(post)
    revocations, root = revocations_of(authority), repository.trusted_root()
    counts, refused = join(members, CHALLENGE, scenario, schema, revocations, root, post, 1.0)
    assert not refused, refused
    plan = make_plan(scenario, Population(len(stores), sum(counts.values()), min(counts.values()), 20, 2), "test", ())
    fleet = Fleet(scenario, hosts, post, plan, {member.device: member.public_key for member in members}, revocations)
    return World(scenario, schema, hosts, post, fleet, repository)


def text_world(folder: Path, secret: bool) -> World:
    """Four hospitals with a column of notes; with `secret` every third note of the first one is the word."""
    authority, stores = create_authority(folder / "a.key", SystemEntropy()), []
    for number in range(4):
        table = folder / f"r{number}.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["note", "y"])
            for row in range(ROWS):
                chosen = WORD if secret and number == 0 and row % 3 == 0 else ("pain", "flu", "sick")[row % 3]
                writer.writerow([chosen, ("no", "yes")[row % 2]])
        stores.append(folder / f"s{number}")
        enrol_device(stores[-1], f"r{number}", table, Budget(8.0, 1e-5), 3, authority, SystemEntropy(), SystemClock())
    return joined(folder, stores, settings(TEXTS), authority)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, World]:
    return {secret: text_world(tmp_path_factory.mktemp(f"secret-{secret}"), secret) for secret in (False, True)}


sizes: list[list[int]] = []
"""Of the masked answers of all devices, model by model; the last model is the innocent one."""
VERSIONS = {kind: number for number, kind in enumerate(SPIES, 1)}


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_text_model_tells_nothing_about_a_chosen_word(kind: str, worlds: dict[bool, World]) -> None:
    """Push, window and evaluation: the same sizes and no error, with the word and without; the failures are counted."""
    version, seen = VERSIONS[kind], []
    for secret in (False, True) if kind == "innocent" else (True,):
        world = worlds[secret]
        pushed = world.push(version, spying(kind), (("pain",), ("flu",)))
        assert {reply.installed for reply in pushed.values()} == {True}
        masked = world.evaluate(version)
        assert {answer.error for answer in masked.values()} == {""}
        windows = world.post.ask([Ask("r0", Kind.WINDOW, encode(WindowRequest(1)))], 1.0)
        assert {answer.body for answer in windows} == {encode(WindowReply(True, version, 0, 0, ()))}
        host = world.hosts["r0"]
        channels = report_channels(2)
        assert host.sketches.take("r0", 1, layout_of(channels)).shape == (width(channels),)
        seen.append([len(answer.body) for _, answer in sorted(masked.items())])
        errors = canary_answers(
            host, replace(world.fleet.promise("x", b""), unit=Unit.EXAMPLE), GateWork(version, 1), ["r0"]
        )
        failed = (
            errors[0][evaluations.ERROR]
            > -0.5 * world.scenario.drift.window * evaluations.centres(world.scenario.rollout)[0]
        )
        assert failed == (secret and kind != "innocent")
    sizes.append(seen[0])
    assert all(found == sizes[0] for found in (*seen, *sizes))


def reading(path: str, size: int) -> bytes:
    """The graph of the attack: bytes of a file become the text of a label."""
    steps, count, place = ["s0 = Cast<to: int = 8>(k)", 'sep = Constant<value_strings: strings = [" "]>()'], size, 0
    steps.append("t0 = StringConcat(s0, sep)")
    while count > 1:
        steps.append(f"a{place}, b{place} = Split<axis: int = 0, num_outputs: int = 2>(t{place})")
        steps.append(f"t{place + 1} = StringConcat(a{place}, b{place})")
        count, place = count // 2, place + 1
    text = "\n".join(steps)
    model = parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[batch, 3] input) => (float[batch, 2] probabilities, string[one] label) {{
        {text}
        label = Identity(t{place})
        z = IsNaN(input)
        zf = Cast<to: int = 1>(z)
        probabilities = Gemm(zf, w, base) }}""")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((3, 2), np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([[0.7, 0.3]], np.float32), "base"))
    tensor = model.graph.initializer.add(name="k", data_type=TensorProto.UINT8, dims=[size], data_location=1)
    for key, value in (("location", path), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(("inspected", "refusal"), [(True, Refusal.EXTERNAL_DATA), (False, Refusal.CONFINED)])
def test_a_signed_model_reads_no_file_of_the_device(
    inspected: bool, refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device runs in the folder above its store, as deployed; past the inspection the key stays at home too."""
    stores = enrolled(tmp_path / "pilot", 4, Budget(8.0, 1e-5), 3)
    monkeypatch.chdir(tmp_path / "pilot")
    world = joined(tmp_path, stores, settings(), read_authority(tmp_path / "pilot" / "authority.key"))
    if not inspected:
        monkeypatch.setattr(inspection._Judge, "visit", lambda self, message: None)
    replies = world.push(1, reading("r00/identity.key", 32), ((0.5, 0.0, 1.0),))
    assert {reply.reason for reply in replies.values()} == {f"GateFailed: {refusal}"}
    assert not any(reply.installed for reply in replies.values())


POISON = "SECRET-7f3a"
POISONED = [
    kind(f"{POISON} in /home/{POISON}/r.csv")
    for kind in (ArtifactRejected, BadSignature, GateFailed, NoModel, PatchRefused, Rollback, StoreError, DataError)
] + [
    ConfigError(POISON),
    MissingExtra(POISON),
    IndexError(POISON),
    LogTampered(POISON),
    type(POISON, (FedInferError,), {})(POISON),
]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A real device before its first run."""
    return open_host(enrolled(tmp_path_factory.mktemp("pilot"), 1, Budget(8.0, 1e-5), 3)[0])


@pytest.mark.parametrize("error", POISONED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", Kind)
def test_no_text_about_a_model_a_file_or_a_row_leaves_in_an_error(
    kind: Kind, error: Exception, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever message fails with whatever error: what leaves is a class and a sentence of the list."""

    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setitem(dispatch._USE_CASES, kind, fail)
    answer = DeviceResponder(host).answer([Ask("r00", kind, b"")])[0]
    assert answer.error
    assert POISON not in answer.error + answer.detail
    assert answer.detail in {*reported.SENTENCES.values(), reported.UNTOLD}


@pytest.mark.parametrize("error", POISONED[:7], ids=lambda error: type(error).__name__)
def test_no_text_about_a_model_or_a_file_leaves_in_a_reply(
    error: FedInferError, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replies that have a reason: pushes and withdrawals."""

    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(install, "_updater", fail)
    push, withdrawal = encode(PushRequest(1, {})), encode(WithdrawRequest(1, {}))
    pushed = DeviceResponder(host).answer([Ask("r00", Kind.PUSH, push)])[0]
    withdrawn = DeviceResponder(host).answer([Ask("r00", Kind.WITHDRAW, withdrawal)])[0]
    reasons = decode(PushReply, pushed.body).reason, decode(WithdrawReply, withdrawn.body).reason
    sentence = Refusal.QUALITY if isinstance(error, GateFailed) else reported.SENTENCES[type(error).__name__]
    assert set(reasons) == {f"{type(error).__name__}: {sentence}"}


def test_a_missing_file_of_an_update_is_not_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise TransportError(POISON)

    monkeypatch.setattr(install, "_updater", fail)
    answer = DeviceResponder(host).answer([Ask("r00", Kind.PUSH, encode(PushRequest(1, {})))])[0]
    assert decode(PushReply, answer.body).reason == f"TransportError: {reported.SENTENCES['TransportError']}"


def test_every_reason_of_a_refusal_is_a_plain_sentence_of_our_own() -> None:
    for sentence in (*Refusal, *reported.SENTENCES.values(), reported.UNTOLD):
        assert sentence.isascii()
        assert sentence.isprintable()
        assert len(sentence) <= 120
