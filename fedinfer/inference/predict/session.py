"""Opening a model graph: judged before the runtime sees it, our errors, one session per distinct model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from typing import Any

import onnxruntime as ort

from fedinfer.errors import GateFailed, Refusal
from fedinfer.manifest import CONTRIBUTIONS, INPUT, LABEL, PROBABILITIES, VALUE
from fedinfer.model_file import CheckedModel, check_model, first_line, open_checked
from fedinfer.printable import STEERING

MOST_TERMS = 100_000
"""Terms of an additive model that its metadata may name."""
_KINDS = ("tensor(float)", "tensor(string)")
__all__ = [
    "INPUT",
    "LABEL",
    "PROBABILITIES",
    "SessionCache",
    "first_line",
    "metadata",
    "open_session",
    "takes_one_row",
    "terms_in",
]


def open_session(model: CheckedModel) -> ort.InferenceSession:
    """Load a graph with one thread on the CPU.

    Args:
        model: with the input "input", float32 (batch, width) or string (batch, 1), and at least one of the outputs
            "probabilities", float32 (batch, classes), and "value", float32 (batch, 1); batch is free, or 1.

    Raises:
        GateFailed: when ONNX Runtime refuses the bytes or the graph has other inputs or outputs.
    """
    session = open_checked(model)
    try:
        _check_inputs(session)
        _check_outputs(session)
    except UnicodeDecodeError as error:  # names that are not UTF-8
        raise GateFailed(f"a name of the model cannot be read: {first_line(error)}", Refusal.MALFORMED) from error
    return session


def static_width(session: ort.InferenceSession) -> int | None:
    """Number of input columns when the graph fixes it, else None.

    Args:
        session: of `open_session`.
    """
    size = session.get_inputs()[0].shape[1]
    return size if isinstance(size, int) else None


def takes_one_row(session: ort.InferenceSession) -> bool:
    """Whether the graph takes one row at a time.

    Args:
        session: of `open_session`.
    """
    return bool(session.get_inputs()[0].shape[0] == 1)


def metadata(session: ort.InferenceSession) -> dict[str, str]:
    """The `metadata_props` of the model.

    Args:
        session: of `open_session`.

    Raises:
        GateFailed: when they are not text.
    """
    try:
        return dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise GateFailed(f"the metadata of the model cannot be read: {first_line(error)}", Refusal.MALFORMED) from error


def terms_in(session: ort.InferenceSession) -> tuple[tuple[str, ...], ...]:
    """Columns of each summand of an additive model, in the order of the output "contributions"; empty for others.

    Args:
        session: of `open_session`.

    Raises:
        GateFailed: when the list cannot be read.
    """
    if _output(session, CONTRIBUTIONS) is None:
        return ()
    try:
        terms = tuple(tuple(map(str, columns)) for columns in json.loads(metadata(session).get("terms", "[]")))
    except (ValueError, TypeError, RecursionError) as error:
        raise GateFailed(f"the terms of the model cannot be read: {first_line(error)}", Refusal.SCHEMA) from error
    if len(terms) > MOST_TERMS or any(STEERING.search(name) for columns in terms for name in columns):
        raise GateFailed("the names of the model's terms break the rule for names", Refusal.SCHEMA)
    return terms


class SessionCache:
    """Keeps at most `limit` sessions, least recently used first out, so that many devices of one process share them.

    Args:
        limit: number of sessions kept, >= 1.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sessions: OrderedDict[str, tuple[CheckedModel, ort.InferenceSession]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, model: bytes) -> tuple[CheckedModel, ort.InferenceSession]:
        """The session of exactly these bytes, judged and made when it is not there.

        Args:
            model: serialized ONNX model; untrusted.

        Raises:
            GateFailed: like `check_model` and `open_session`.
        """
        digest = hashlib.sha256(model).hexdigest()
        with self._lock:
            found = self._sessions.get(digest)
            if found is None:
                checked = check_model(model)
                found = self._sessions[digest] = checked, open_session(checked)
            self._sessions.move_to_end(digest)
            while len(self._sessions) > self._limit:
                self._sessions.popitem(last=False)
        return found


def _check_inputs(session: ort.InferenceSession) -> None:
    inputs = session.get_inputs()
    found = [f"{node.name}: {node.type}{node.shape}" for node in inputs]
    if len(inputs) != 1 or inputs[0].name != INPUT or inputs[0].type not in _KINDS or len(inputs[0].shape) != 2:
        raise GateFailed(
            f"the graph wants {found}, expected one float or text input {INPUT!r} of shape (batch, width)",
            Refusal.OUTPUTS,
        )
    if isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] != 1:
        raise GateFailed(
            f"the batch size of the graph is fixed to {inputs[0].shape[0]}, expected a free dimension or 1",
            Refusal.OUTPUTS,
        )


def _check_outputs(session: ort.InferenceSession) -> None:
    node = _output(session, PROBABILITIES) or _output(session, VALUE)
    if node is None or node.type != "tensor(float)" or len(node.shape) != 2:
        found = [f"{node.name}: {node.type}{node.shape}" for node in session.get_outputs()]
        raise GateFailed(
            f"the graph gives {found}, expected a float output {PROBABILITIES!r} of shape (batch, classes), "
            f"or {VALUE!r}",
            Refusal.OUTPUTS,
        )


def _output(session: ort.InferenceSession, name: str) -> Any:
    return next((node for node in session.get_outputs() if node.name == name), None)
