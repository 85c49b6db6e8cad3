"""From what a graph says and what its owner says to a declaration; what neither says is asked for, all at once.

Rules:
* the axis of rows is the first one when it is free or 1, else the first free one, of state also the first of size 1;
* every other free size must be given;
* a range is that of the type (bool and 8-bit integers), said, or that of the calibration rows, which are public;
* an output feeds an input where the owner says so, or where names and shapes say it (state and stateN, h and hn);
* the task follows from class names, a softmax, answers that are probabilities on every trial row, or an operator that
  classifies or regresses, where nobody says it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.imported.audio import Audio
from fedinfer.artifact.imported.declaration import Deciding, InputSpec, ModelTask, OutputSpec, Use
from fedinfer.artifact.imported.detections import Detections
from fedinfer.artifact.imported.facts import CLASSIFIERS, REGRESSORS, TEXT, GraphFacts, Port
from fedinfer.artifact.imported.image import Image
from fedinfer.artifact.imported.vocabulary import Vocabulary
from fedinfer.errors import ConfigError, GateFailed, Refusal
from fedinfer.tensors import WHOLE

Arrays = Mapping[str, npt.NDArray[Any]]
TYPE_RANGES = {"bool": (0.0, 1.0), "uint8": (0.0, 255.0), "int8": (-128.0, 127.0)}
STATE_RANGE = (-1.0, 1.0)
MARGIN = 0.25
"""Part of the width of the answers seen by which a range is wider than them."""
_SUM, _EDGE = 1e-3, 1e-4  # how far probabilities may be off
_FED = ("{}N", "{}n", "{}_n", "{}_out", "new_{}", "next_{}", "{}_next", "out_{}")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the owner says of a model; everything may be left out that the graph says.

    Args:
        task: what the answers are.
        labels: class names, or names of scores.
        outputs: that are answered; empty: those that fit the task.
        sizes: of free axes, by their name in the graph or `INPUT:AXIS`.
        ranges: public ranges by input, output or column.
        constants: inputs that are always the same.
        states: input to the output that feeds it.
        axes: input to the axis that counts rows.
        columns: names of the values of the only input.
        categories: of inputs of texts.
        missing: numbers of a table may be missing.
        images: inputs that are made of raw pixels.
        audios: inputs that are made of raw samples.
        vocabularies: inputs of token numbers that rows bring as texts.
        deciding: how classes are answered.
        detections: which boxes of an object detector are answered.
    """

    task: ModelTask | None = None
    labels: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: bool = False
    images: Mapping[str, Image] = field(default_factory=dict)
    audios: Mapping[str, Audio] = field(default_factory=dict)
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)
    deciding: Deciding = field(default_factory=Deciding)
    detections: Detections | None = None


def propose_inputs(facts: GraphFacts, wishes: Wishes, calibration: Arrays) -> tuple[tuple[InputSpec, ...], bool]:
    """The inputs of a declaration, and whether the graph takes one row at a time.

    Args:
        facts: of the graph.
        wishes: of the owner.
        calibration: public rows by input, (rows, *shape); may be empty.

    Raises:
        ConfigError: with everything that is missing, or a wish for what the graph does not have.
    """
    _check_wishes(facts, wishes)
    states = states_of(facts, wishes)
    missing: list[tuple[str, str]] = []
    specs = [_input(port, facts, wishes, calibration, port.name in states, missing) for port in facts.inputs]
    if missing:
        what = "fact" if len(missing) == 1 else "facts"
        raise ConfigError(
            f"{len(missing)} {what} cannot be read from the graph: {'; '.join(text for text, _ in missing)}",
            hint=" ".join(option for _, option in missing),
        )
    asked = [spec for spec in specs if spec is not None and spec.constant is None]
    if not asked:
        raise ConfigError("the graph takes no rows: every input is constant")
    counts = {_size_of(port, spec.axis) for port in facts.inputs for spec in asked if spec.name == port.name}
    return tuple(_with_columns(spec, asked, wishes) for spec in specs if spec is not None), 1 in counts


def states_of(facts: GraphFacts, wishes: Wishes) -> dict[str, str]:
    """Input to the output that feeds it.

    Args:
        facts: of the graph.
        wishes: of the owner, whose word counts more than names.
    """
    outputs = {port.name for port in facts.outputs}
    found = {}
    for port in facts.inputs:
        said = wishes.states.get(port.name)
        alike = [form.format(port.name) for form in _FED] + [port.name.replace("_in", "_out"), port.name]
        alike += [port.name.replace("past", "present")]
        guess = next((name for name in alike if name in outputs), "")
        if said or (guess and len(facts.inputs) > 1):
            found[port.name] = said or guess
    return found


