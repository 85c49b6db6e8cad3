"""A model in a process that is locked in: what it cannot do there, and that one row cannot change another's answer."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, parser

from fedinfer.errors import GateFailed, Refusal
from fedinfer.model_file import CheckedModel, check_model
from fedinfer.model_file.confinement import available
from fedinfer.model_file.process import taken
from fedinfer.model_file.sandbox import Question, RunLimits, SandboxRun, run_confined
from fedinfer.system import SystemClock

ROOT = Path(__file__).parents[3]
TRIES = {
    "file": "open(sys.argv[1], 'rb').read()",
    "new file": "open(sys.argv[1] + '.new', 'wb')",
    "listing": "os.listdir(os.path.dirname(sys.argv[1]))",
    "socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "local socket": "socket.socketpair()",
    "process": "os.fork()",
    "program": "os.execv('/bin/true', ['true'])",
    "remove": "os.unlink(sys.argv[1])",
}
PROGRAM = """
import json, os, socket, sys
sys.path.insert(0, {root!r})
from fedinfer.model_file import confinement
{before}
locks = confinement.confine(2**28, 60)
found = {{"closed": locks.closed}}
for name, text in {tries!r}.items():
    try:
        exec(text)
        found[name] = "done"
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""
ALL_LOCKS, ONLY_LANDLOCK, ONLY_SECCOMP = (
    "",
    "confinement._filter = lambda *_: False",
    "confinement._restrict = lambda *_: False",
)
NOTHING = "confinement.confine = lambda *_: confinement.Confinement(False, 0, False)"


def attempted(path: Path, before: str, tries: dict[str, str]) -> dict[str, Any]:
    """What a locked process could do."""
    program = PROGRAM.format(root=str(ROOT), before=before, tries=tries)
    done = subprocess.run([sys.executable, "-I", "-c", program, str(path)], capture_output=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(bytes(range(64)))
    return path


def test_nothing_can_be_opened_started_or_removed_under_all_locks(secret: Path) -> None:
    found = attempted(secret, ALL_LOCKS, TRIES)
    assert found.pop("closed") is True
    assert set(found) == set(TRIES)
    assert "done" not in found.values()
    assert secret.exists()


def test_without_locks_the_same_attempts_succeed(secret: Path) -> None:
    found = attempted(secret, NOTHING, {name: TRIES[name] for name in ("file", "new file", "listing", "local socket")})
    assert set(found.values()) == {"done", False}


def test_landlock_alone_closes_all_files(secret: Path) -> None:
    assert available().landlock > 0
    unlimited = ONLY_LANDLOCK + "; confinement._limit = lambda *_: None"
    found = attempted(secret, unlimited, {name: TRIES[name] for name in ("file", "new file", "listing", "remove")})
    assert "done" not in found.values()


def test_seccomp_alone_closes_everything(secret: Path) -> None:
    assert available().seccomp
    found = attempted(secret, ONLY_SECCOMP + "; confinement._limit = lambda *_: None", TRIES)
    assert "done" not in found.values()


ROOM_TRIES = {
    "own file": "open(folder + '/a', 'wb').write(b'x' * 9)",
    "own folder": "os.mkdir(folder + '/b'); os.rename(folder + '/a', folder + '/b/a'); os.unlink(folder + '/b/a')",
    "thread": "t = threading.Thread(target=len, args=('',)); t.start(); t.join()",
    "module": "import decimal, wave",
    **TRIES,
    "local clone": "ctypes.CDLL(None, use_errno=True).syscall(CLONE, 17, 0, 0, 0, 0) >= 0 or os.unlink(sys.argv[1])",
    "signal": "os.kill(os.getppid(), 0)",
    "large file": "f = os.open(folder + '/l', os.O_CREAT | os.O_WRONLY); os.write(f, bytes(2**17)); os.write(f, b'x')",
}
ROOM_PROGRAM = """
import ctypes, json, os, platform, signal, socket, sys, tempfile, threading
sys.path.insert(0, {root!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from fedinfer.model_file import confinement
from fedinfer.model_file.system_calls import MACHINES
{before}
CLONE = MACHINES[platform.machine()].clone
folder = sys.argv[2]
room = confinement.Room(folder, (sys.base_prefix, *sys.path[1:], "/nowhere"), 2**17)
locks = confinement.confine(2**28, 60, room)
found = {{"closed": locks.closed}}
for name, text in {tries!r}.items():
    try:
        exec(text)
        found[name] = "done"
    except (OSError, ImportError) as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""


def test_a_room_is_all_that_a_process_with_one_can_reach(secret: Path, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    program = ROOM_PROGRAM.format(root=str(ROOT), before="", tries=ROOM_TRIES)
    words = [sys.executable, "-I", "-c", program, str(secret), str(room)]
    found = json.loads(subprocess.run(words, capture_output=True, check=True).stdout.splitlines()[-1])
    assert found.pop("closed") is True
    done = {name for name, what in found.items() if what == "done"}
    assert done == {"own file", "own folder", "thread", "module"}, found
    assert secret.exists()


def test_the_runtime_reports_its_use_to_nobody() -> None:
    """Loaded through fedinfer it starts no thread that uploads."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import fedinfer.model_file.session, os; "
        "print(os.environ['ORT_DISABLE_TELEMETRY'], len(os.listdir('/proc/self/task')))"
    )
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=True, env=environment)
    assert done.stdout.split() == [b"1", b"1"]


