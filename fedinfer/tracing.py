"""Traces of a run for OpenTelemetry (extra `otel`): spans of the run, its steps, and its questions to devices.

Rules:
* A span says what the log of events says, and less: numbers, and words from a short list. It names no device, repeats
  no text that a device sent, and holds nothing of a row or an update.
* A step's span begins where the one before ended and gets its name at its end, when it is known what it was: a
  coordinator does one thing at a time.
* Who wants no traces sets nothing: OTEL_TRACES_EXPORTER decides, as everywhere in OpenTelemetry, and nothing of it is
  imported without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.types import DeviceId

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

    from fedinfer.ports import Answer, Ask, Clock, Nodes

EXPORTER = "OTEL_TRACES_EXPORTER"
STEPS = frozenset({"started", "round", "built", "wave", "gate", "window", "rolled_back", "reused", "withdrawn"})
"""Events at the end of a step; any other is noted in the step in which it happens."""
LAST = frozenset({"finished", "failed"})
WORDS = frozenset({"status", "state", "reason", "phase", "error", "engine", "order", "standing", "version", "metric"})
"""Fields of events whose text the coordinator chose."""
REASONS = frozenset({"initial", "drift", "reuse"})
SCOPE = "fedinfer"


def provider_of(environment: Mapping[str, str]) -> TracerProvider | None:
    """Where traces go, as OpenTelemetry's variables say.

    Args:
        environment: with OTEL_TRACES_EXPORTER: `console`, `otlp`, or any other exporter that is installed; none or
            `none`: nowhere.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
        ConfigError: there is no exporter of that name.
    """
    name = environment.get(EXPORTER, "").strip()
    if name in ("", "none"):
        return None
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as missing:
        raise MissingExtra(f"{EXPORTER}={name} needs OpenTelemetry", hint="pip install 'fedinfer[otel]'") from missing
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    return provider


def _exporter(name: str) -> SpanExporter:
    found = {each.name: each for each in entry_points(group="opentelemetry_traces_exporter")}
    if name not in found:
        raise ConfigError(
            f"{EXPORTER}={name}: no such exporter, there are {', '.join(sorted(found)) or 'none'}",
            hint="pip install opentelemetry-exporter-otlp-proto-http brings otlp",
        )
    exporter: SpanExporter = found[name].load()()
    return exporter


class RunTrace:
    """The spans of one run: a listener of its events, and what measures questions to its devices.

    Args:
        provider: where spans go.
        run_id: of the run.
        clock: dates the spans.
    """

    def __init__(self, provider: TracerProvider, run_id: str, clock: Clock) -> None:
        self._provider, self._clock = provider, clock
        self._tracer = provider.get_tracer(SCOPE)
        self._run: Span | None = self._tracer.start_span("run", start_time=self._now())
        self._run.set_attribute("fedinfer.run_id", run_id)
        self._step = self._next_step()

    def __call__(self, name: str, fields: dict[str, Any]) -> None:
        """Take in one event.

        Args:
            name: of the event.
            fields: of the event.
        """
        if self._run is None:
            return
        if name in LAST:
            self._end(name, fields)
        elif name in STEPS:
            self._step.update_name(name)
            self._step.set_attributes(told(fields))
            self._step.end(self._now())
            self._step = self._next_step()
        else:
            self._step.add_event(name, told(fields), self._now())

    @contextmanager
    def asking(self, asks: Sequence[Ask]) -> Iterator[Callable[[Sequence[Answer]], None]]:
        """A question to devices, and what came back.

        Args:
            asks: the question to each.

        Yields:
            Takes the answers.
        """
        from opentelemetry.trace import set_span_in_context

        kinds = Counter(str(ask.kind) for ask in asks)
        name = f"ask {next(iter(kinds))}" if len(kinds) == 1 else "ask"
        span = self._tracer.start_span(name, set_span_in_context(self._step), start_time=self._now())
        span.set_attribute("fedinfer.devices", len(asks))
        span.set_attribute("fedinfer.bytes_down", sum(len(ask.common) + len(ask.own) for ask in asks))

        def take(answers: Sequence[Answer]) -> None:
            span.set_attribute("fedinfer.answers", len(answers))
            span.set_attribute("fedinfer.errors", sum(bool(answer.error) for answer in answers))
            span.set_attribute("fedinfer.bytes_up", sum(len(answer.body) for answer in answers))

        try:
            yield take
        finally:
            span.end(self._now())

    def close(self) -> None:
        """End what is open and hand everything over."""
        self._end("failed", {})
        self._provider.shutdown()

    def _end(self, name: str, fields: dict[str, Any]) -> None:
        from opentelemetry.trace import Status, StatusCode

        if self._run is None:
            return
        run, self._run = self._run, None
        self._step.update_name("closing")
        self._step.end(self._now())
        run.set_attributes(told(fields))
        run.set_status(Status(StatusCode.ERROR if name == "failed" else StatusCode.OK))
        run.end(self._now())

    def _next_step(self) -> Span:
        from opentelemetry.trace import set_span_in_context

        context = None if self._run is None else set_span_in_context(self._run)
        return self._tracer.start_span("step", context, start_time=self._now())

    def _now(self) -> int:
        """Nanoseconds since 1970, as spans are dated."""
        return int(self._clock.now().timestamp() * 1e9)


def told(fields: Mapping[str, Any]) -> dict[str, int | float | bool | str]:
    """What a span says of an event: numbers, and words that the coordinator chose.

    Args:
        fields: of the event.

    Returns:
        Attributes by name, each with `fedinfer.` before it.
    """
    kept = {key: value for key, value in fields.items() if _is_plain(key, value)}
    return {f"fedinfer.{key}": value for key, value in kept.items()}


def _is_plain(key: str, value: object) -> bool:
    if isinstance(value, str):
        # A reason may repeat what a device answered; only the two words for rounds are known to be ours.
        return key in WORDS and (key != "reason" or value in REASONS)
    return isinstance(value, int | float)


@dataclass(frozen=True, slots=True)
class TracedNodes:
    """Nodes whose questions are measured.

    Args:
        nodes: that answer.
        trace: of the run.
    """

    nodes: Nodes
    trace: RunTrace

    def introduce(self, common: bytes, timeout_seconds: float) -> Sequence[tuple[int, Answer]]:
        """As `Nodes.introduce`."""
        return self.nodes.introduce(common, timeout_seconds)

    def settle(self, homes: Mapping[DeviceId, int]) -> None:
        """As `Nodes.settle`."""
        self.nodes.settle(homes)

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> Sequence[Answer]:
        """As `Transport.ask`."""
        with self.trace.asking(asks) as take:
            answers = self.nodes.ask(asks, timeout_seconds)
            take(answers)
        return answers
