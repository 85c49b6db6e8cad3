"""Four trial changes: each touches the files that docs/architecture.md says, and half of it fails loudly.

An enum is made to grow by one member as in a change that stops there. Which files a whole change visits is read from
those that name an existing member.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import traceback
import typing
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedinfer import messages
from fedinfer.config import ModelKind, ModelSection, ServerOptimizer
from fedinfer.device import dispatch
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.drift import channels
from fedinfer.drift.channels import Bins, Channel
from fedinfer.errors import ConfigError
from fedinfer.exchanges import EXCHANGES
from fedinfer.flower.records import most_reply
from fedinfer.messages import PROTOCOL_VERSION, Kind
from fedinfer.ports import Ask
from fedinfer.training.models.build import build_model
from fedinfer.training.server_optimizers import OptimizerSettings, apply, init_optimizer
from tests.protocol import test_red_team_texts
from tests.unit.config import test_scenario_reference
from tests.unit.training import test_server_optimizers
from tests.unit.training.factories import TABLE
from tests.unit.training.models import test_kinds

ROOT = Path(__file__).parents[2]
Grow = Callable[[type[StrEnum], str], Any]


@pytest.fixture
def grow(monkeypatch: pytest.MonkeyPatch) -> Grow:
    """Adds a member to an enum until the test ends."""

    def one_more(kind: type[StrEnum], value: str) -> Any:
        member: Any = str.__new__(kind, value)
        member._name_, member._value_ = "TRIAL", value
        monkeypatch.setitem(kind._member_map_, "TRIAL", member)
        monkeypatch.setitem(kind._value2member_map_, value, member)
        monkeypatch.setattr(kind, "_member_names_", [*kind._member_names_, "TRIAL"])
        return member

    return one_more


def stopped_in(error: BaseException) -> str:
    """The file of the product that raised."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    inside = [file.relative_to(ROOT).as_posix() for file in files if file.is_relative_to(ROOT / "fedinfer")]
    return inside[-1]


# --- which files ---

NAMED = {
    "a server optimizer": (r"\bFEDYOGI\b|\bfedyogi\b", ("fedinfer", "docs", "tests/unit/training")),
    "a model kind": (r"\bTCN\b|^    \"tcn\"|\| `?tcn`?|`\"tcn\"`", ("fedinfer", "docs", "benchmarks", "simulations")),
    "a drift channel": (r"\"predicted_class\"", ("fedinfer", "docs")),
    "a message": (r"\bWITHDRAW\b", ("fedinfer", "docs")),
}
"""What stands wherever one of them is entered, and where to look."""
ALSO = {
    "a model kind": {"tests/scenarios/test_model_kinds.py", "tests/unit/training/factories.py"},
    "a message": {"tests/unit/test_trial_changes.py"},
}
"""Named on the page and kept by another test: test_kinds reads the first two, the last one records the shapes."""
FREE = {"a message": re.compile(r"fedinfer/(coordinator|device)/.+")}
"""Who asks and who answers: their place follows from what is said."""


def page_rows() -> dict[str, set[str]]:
    section = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## Where a change goes\n")[1]
    rows = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("| a ")]
    return {line.split("|")[1].strip(): set(re.findall(r"`([\w/.-]+\.(?:py|md))`", line)) for line in rows}