def propose_outputs(
    facts: GraphFacts, wishes: Wishes, seen: Arrays, axes: Mapping[str, int], inputs: tuple[InputSpec, ...]
) -> tuple[ModelTask, tuple[str, ...], tuple[OutputSpec, ...]]:
    """ModelTask, class names and outputs of a declaration.

    Args:
        facts: of the graph.
        wishes: of the owner.
        seen: answers to trial rows by output, (rows, *shape).
        axes: axis of rows of each output that has one.
        inputs: as proposed, for the shapes of states.

    Raises:
        ConfigError: the task cannot be read, or no output fits it.
        GateFailed: an output that is answered is not finite.
    """
    states = {output: name for name, output in states_of(facts, wishes).items()}
    shapes = {spec.name: spec.shape for spec in inputs}
    specs = [
        OutputSpec(port.name, port.dtype, seen[port.name].shape[1:], axes[port.name], Use.VALUE)
        for port in facts.outputs
        if port.name in axes and port.dtype != TEXT
    ]
    fed = [replace(s, feeds=states[s.name]) for s in specs if s.name in states and s.shape == shapes[states[s.name]]]
    free = [s for s in specs if s.name not in {state.name for state in fed}]
    step = wishes.detections
    asked = wishes.outputs or ((step.boxes, step.scores) if step is not None else ())
    told = [spec for spec in free if not asked or spec.name in asked]
    if not told:
        raise ConfigError("no output is left to answer with: outputs are tensors of numbers with an axis of rows")
    _check_finite([*told, *fed], seen)
    task = (ModelTask.TENSORS if step is not None else wishes.task) or _task(facts, told, seen, stateful=bool(fed))
    match task:
        case ModelTask.CLASSIFICATION:
            spec, labels = _classes(facts, wishes, told, seen)
            return task, labels, (spec,)
        case ModelTask.REGRESSION:
            return task, (), (_number(wishes, told),)
        case ModelTask.SCORES:
            named = _named([_ranged(spec, wishes, seen[spec.name]) for spec in told], wishes.labels)
            return task, (), (*named, *(_ranged(spec, wishes, seen[spec.name]) for spec in fed))
        case ModelTask.TENSORS:
            return task, (), tuple(_ranged(spec, wishes, seen[spec.name]) for spec in (*told, *fed))
        case _:
            assert_never(task)


def _check_finite(specs: list[OutputSpec], seen: Arrays) -> None:
    for spec in specs:
        values = seen[spec.name].reshape(len(seen[spec.name]), -1).astype(np.float64)
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        if bad:
            raise GateFailed(
                f"output {spec.name} answers NaN or infinity for {bad} of {len(values)} trial rows", Refusal.NOT_FINITE
            )


def _check_wishes(facts: GraphFacts, wishes: Wishes) -> None:
    inputs, outputs = {port.name for port in facts.inputs}, {port.name for port in facts.outputs}
    for option, names, known in (
        ("--constant", wishes.constants, inputs), ("--state", wishes.states, inputs), ("--axis", wishes.axes, inputs),
        ("--categories", wishes.categories, inputs), ("--image", wishes.images, inputs),
        ("--audio", wishes.audios, inputs), ("--vocabulary", wishes.vocabularies, inputs),
        ("--outputs", wishes.outputs, outputs),
        ("--detections", (wishes.detections.boxes, wishes.detections.scores) if wishes.detections else (), outputs),
        ("--state", wishes.states.values(), outputs),
    ):  # fmt: skip
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ConfigError(f"{option} {unknown[0]}: the graph has no such name", hint=f"it has {', '.join(known)}")