def graph(text: str) -> Any:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml": 4]> g {text}')


def spy() -> bytes:
    """The graph of the attack: its constant lies in a file of the working directory."""
    model = graph(
        "(float[batch, 64] input) => (float[batch, 64] probabilities)"
        "{ z = Cast<to: int = 1>(k)  probabilities = Add(input, z) }"
    )
    tensor = model.graph.initializer.add(name="k", data_type=TensorProto.UINT8, dims=[64], data_location=1)
    for key, value in (("location", "secret"), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(("before", "reads"), [(NOTHING, True), (ALL_LOCKS, False)])
def test_a_model_that_got_past_every_check_reads_no_file_in_the_sandbox(
    secret: Path, before: str, reads: bool, tmp_path: Path
) -> None:
    """A plain session of the runtime, without inspection and with a folder, reads the file outside the locks only."""
    (tmp_path / "model").write_bytes(spy())
    program = PROGRAM.format(
        root=str(ROOT), tries={}, before=f"import os, numpy, onnxruntime; os.chdir({str(tmp_path)!r})\n"
        f"data = open('model', 'rb').read()\n{before}",
    ) + (
        "options = onnxruntime.SessionOptions(); options.log_severity_level = 4\n"
        "try:\n"
        "    session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])\n"
        "    print(json.dumps(session.run(None, {'input': numpy.zeros((1, 64), numpy.float32)})[0].tolist()))\n"
        "except Exception as error:\n"
        "    print(json.dumps('refused'))\n"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == ([list(map(float, range(64)))] if reads else "refused")


LIMITS = RunLimits(memory_bytes=2**28, open_seconds=60.0, run_seconds=30.0)


def asked(model: Any, rows: Any, alone: bool = True, limits: RunLimits = LIMITS, classes: int = 2) -> list[SandboxRun]:
    data = model.SerializeToString()
    checked = CheckedModel(data, "")  # past the inspection: the sandbox is judged by itself
    if rows.dtype == np.float64:
        rows = rows.astype(np.float32)
    return run_confined(checked, Question("input", "probabilities", classes, rows, alone), SystemClock(), limits)


def texts(*rows: str) -> Any:
    column = np.empty((len(rows), 1), object)
    column[:, 0] = rows
    return column


MEMORY = graph("""(float[batch, 2] input) => (float[batch, 2] probabilities) {
    one = Constant<value_ints: ints = [1]>()
    sum = ReduceSum(input)
    flat = Reshape(sum, one)
    count = Cast<to: int = 7>(flat)
    many = ConstantOfShape(count)
    zero = ReduceSum(many)
    probabilities = Add(input, zero) }""")


def test_a_row_that_makes_the_model_take_memory_fails_alone() -> None:
    found = asked(MEMORY, np.array([[1.0, 2.0], [1e9, 0.0], [3.0, 4.0]]))
    assert [run.probabilities is None for run in found] == [False, True, False]
    assert found[2].probabilities.tolist() == [[3.0, 4.0]]  # type: ignore[union-attr]  # answered, line above


def test_a_model_that_takes_memory_when_it_loads_is_refused() -> None:
    """Constant folding makes the tensor when the session is made."""
    model = graph("""(float[batch, 2] input) => (float[batch, 2] probabilities) {
        count = Constant<value_ints: ints = [1000000000]>()
        many = ConstantOfShape(count)
        zero = ReduceSum(many)
        probabilities = Add(input, zero) }""")
    try:
        failed = asked(model, np.ones((1, 2)))[0].probabilities is None
    except GateFailed as error:
        failed = error.refusal is Refusal.CONFINED
    assert failed


def doubling(times: int) -> Any:
    """A text model that doubles its text so many times where it holds the word: memory that no arena counts."""
    steps = "\n".join(f"t{number + 1} = StringConcat(t{number}, t{number})" for number in range(times))
    model = graph(f"""(string[batch, 1] input) => (float[batch, 2] probabilities) {{
        flag = ai.onnx.ml.LabelEncoder<keys_strings: strings = ["hiv"], values_int64s: ints = [1],
            default_int64: int = 0>(input)
        most = ReduceMax<keepdims: int = 0>(flag)
        one = Constant<value_ints: ints = [1]>()
        place = Reshape(most, one)
        t0 = Gather<axis: int = 0>(words, place)
        {steps}
        last = ai.onnx.ml.LabelEncoder<keys_strings: strings = ["x"], values_floats: floats = [1.0],
            default_float: float = 0.0>(t{times})
        zero = Mul(last, nothing)
        probabilities = Add(base, zero) }}""")
    for name, value in (("words", np.array(["", "x" * 64], object)), ("nothing", np.zeros(1, np.float32)),
                        ("base", np.array([[0.7, 0.3]], np.float32))):  # fmt: skip
        from onnx import numpy_helper

        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def test_a_text_that_makes_the_model_take_memory_fails_alone() -> None:
    found = asked(doubling(26), texts("cold", "hiv", "flu"))
    assert [run.probabilities is None for run in found] == [False, True, False]


def looping() -> Any:
    """As many turns as the first value of the row says."""
    scalar = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Identity", ["x"], ["y"])]
    body = helper.make_graph(
        nodes, "body",
        [scalar("i", TensorProto.INT64, []), scalar("go", TensorProto.BOOL, []), scalar("x", 1, ["b", 2])],
        [scalar("goes", TensorProto.BOOL, []), scalar("y", 1, ["b", 2])],
    )  # fmt: skip
    outer = [
        helper.make_node("ReduceMax", ["input"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "", "input"], ["probabilities"], body=body),
    ]
    made = helper.make_graph(outer, "g", [scalar("input", 1, ["b", 2])], [scalar("probabilities", 1, ["b", 2])])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_row_on_which_the_model_does_not_end_fails_alone() -> None:
    limits = RunLimits(memory_bytes=2**28, open_seconds=60.0, run_seconds=1.0)
    found = asked(looping(), np.array([[1.0, 0.0], [1e18, 0.0], [2.0, 0.0]]), limits=limits)
    assert [run.probabilities is None for run in found] == [False, True, False]
    assert found[1].seconds == limits.run_seconds


SHORTER = graph("""(float[batch, 2] input) => (float[batch, c] probabilities) {
    zero = Constant<value_ints: ints = [0]>()
    one = Constant<value_ints: ints = [1]>()
    most = ReduceMax(input)
    whole = Cast<to: int = 7>(most)
    end = Reshape(whole, one)
    probabilities = Slice(input, zero, end, one) }""")


def test_an_answer_of_another_shape_is_a_failed_run_of_the_usual_size() -> None:
    found = asked(SHORTER, np.array([[2.0, 2.0], [1.0, 1.0], [0.0, 0.0], [2.0, 1.0]]))
    assert [run.probabilities is None for run in found] == [False, True, True, False]


def test_all_rows_at_once_are_one_run() -> None:
    found = asked(SHORTER, np.array([[2.0, 2.0], [1.0, 1.0]]), alone=False)
    assert [run.probabilities.tolist() for run in found if run.probabilities is not None] == [[[2.0, 2.0], [1.0, 1.0]]]


def test_a_model_that_does_not_load_is_refused() -> None:
    broken = graph("(float[batch, 2] input) => (float[batch, 2] probabilities) { probabilities = Unknown(input) }")
    with pytest.raises(GateFailed) as caught:
        asked(broken, np.ones((1, 2)))
    assert caught.value.refusal is Refusal.CONFINED


def test_judged_models_pass(tmp_path: Path) -> None:
    softmax = graph("(float[batch, 2] input) => (float[batch, 2] probabilities) { probabilities = Softmax(input) }")
    question = Question("input", "probabilities", 2, np.zeros((3, 2), np.float32), alone=True)
    found = run_confined(check_model(softmax.SerializeToString()), question, SystemClock())
    assert np.array([run.probabilities for run in found]).ravel().tolist() == [0.5] * 6


def test_a_descriptor_above_1023_is_read_too() -> None:
    """`select` knows none; a server with many open files has them."""
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1500)
    os.close(reading)
    os.write(writing, b"answer")
    with os.fdopen(high, "rb") as pipe:
        assert taken(pipe, 6, 5.0, SystemClock()) == b"answer"
        assert taken(pipe, 1, 0.01, SystemClock()) is None
    os.close(writing)