@pytest.mark.parametrize("change", NAMED)
def test_a_change_visits_the_files_that_the_page_names(change: str) -> None:
    pattern, folders = NAMED[change]
    files = [file for folder in folders for end in ("py", "md") for file in (ROOT / folder).rglob(f"*.{end}")]
    hits = {
        file.relative_to(ROOT).as_posix()
        for file in files
        if re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = page_rows()[change]
    assert all((ROOT / file).is_file() for file in named)
    assert {file for file in hits - named if not (change in FREE and FREE[change].fullmatch(file))} == set()
    assert named - hits == ALSO.get(change, set())


def test_the_page_has_these_changes() -> None:
    assert page_rows().keys() == NAMED.keys()


# --- a server optimizer ---


def test_half_a_server_optimizer_trains_as_no_other(grow: Grow) -> None:
    settings = OptimizerSettings(grow(ServerOptimizer, "fedlion"), 0.1, 0.9)
    with pytest.raises(AssertionError, match="fedlion") as at_the_start:
        init_optimizer(settings, 3)
    usual = OptimizerSettings(ServerOptimizer.FEDADAM, 0.1, 0.9)
    state = dataclasses.replace(init_optimizer(usual, 3), kind=settings.kind)
    with pytest.raises(AssertionError, match="fedlion") as in_a_round:
        apply(state, np.zeros(3, np.float32), np.ones(3, np.float32), settings)
    for error in (at_the_start.value, in_a_round.value):
        assert stopped_in(error) in page_rows()["a server optimizer"]


def test_a_server_optimizer_has_a_test_by_hand_and_a_word_on_the_page(grow: Grow) -> None:
    test_server_optimizers.test_every_rule_is_computed_by_hand()
    test_scenario_reference.test_the_page_is_up_to_date()
    grow(ServerOptimizer, "fedlion")
    with pytest.raises(AssertionError, match="fedlion"):
        test_server_optimizers.test_every_rule_is_computed_by_hand()
    with pytest.raises(AssertionError, match=r"scenario_reference\.py"):
        test_scenario_reference.test_the_page_is_up_to_date()


# --- a model kind ---


def test_half_a_model_kind_builds_no_other_and_says_where_it_is_missing(grow: Grow) -> None:
    section = ModelSection()
    object.__setattr__(section, "kind", grow(ModelKind, "lstm"))
    with pytest.raises(ConfigError, match="'lstm' has no entry in KINDS") as failure:
        build_model(section, TABLE, 1)
    assert failure.value.hint in page_rows()["a model kind"]
    for check, arguments in [
        (test_kinds.test_every_kind_has_an_entry, [()]),
        (test_kinds.test_the_tables_of_kinds_have_a_row_for_every_kind, [("docs/model-kinds.md", 2)]),
        (
            test_kinds.test_every_kind_is_measured_and_goes_the_whole_way,
            [("benchmarks/artifact.py", "DATA"), ("tests/scenarios/test_model_kinds.py", "KINDS")],
        ),
    ]:
        for each in arguments:
            with pytest.raises(AssertionError):
                check(*each)


# --- a drift channel ---


def test_half_a_channel_makes_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole one is tests/protocol/test_trial_channel.py: one entry, and a run plans, counts, tests and records it."""
    half: Any = lambda classes: Channel("weather", 3, Bins.ORDERED)  # type: ignore[call-arg]  # noqa: E731
    monkeypatch.setattr(channels, "REPORT", (*channels.REPORT, half))
    with pytest.raises(TypeError, match="'source', 'count', and 'clip_share'"):
        channels.report_channels(2)


# --- a message ---


def test_half_a_message_is_not_sent_and_not_answered(grow: Grow) -> None:
    test_red_team_texts.test_every_kind_of_message_has_its_limits_and_somebody_who_answers()
    trial = grow(Kind, "query.trial")
    with pytest.raises(AssertionError, match=r"query\.trial"):
        test_red_team_texts.test_every_kind_of_message_has_its_limits_and_somebody_who_answers()
    with pytest.raises(KeyError, match=r"query\.trial"):
        most_reply(Ask("d1", trial, b""))  # without an entry in EXCHANGES
    simulated: Any = type("Host", (), {"policy": type("Policy", (), {"reveals_simulation": True})})
    with pytest.raises(KeyError, match=r"query\.trial") as unanswered:
        DeviceResponder(simulated).answer([Ask("d1", trial, b"")])
    assert stopped_in(unanswered.value) in page_rows()["a message"]


SHAPES = {
    3: "12e3bf2df92d8fd206eb66b1b8f13f0c84fe38e1a371726096e660d47931e33a",
    4: "21374d3c1c9fe8a1d5528aef1adca022079fcdd04fbdf471812346dad3684a5b",
    5: "1c23c779255ab77427b883048ae532e98de5dcbeb497b50a16cee4d031016d1d",
}
"""By PROTOCOL_VERSION: SHA-256 of what `spoken` gives. A version that was released keeps its line.

Version 5 also means other vectors than 4: sums without noise shares are not rotated.
"""


def spoken() -> str:
    """Every kind, its request and reply, and names and types of all fields, without their limits."""
    kinds = [
        f"{kind} {getattr(EXCHANGES[kind].request, '__name__', '-')} {getattr(EXCHANGES[kind].reply, '__name__', '-')}"
        for kind in Kind
    ]
    classes = [
        f"{name} "
        + " ".join(f"{f.name}:{_bare(typing.get_type_hints(kind)[f.name])}" for f in dataclasses.fields(kind))
        for name, kind in sorted(vars(messages).items())
        if isinstance(kind, type)
        and dataclasses.is_dataclass(kind)
        and kind.__module__.startswith("fedinfer.messages.")
    ]
    return "\n".join([*sorted(kinds), *classes])


def _bare(hint: Any) -> str:
    arguments = ", ".join(_bare(argument) for argument in typing.get_args(hint) if argument is not Ellipsis)
    name = getattr(typing.get_origin(hint) or hint, "__name__", str(hint))
    return f"{name}[{arguments}]" if arguments and "ndarray" not in name else name


def test_whoever_changes_what_is_said_changes_the_version() -> None:
    """Two builds that understand a message differently must not speak of the same protocol."""
    found = hashlib.sha256(spoken().encode()).hexdigest()
    assert SHAPES.get(PROTOCOL_VERSION) == found, (
        "messages changed: raise PROTOCOL_VERSION in fedinfer/messages/fields.py, and record here its shapes"
    )


def test_every_kind_is_answered_by_a_use_case_of_the_device() -> None:
    assert set(dispatch._USE_CASES) == set(Kind)
    assert {use_case.__module__.split(".")[1] for use_case in dispatch._USE_CASES.values()} == {"device"}