def _input(
    port: Port, facts: GraphFacts, wishes: Wishes, calibration: Arrays, state: bool, missing: list[tuple[str, str]]
) -> InputSpec | None:
    name = port.name
    if port.sizes is None:
        missing.append((f"input {name} has no shape", "export the model with shapes"))
        return None
    sizes = [_sized(port, place, wishes) for place in range(len(port.sizes))]
    axis = None if name in wishes.constants else wishes.axes.get(name, _axis(sizes, state))
    if axis is None and name not in wishes.constants:
        missing.append((f"input {name} of shape {list(port.sizes)} has no axis of rows", f"--constant {name}=VALUE"))
        return None
    if axis is not None and not 0 <= axis < len(sizes):
        raise ConfigError(f"--axis {name}={axis}: its shape is {list(port.sizes)}")
    rest = [(place, size) for place, size in enumerate(sizes) if place != axis]
    for place, size in rest:
        if not isinstance(size, int):
            what = size or f"{name}:{place}"
            missing.append((f"input {name} has the free size {what!r} at axis {place}", f"--size {what}=NUMBER"))
    if any(not isinstance(size, int) for _, size in rest):
        return None
    shape = tuple(int(size) for _, size in rest)
    if name in wishes.constants:
        return InputSpec(name, port.dtype, shape, None, constant=wishes.constants[name])
    spec = InputSpec(name, port.dtype, shape, axis, image=wishes.images.get(name), audio=wishes.audios.get(name))
    if spec.image is not None:
        return replace(spec, low=0.0, high=255.0)
    if name in wishes.vocabularies:
        spec = replace(spec, vocabulary=wishes.vocabularies[name])
    if spec.audio is not None or spec.vocabulary is not None:
        return spec
    if port.dtype == TEXT:
        return _categorical(spec, facts, wishes, missing)
    return _with_range(spec, wishes, calibration, state, missing)


def _sized(port: Port, place: int, wishes: Wishes) -> int | str:
    size = (port.sizes or ())[place]
    said = wishes.sizes.get(f"{port.name}:{place}", wishes.sizes.get(str(size)) if isinstance(size, str) else None)
    return size if said is None else said


def _axis(sizes: list[int | str], state: bool) -> int | None:
    if sizes and (isinstance(sizes[0], str) or sizes[0] == 1):
        return 0
    free = [place for place, size in enumerate(sizes) if isinstance(size, str)]
    ones = [place for place, size in enumerate(sizes) if size == 1] if state else []
    return next(iter([*free, *ones]), None)


def _size_of(port: Port, axis: int | None) -> int | str | None:
    return None if axis is None or port.sizes is None else port.sizes[axis]


def _categorical(
    spec: InputSpec, facts: GraphFacts, wishes: Wishes, missing: list[tuple[str, str]]
) -> InputSpec | None:
    found = wishes.categories.get(spec.name) or facts.categories.get(spec.name, ())
    if spec.size != 1:
        raise ConfigError(f"input {spec.name} takes {spec.size} texts in a row; a text is a category of one column")
    if not found:
        missing.append((f"categories of the text input {spec.name}", f"--categories '{spec.name}=A|B|...'"))
        return None
    return replace(spec, categories=found)


def _with_columns(spec: InputSpec, asked: list[InputSpec], wishes: Wishes) -> InputSpec:
    if not wishes.columns or spec.constant is not None:
        return spec
    if len(asked) != 1 or len(wishes.columns) != spec.size:
        raise ConfigError(f"--columns names {len(wishes.columns)} columns, input {spec.name} has {spec.size} values")
    return replace(spec, columns=wishes.columns)


def _with_range(
    spec: InputSpec, wishes: Wishes, calibration: Arrays, state: bool, missing: list[tuple[str, str]]
) -> InputSpec | None:
    found = wishes.ranges.get(spec.name) or _observed(spec, calibration) or TYPE_RANGES.get(spec.dtype)
    found = found or (STATE_RANGE if state else None)
    if found is None:
        missing.append((f"range of input {spec.name}", f"--range {spec.name}=LOW:HIGH, or --calibration FILE"))
        return None
    return replace(spec, low=found[0], high=found[1])


def _observed(spec: InputSpec, calibration: Arrays) -> tuple[float, float] | None:
    values = calibration.get(spec.name)
    if values is None or not values.size:
        return None
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if spec.dtype in WHOLE:
        return math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    return low, high if high > low else low + 1.0


def _task(facts: GraphFacts, told: list[OutputSpec], seen: Arrays, *, stateful: bool) -> ModelTask:
    made = [facts.producers.get(spec.name, "") for spec in told]
    sums = any(len(spec.shape) == 1 and _use(spec, seen[spec.name]) is Use.PROBABILITIES for spec in told)
    classifies = facts.classes or "Softmax" in made or any(name in facts.operators for name in CLASSIFIERS)
    if not stateful and (classifies or sums):
        return ModelTask.CLASSIFICATION
    if not stateful and len(told) == 1 and told[0].size == 1 and any(name in facts.operators for name in REGRESSORS):
        return ModelTask.REGRESSION
    outputs = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in told)
    raise ConfigError(
        f"the task cannot be read from the graph, which answers {outputs}",
        hint=f"--task {'|'.join(ModelTask)}" + (" (a model with state answers scores or tensors)" if stateful else ""),
    )


