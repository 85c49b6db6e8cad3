"""Traces: a span for the run, for each step and for each question to devices, and no word of a device in any."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from fedinfer.errors import ConfigError
from fedinfer.flower.transport import GridTransport
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.system import FrozenClock, SystemClock
from fedinfer.tracing import RunTrace, TracedNodes, provider_of
from tests.protocol.fleet import enrolled
from tests.unit.deployment.test_deployment_run import DEVICES, Pilot

SECRET = "hospital-north"


class Traced:
    """A trace whose spans stay here."""

    def __init__(self, clock: FrozenClock | SystemClock) -> None:
        self.exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.trace = RunTrace(provider, "r1", clock)

    def spans(self) -> list[ReadableSpan]:
        return sorted(
            self.exporter.get_finished_spans(), key=lambda span: (span.start_time or 0, -(span.end_time or 0))
        )


def parent_of(span: ReadableSpan, spans: list[ReadableSpan]) -> str:
    found = [each.name for each in spans if span.parent and each.context.span_id == span.parent.span_id]
    return found[0] if found else ""


def attribute(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(f"fedinfer.{name}")


def story(clock: FrozenClock) -> Traced:
    traced = Traced(clock)
    trace = traced.trace
    trace("started", {"engine": "deployment", "devices": [SECRET]})
    clock.advance(1)
    asks = [Ask(SECRET, "train", b"12345", b"678"), Ask("b", "train", b"12345")]
    with trace.asking(asks) as take:
        clock.advance(3)
        take([Answer(SECRET, b"1234", "", ""), Answer("b", b"", "DataError", SECRET)])
    trace("errors", {"device": SECRET, "detail": SECRET, "count": 1})
    clock.advance(1)
    trace("round", {"round": 1, "status": "released", "reason": "initial", "detail": SECRET, "seconds": 4.0})
    trace("not_joined", {"device": SECRET, "reason": SECRET})
    clock.advance(2)
    trace("wave", {"version": "1", "wave": 1, "installed": 2, "reason": f"{SECRET} said", "state": "done"})
    trace("finished", {"status": "completed"})
    return traced


def test_a_run_has_steps_and_steps_have_questions() -> None:
    spans = story(FrozenClock(datetime(2026, 1, 1, tzinfo=UTC))).spans()
    assert sorted((span.name, parent_of(span, spans)) for span in spans) == [
        ("ask train", "round"), ("closing", "run"), ("round", "run"), ("run", ""), ("started", "run"), ("wave", "run"),
    ]  # fmt: skip
    by_name = {span.name: span for span in spans}
    seconds = {name: ((span.end_time or 0) - (span.start_time or 0)) / 1e9 for name, span in by_name.items()}
    assert seconds == {"started": 0, "ask train": 3, "round": 5, "wave": 2, "closing": 0, "run": 7}
    ask, run = by_name["ask train"], by_name["run"]
    figures = {name: attribute(ask, name) for name in ("devices", "answers", "errors", "bytes_down", "bytes_up")}
    assert figures == {"devices": 2, "answers": 2, "errors": 1, "bytes_down": 13, "bytes_up": 4}
    assert (attribute(by_name["round"], "round"), attribute(by_name["round"], "status")) == (1, "released")
    assert (run.status.status_code, attribute(run, "run_id")) == (StatusCode.OK, "r1")
    assert [event.name for event in by_name["round"].events] == ["errors"]


def test_no_span_names_a_device_or_repeats_what_one_said() -> None:
    said = "".join(span.to_json() for span in story(FrozenClock(datetime(2026, 1, 1, tzinfo=UTC))).spans())
    assert SECRET not in said
    assert "fedinfer.installed" in said


def test_a_run_that_failed_or_was_cut_off_has_an_end() -> None:
    for name in ("failed", ""):
        traced = Traced(FrozenClock(datetime(2026, 1, 1, tzinfo=UTC)))
        if name:
            traced.trace(name, {"error": "TransportError", "message": SECRET})
            traced.trace("round", {"round": 1})  # nothing comes after the end
        traced.trace.close()
        spans = {span.name: span for span in traced.spans()}
        assert set(spans) == {"closing", "run"}
        assert spans["run"].status.status_code is StatusCode.ERROR


def test_traces_go_where_opentelemetrys_variables_say() -> None:
    assert provider_of({}) is provider_of({"OTEL_TRACES_EXPORTER": "none"}) is None
    provider = provider_of({"OTEL_TRACES_EXPORTER": "console"})
    assert provider is not None
    provider.shutdown()
    with pytest.raises(ConfigError, match="no such exporter, there are console") as caught:
        provider_of({"OTEL_TRACES_EXPORTER": "paper"})
    assert "otlp" in caught.value.hint


def test_who_wants_no_traces_loads_nothing_of_them() -> None:
    program = "import sys, fedinfer.apps; print('opentelemetry' in {name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_the_trace_of_a_deployment_shows_where_a_round_spends_its_time(tmp_path: Path) -> None:
    traced = Traced(SystemClock())
    pilot = Pilot(tmp_path, enrolled(tmp_path, DEVICES, Budget(4.0, 1e-5)), [])
    pilot.nodes_of = lambda grid: TracedNodes(GridTransport(grid), traced.trace)
    heard = pilot.heard

    def both(name: str, fields: dict[str, Any]) -> None:
        heard(name, fields)
        traced.trace(name, fields)

    pilot.heard = both  # type: ignore[method-assign, assignment]
    pilot.run("training.rounds = 2\ndrift.enabled = false\nsecure_aggregation.dropout_rate = 0.2")
    spans = traced.spans()
    names = [span.name for span in spans if parent_of(span, spans) == "run"]
    assert [name for name in names if name in ("round", "built", "wave")][:3] == ["round", "round", "built"]
    assert "wave" in names
    stages = {span.name for span in spans if parent_of(span, spans) == "round"}
    assert len(stages) >= 4  # keys, shares, masked sum, unmasking
    assert all(name.startswith("ask ") for name in stages)
    said = "".join(span.to_json() for span in spans)
    assert not [store.name for store in pilot.stores if f'"{store.name}"' in said]
