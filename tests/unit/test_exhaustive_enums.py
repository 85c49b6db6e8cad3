"""A value that an enum does not have yet stops the program; it never behaves as one of the others.

The first test calls functions that choose by an enum with a foreign value, as after an enum has grown. The second reads
the package: whoever chooses between members writes a `match` that ends in `assert_never`, so that mypy names every
place which a new member has to visit.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fedinfer

FOREIGN: Any = "a member that does not exist yet"
ROOT = Path(fedinfer.__file__).parent
ALLOWED = {
    "artifact/release/signing.py: role == Role.ROOT": "root keys lie apart from all others",
    "artifact/release/signing.py: role != Role.ROOT": "root keys lie apart from all others",
    "artifact/release/metadata.py: role not in (Role.SNAPSHOT, Role.TIMESTAMP)": "a cohort's role is not in the enum",
    "artifact/release/metadata.py: role == Role.TARGETS": "else a cohort's role, whose names are not in the enum",
    "coordinator/push/delivery.py: sent[device].way is TransferMode.PATCH": "only after a patch comes a whole file",
    "coordinator/push/rollout.py: state.phase is Phase.ROLLED_BACK": "in every other phase the devices are counted",
    "coordinator/push/ordered.py: state.phase is Phase.DONE": "any other end is told by its own name",
    "data/guess.py: guess.role is ColumnRole.TEXT": "picks the columns of one role",
    "data/proposal.py: guess.role is ColumnRole.DROP": "picks the columns of one role",
    "data/proposal_text.py: guess.role is ColumnRole.DROP": "picks the columns of one role",
    "data/proposal_text.py: guess.role is ColumnRole.TEXT": "picks the columns of one role",
    "data/proposal_text.py: g.role is ColumnRole.TIME": "picks the columns of one role",
    "data/proposal_text.py: g.role is ColumnRole.NUMERIC": "picks the columns of one role",
    "data/proposal_text.py: g.role is ColumnRole.CATEGORICAL": "picks the columns of one role",
    "device/aggregate/check_plan.py: plan.purpose is Purpose.TRAIN": "only training may correlate noise; else refused",
    "device/aggregate/stages.py: kind is Kind.PLAIN": "the plain message stands where the masked one does",
    "device/recorder.py: channel.source is Source.ERROR": "only these count labels that come later",
    "drift/policy.py: state.phase is WatchPhase.ALARM": "counts how long an alarm lasts",
    "drift/policy.py: state.phase in (WatchPhase.WARN, WatchPhase.ALARM)": "a transition: any other phase stays",
    "drift/policy.py: decide: two tests of state.phase": "transitions: any other phase stays",
    "drift/policy.py: _quiet: two tests of state.phase": "transitions: any other phase stays",
    "rollout/controller.py: state.paused is Phase.PUSHING": "a transition: any other phase stays",
    "rollout/controller.py: state.phase is Phase.PUSHING": "a transition: any other phase stays",
    "rollout/controller.py: state.phase is Phase.ROLLING_BACK": "a transition: any other phase stays",
    "coordinator/push/attention.py: heed: two tests of state.phase": "transitions: any other phase stays",
    "rollout/inbox.py: each.standing is Standing.SUBMITTED": "picks the requests of one standing",
    "rollout/inbox.py: each.standing is not Standing.SUBMITTED": "picks the requests of all other standings",
    "rollout/requests.py: each.standing is Standing.WAITING and _thing(each.request) == _thing(asked) and "
    "(now - each.request.at <= MOST_WAIT_SECONDS)": "picks the requests that wait",
    "sweeps/folder.py: outcome.status is CellStatus.FAILED": "what failed is tried again, all else is kept",
    "rollout/gates.py: verdicts == {Verdict.PASS}": "all passed; after FAIL was looked for, anything else holds",
}
"""Comparisons with one member that do not choose between behaviours of members, each with its reason."""


def _calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    from fedinfer.artifact.quantize import quantize
    from fedinfer.artifact.quantize.schemes import STATIC_S8
    from fedinfer.artifact.release.signing import _keys_needed
    from fedinfer.audit import opening
    from fedinfer.audit.canaries import Canaries
    from fedinfer.cli.privacy import _events
    from fedinfer.coordinator.plan.robust import Rule
    from fedinfer.device.aggregate.stages import _is_plain
    from fedinfer.device.inference import _together
    from fedinfer.drift import policy, sketch, statistics
    from fedinfer.drift.channels import Bins, Source
    from fedinfer.inference.install.expand import _decompressor
    from fedinfer.privacy.accounting.events import GaussianEvent, PoissonSampled, moved
    from fedinfer.privacy.accounting.rdp import event_curve
    from fedinfer.privacy.charges import relation_of
    from fedinfer.privacy.mechanism.design import design, largest_sum
    from fedinfer.privacy.mechanism.encoding import draw_shares, to_integers
    from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding, rounding_of
    from fedinfer.privacy.noise_model import Local, noise_model
    from fedinfer.report.statement import _protected
    from fedinfer.rollout.controller import _waits, todo
    from fedinfer.rollout.gates import Bound, Gate, GateScope
    from fedinfer.simulation.population import _kept
    from fedinfer.training.compression import _rounds_inputs
    from fedinfer.training.models.parts import split
    from fedinfer.training.update import tuned_parameters
    from fedinfer.types import Unit

    mechanism = IntegerMechanism(NoiseKind.SKELLAM, 4, 1.0, 1.0, 20, 100.0, 2, 2, 2, Rounding.CONDITIONAL, Unit.DEVICE)
    gate = Gate("error", Bound.AT_MOST, 0.1, 0.2, 0.0, 1.0, GateScope.WAVE)
    graph = np.zeros((0, 4))

    def foreign(value: Any, **fields: Any) -> Any:
        """A copy with fields that the constructor would not let through."""
        copied = replace(value)
        for name, field in fields.items():
            object.__setattr__(copied, name, field)
        return copied

    import torch

    net = torch.nn.Linear(2, 2)
    yield "units of a report", lambda: Unit.counted(FOREIGN, 5)
    yield "sampling rate of a unit", lambda: Unit.sampling_rate(FOREIGN, 0.5)
    yield "relation of a unit", lambda: relation_of(FOREIGN)
    yield "rounding of a unit", lambda: rounding_of(FOREIGN)
    yield "unit of a rounding", lambda: Rounding.unit.fget(FOREIGN)  # type: ignore[attr-defined]  # a property
    yield "noise model of a trust", lambda: noise_model(FOREIGN, Unit.DEVICE)
    yield "work of a unit", lambda: Local(FOREIGN).work
    yield "norm of a report", lambda: sketch.report_norm(FOREIGN, ())
    yield "report of a unit", lambda: sketch.window_report([], FOREIGN, ())
    yield "rows at once", lambda: _together(FOREIGN, 5)
    yield "events of a trust", lambda: _events(Unit.DEVICE, FOREIGN, 1, 1.0, 4, 2)
    yield "words for a unit", lambda: _protected(FOREIGN, {})
    yield "l2 of a rounding", lambda: foreign(mechanism, rounding=FOREIGN).l2
    yield (
        "encoding of a rounding",
        lambda: to_integers(
            np.zeros((1, 4), np.float32),
            foreign(mechanism, rounding=FOREIGN),
            b"seed",
            None,  # type: ignore[arg-type]
        ),
    )
    yield "range of a rounding", lambda: largest_sum(foreign(mechanism, rounding=FOREIGN))
    yield "noise of a kind", lambda: draw_shares(1, foreign(mechanism, kind=FOREIGN), None)  # type: ignore[arg-type]
    yield "event of a kind", lambda: foreign(mechanism, kind=FOREIGN).event(1.0)
    yield "design of a kind", lambda: design(
        kind=FOREIGN, rounding=Rounding.CONDITIONAL, dimension=4, clipping_norm=1.0, noise_multiplier=1.0,
        contributors=2, summands=2, units=2, max_loss=0.01,
    )  # fmt: skip
    yield "norm under a relation", lambda: moved(FOREIGN)
    yield "curve of a relation", lambda: event_curve(GaussianEvent(1.0), FOREIGN)
    yield "sampled curve of a relation", lambda: event_curve(PoissonSampled(0.5, GaussianEvent(1.0)), FOREIGN)
    yield "test of bins", lambda: statistics.contrasts(3, FOREIGN)
    yield "exclusive bins", lambda: Bins.exclusive.fget(FOREIGN)  # type: ignore[attr-defined]  # a property
    yield "channel of answers", lambda: Source.answers.fget(FOREIGN)  # type: ignore[attr-defined]
    yield "channel of inputs", lambda: Source.needs_no_answer.fget(FOREIGN)  # type: ignore[attr-defined]
    yield "channel of windows", lambda: Source.of_windows.fget(FOREIGN)  # type: ignore[attr-defined]
    yield "source of a channel", lambda: policy._may_act(FOREIGN)
    yield "plain or masked", lambda: _is_plain(FOREIGN)
    yield "robust rule", lambda: Rule(FOREIGN, 1, 0, 0.0).wants_means
    yield "bound of a gate", lambda: foreign(gate, bound=FOREIGN).room
    yield "limits of a gate", lambda: replace(gate, bound=FOREIGN)
    yield "scope of a gate", lambda: foreign(gate, scope=FOREIGN).sample(3)
    yield "approval of a wave", lambda: _waits(FOREIGN, 0)
    yield "phase of a rollout", lambda: todo(SimpleNamespace(phase=FOREIGN))  # type: ignore[arg-type]
    yield "delta method", lambda: _decompressor(FOREIGN, b"")
    yield "quantization method", lambda: quantize.apply(replace(STATIC_S8, method=FOREIGN), None, graph)
    yield "activation type", lambda: quantize._signed(FOREIGN)
    yield "quantized nodes", lambda: quantize._scoped(FOREIGN, None)
    yield "keys of a role", lambda: _keys_needed(FOREIGN)
    yield "stores of processes", lambda: _kept(Path(), FOREIGN)
    yield "what is rounded", lambda: _rounds_inputs(FOREIGN)
    yield "what is tuned", lambda: tuned_parameters(net, FOREIGN)
    yield "what stays", lambda: split(net, FOREIGN)
    yield "audited noise", lambda: opening._silent(FOREIGN)
    yield "who is seen alone", lambda: opening._groups(FOREIGN, SimpleNamespace(homes=("a",)))  # type: ignore[arg-type]
    yield "canaries of a method", lambda: opening._wanted(None, FOREIGN, 10, 1)  # type: ignore[arg-type]
    yield "directions", lambda: Canaries(("a",), np.ones(1, np.bool_), FOREIGN, np.zeros((4, 0)), 1).directions("r")


CALLS = dict(_calls())


@pytest.mark.parametrize("choice", CALLS)
def test_a_member_that_does_not_exist_yet_behaves_as_no_other(choice: str) -> None:
    with pytest.raises(AssertionError, match="a member that does not exist yet"):
        CALLS[choice]()


def test_whoever_chooses_between_members_matches_all_of_them() -> None:
    found = {line for path in sorted(ROOT.rglob("*.py")) for line in _choices(path)}
    assert found - ALLOWED.keys() == set(), "use match with assert_never"
    assert ALLOWED.keys() - found == set(), "no longer needed"


def _enums() -> frozenset[str]:
    return frozenset(
        node.name
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") in ("Enum", "StrEnum") for base in node.bases)
    )


ENUMS = _enums()


def _subjects(test: ast.expr) -> Counter[str]:
    """What is compared with members of an enum; `none` says that there is nothing, which is no choice between ways."""
    found: Counter[str] = Counter()
    for node in ast.walk(test):
        if isinstance(node, ast.Compare):
            sides = [part for side in (node.left, *node.comparators) for part in getattr(side, "elts", [side])]
            for side in sides:
                owner = getattr(side, "value", None)
                name = getattr(owner, "id", getattr(owner, "attr", ""))
                if isinstance(side, ast.Attribute) and name in ENUMS and side.attr.isupper() and side.attr != "NONE":
                    found[ast.unparse(node.left)] += 1
    return found


def _choices(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text())):
        if (isinstance(node, ast.IfExp) or (isinstance(node, ast.If) and node.orelse)) and _subjects(node.test):
            yield f"{name}: {ast.unparse(node.test)}"
        if isinstance(node, ast.comprehension):
            yield from (f"{name}: {ast.unparse(test)}" for test in node.ifs if _subjects(test))
        if isinstance(node, ast.FunctionDef):
            tests = [_subjects(step.test) for step in node.body if isinstance(step, ast.If)]
            chained = Counter(subject for test in tests for subject in test)
            yield from (f"{name}: {node.name}: two tests of {what}" for what, count in chained.items() if count > 1)