def _classes(
    facts: GraphFacts, wishes: Wishes, told: list[OutputSpec], seen: Arrays
) -> tuple[OutputSpec, tuple[str, ...]]:
    """The output that tells classes apart, and their names: numbers where nobody names them."""
    several = [spec for spec in told if spec.dtype not in WHOLE and spec.size > 1 and len(spec.shape) == 1]
    single = [spec for spec in told if spec.dtype not in WHOLE and spec.size == 1]
    numbers = [spec for spec in told if spec.dtype in WHOLE and spec.size == 1]
    softmax = [spec for spec in several if facts.producers.get(spec.name) == "Softmax"]
    chosen = next(iter([*softmax, *several, *single, *numbers]), None)
    if chosen is None:
        raise ConfigError(
            "no output holds one number per class, one probability or a class number", hint="--task tensors"
        )
    names = wishes.labels or facts.classes
    use = _use(chosen, seen[chosen.name])
    count = _count(use, chosen, names)
    if count < 2:
        raise ConfigError(
            f"output {chosen.name} is the number of a class; how many there are is not said", hint="--labels"
        )
    labels = names or tuple(str(place) for place in range(count))
    if len(labels) != count:
        raise ConfigError(f"{len(labels)} labels for {count} classes of output {chosen.name}", hint="--labels")
    return replace(chosen, use=use), labels


def _count(use: Use, spec: OutputSpec, names: tuple[str, ...]) -> int:
    """How many classes an output tells apart."""
    match use:
        case Use.PROBABILITIES | Use.LOGITS:
            return spec.size
        case Use.PROBABILITY | Use.LOGIT:
            return 2
        case Use.CLASS | Use.VALUE:
            return len(names)
        case _:
            assert_never(use)


def _use(spec: OutputSpec, values: npt.NDArray[Any]) -> Use:
    if spec.dtype in WHOLE:
        return Use.CLASS
    flat = values.reshape(len(values), -1).astype(np.float64)
    within = bool(((flat >= -_EDGE) & (flat <= 1 + _EDGE)).all())
    if spec.size == 1:
        return Use.PROBABILITY if within else Use.LOGIT
    return Use.PROBABILITIES if within and bool((np.abs(flat.sum(axis=1) - 1) <= _SUM).all()) else Use.LOGITS


def _number(wishes: Wishes, told: list[OutputSpec]) -> OutputSpec:
    single = [spec for spec in told if spec.size == 1]
    if len(single) != 1:
        raise ConfigError(
            f"{len(single)} outputs are one number: name the one that is predicted", hint="--outputs NAME"
        )
    if single[0].name not in wishes.ranges:
        raise ConfigError(
            f"the public range of the number {single[0].name}, in its unit: answers outside count as its nearest end",
            hint=f"--range {single[0].name}=LOW:HIGH",
        )
    low, high = wishes.ranges[single[0].name]
    return replace(single[0], low=low, high=high)


def _ranged(spec: OutputSpec, wishes: Wishes, values: npt.NDArray[Any]) -> OutputSpec:
    """With the range that was said, [0, 1] around what lies in it, or a little more than was seen."""
    if spec.name in wishes.ranges:
        low, high = wishes.ranges[spec.name]
        return replace(spec, low=low, high=high)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return replace(spec, low=0.0, high=1.0)
    margin = MARGIN * (high - low) or 1.0
    return replace(spec, low=float(f"{low - margin:.3g}"), high=float(f"{high + margin:.3g}"))


def _named(specs: list[OutputSpec], labels: tuple[str, ...]) -> list[OutputSpec]:
    """Scores with a name for each value."""
    count = sum(spec.size for spec in specs)
    if labels and len(labels) != count:
        raise ConfigError(f"{len(labels)} labels for {count} scores", hint="--labels")
    left, named = list(labels), []
    for spec in specs:
        own = tuple(left[: spec.size]) or tuple(
            spec.name if spec.size == 1 else f"{spec.name}[{place}]" for place in range(spec.size)
        )
        del left[: spec.size]
        named.append(replace(spec, names=own))
    return named
