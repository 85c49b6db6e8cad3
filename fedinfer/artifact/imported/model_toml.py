"""`model.toml` as text: written with comments, read back strictly. Pure: text in, text out.

Every key was read from the graph or said by the owner; a person may change what is not the graph's. The file is read as
strictly as a scenario: an unknown key, a wrong type or a broken rule is an error that names it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from fedinfer.artifact.imported.audio import audio_from, audio_values
from fedinfer.artifact.imported.declaration import Deciding, Declaration, InputSpec, ModelTask, OutputSpec, Use
from fedinfer.artifact.imported.detections import Detections, detections_from, detections_values
from fedinfer.artifact.imported.facts import TEXT
from fedinfer.artifact.imported.image import Image
from fedinfer.artifact.imported.vocabulary import Vocabulary
from fedinfer.errors import ConfigError
from fedinfer.manifest import is_name
from fedinfer.metrics import EVEN
from fedinfer.printable import STEERING
from fedinfer.tensors import FLOATING, LARGEST_WHOLE, STATISTICS, WHOLE

FORMAT = 1
MOST_BYTES = 8 * 2**20
_HEAD = """\
# What fedinfer knows of the model file beside this one. Names, types, shapes and axes come from its graph; name, task,
# labels, ranges, columns and what feeds what are yours to change. `fedinfer artifact verify FOLDER` checks it again.
"""


def to_toml(found: Declaration) -> str:
    """The file's text, which `from_toml` reads back.

    Args:
        found: to write.
    """
    lines = [
        _HEAD.rstrip("\n"), f"format = {FORMAT}", f"name = {_quoted(found.name)}", f"task = {_quoted(found.task)}",
        f"label = {_quoted(found.label)} # column of labelled tables",
        *([f"labels = {_list(found.labels)}"] if found.labels else []),
        f"one_row = {_flag(found.one_row)} # the graph takes one row at a time",
        *_deciding_lines(found.deciding),
        *([f"detections = {_inline(detections_values(found.detections))}"] if found.detections is not None else []),
        f"missing = {_flag(found.missing)} # numbers of a table may be missing: the graph gets NaN",
        f"sha256 = {_quoted(found.sha256)}",
    ]  # fmt: skip
    for spec in found.inputs:
        lines += ["", "[[inputs]]", *_input_lines(spec)]
    for output in found.outputs:
        lines += ["", "[[outputs]]", *_output_lines(output)]
    return "\n".join(lines) + "\n"


def from_toml(text: str, where: str) -> Declaration:
    """Read what `to_toml` wrote or a person changed.

    Args:
        text: of the file.
        where: its name, for messages.

    Raises:
        ConfigError: naming key and rule.
    """
    try:
        table = tomllib.loads(text)
        return _declaration(table)
    except (ValueError, OverflowError, RecursionError) as error:  # a number of thousands of digits is such a one
        raise ConfigError(f"{where}: not TOML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}", hint=error.hint) from error


def _deciding_lines(deciding: Deciding) -> list[str]:
    said = (
        ("top", deciding.top, "classes are listed, the likeliest first"),
        ("threshold", deciding.threshold, "the second class is answered from this probability on"),
        ("abstain_below", deciding.abstain_below, "nothing is decided below this probability"),
    )
    return [f"{key} = {value!r} # {why}" for key, value, why in said if value != getattr(Deciding(), key)]


def _input_lines(spec: InputSpec) -> list[str]:
    lines = [f"name = {_quoted(spec.name)}", f"dtype = {_quoted(spec.dtype)}", f"shape = {list(spec.shape)}"]
    if spec.constant is not None:
        return [*lines, f"constant = {spec.constant!r}"]
    lines.append(f"axis = {spec.axis} # that counts rows")
    if spec.categories:
        return [*lines, f"categories = {_list(spec.categories)}"]
    if spec.image is not None:
        return [*lines, *_image_lines(spec.image), *_watch_lines(spec)]
    if spec.vocabulary is not None:
        return [*lines, *_vocabulary_lines(spec.vocabulary)]
    if spec.audio is not None:
        return [*lines, f"audio = {_inline(audio_values(spec.audio))} # raw samples of a row", *_watch_lines(spec)]
    lines.append(f"range = [{spec.low!r}, {spec.high!r}] # public")
    return [*lines, f"columns = {_list(spec.columns)}"] if spec.columns else [*lines, *_watch_lines(spec)]


def _vocabulary_lines(vocabulary: Vocabulary) -> list[str]:
    return [
        f"words = {_list(vocabulary.words)} # rows are texts: the place of a word is its number",
        f"padding = {vocabulary.padding} # number of no word",
        f"unknown = {vocabulary.unknown} # number of any other word",
    ]


def _image_lines(image: Image) -> list[str]:
    size, mean, std = [image.height, image.width], list(image.mean), list(image.std)
    crop = [f"crop = {list(image.crop)} # kept from the middle, before the resize"] if image.crop else []
    return [f"image = {size} # raw pixels of a row", *crop, f"mean = {mean}", f"std = {std}"]


def _inline(values: Mapping[str, Any]) -> str:
    """An inline table."""
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items()) + " }"


def _watch_lines(spec: InputSpec) -> list[str]:
    return [f"watch = {_list(spec.watch)} # counted for drift, beside the answers"] if spec.watch else []


def _output_lines(spec: OutputSpec) -> list[str]:
    lines = [
        f"name = {_quoted(spec.name)}", f"dtype = {_quoted(spec.dtype)}", f"shape = {list(spec.shape)}",
        f"axis = {spec.axis}", f"use = {_quoted(spec.use)}",
    ]  # fmt: skip
    if spec.use is Use.VALUE:
        lines.append(f"range = [{spec.low!r}, {spec.high!r}] # public")
    if spec.feeds:
        lines.append(f"feeds = {_quoted(spec.feeds)} # state: given to this input with the next row of a stream")
    return [*lines, f"names = {_list(spec.names)}"] if spec.names else lines


_KEYS = {
    "format",
    "name",
    "task",
    "label",
    "labels",
    "one_row",
    "missing",
    "sha256",
    "inputs",
    "outputs",
    "top",
    "threshold",
    "abstain_below",
    "detections",
}
_IMAGE = {"image", "crop", "mean", "std"}
_INPUT = {
    "name",
    "dtype",
    "shape",
    "axis",
    "range",
    "columns",
    "categories",
    "constant",
    "watch",
    "audio",
    "words",
    "padding",
    "unknown",
} | _IMAGE
_OUTPUT = {"name", "dtype", "shape", "axis", "use", "range", "feeds", "names"}


def _declaration(table: Mapping[str, Any]) -> Declaration:
    _known(table, _KEYS, "the file")
    if table.get("format") != FORMAT:
        raise ConfigError(f"format = {table.get('format')!r}, this program reads {FORMAT}")
    inputs = tuple(_input(item, f"inputs[{place}]") for place, item in enumerate(_tables(table, "inputs")))
    outputs = tuple(_output(item, f"outputs[{place}]") for place, item in enumerate(_tables(table, "outputs")))
    return Declaration(
        name=_name(table),
        task=_choice(table, "task", ModelTask, "the file"),
        label=_text(table, "label", "the file"),
        labels=_texts(table, "labels", "the file"),
        one_row=_typed(table, "one_row", bool, "the file"),
        missing=_typed(table, "missing", bool, "the file"),
        sha256=_text(table, "sha256", "the file"),
        inputs=inputs,
        outputs=outputs,
        detections=_detections(table),
        deciding=Deciding(
            _typed({"top": 0, **table}, "top", int, "the file"),
            _number({"threshold": EVEN, **table}, "threshold", "the file"),
            _number({"abstain_below": 0.0, **table}, "abstain_below", "the file"),
        ),
    )


def _detections(table: Mapping[str, Any]) -> Detections | None:
    where = "the file"
    return detections_from(_step(table, "detections", where), where) if "detections" in table else None


def _step(table: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """An inline table; its texts are names of the graph and words."""
    found: dict[str, Any] = _typed(table, key, dict, where)
    return found | {name: _text(found, name, f"{where}: {key}") for name, value in found.items() if type(value) is str}


def _name(table: Mapping[str, Any]) -> str:
    name = _text(table, "name", "the file")
    if not is_name(name):
        raise ConfigError(f"name = {ascii(name)[:80]}: 1 to 64 of a-z, 0-9, _ and -")
    return name


def _input(item: Any, where: str) -> InputSpec:
    _known(item, _INPUT, where)
    dtype = _dtype(item, (*FLOATING, *WHOLE, TEXT), where)
    if "constant" in item:
        return InputSpec(
            _text(item, "name", where), dtype, _shape(item, where), None, constant=_number(item, "constant", where)
        )
    low, high = _range(item, where) if "range" in item else (0.0, 1.0)
    return InputSpec(
        _text(item, "name", where), dtype, _shape(item, where), _typed(item, "axis", int, where), low, high,
        _texts(item, "columns", where), _texts(item, "categories", where), image=_image(item, where),
        audio=audio_from(_step(item, "audio", where), where) if "audio" in item else None,
        vocabulary=_vocabulary(item, where),
        watch=_watch(item, where),
    )  # fmt: skip


def _vocabulary(item: Mapping[str, Any], where: str) -> Vocabulary | None:
    if "words" not in item:
        return None
    padding, unknown = (_typed({"padding": 0, "unknown": 1, **item}, key, int, where) for key in ("padding", "unknown"))
    words = _typed(item, "words", list, where)
    if not all(isinstance(word, str) and not STEERING.search(word) for word in words):
        raise ConfigError(f"{where}: words is not a list of texts")
    return Vocabulary(tuple(words), padding, unknown)


def _watch(item: Mapping[str, Any], where: str) -> tuple[str, ...]:
    found = _texts(item, "watch", where)
    unknown = next((word for word in found if word not in STATISTICS), None)
    if unknown is not None:
        raise ConfigError(f"{where}: watch names {unknown[:40]!r}", hint=f"known are {', '.join(STATISTICS)}")
    return found


def _image(item: Mapping[str, Any], where: str) -> Image | None:
    if "image" not in item:
        return None
    height, width = _edges(item, "image", where)
    crop = _edges(item, "crop", where) if "crop" in item else ()
    return Image(height, width, _numbers(item, "mean", where), _numbers(item, "std", where), crop)


def _edges(item: Mapping[str, Any], key: str, where: str) -> tuple[int, int]:
    size = _typed(item, key, list, where)
    if len(size) != 2 or not all(type(edge) is int for edge in size):
        raise ConfigError(f"{where}: {key} is not [height, width]")
    return size[0], size[1]


def _numbers(table: Mapping[str, Any], key: str, where: str) -> tuple[float, ...]:
    return tuple(_number({key: value}, key, where) for value in _typed(table, key, list, where))


def _output(item: Any, where: str) -> OutputSpec:
    _known(item, _OUTPUT, where)
    low, high = _range(item, where) if "range" in item else (0.0, 1.0)
    return OutputSpec(
        _text(item, "name", where), _dtype(item, (*FLOATING, *WHOLE), where), _shape(item, where),
        _typed(item, "axis", int, where), _choice(item, "use", Use, where), low, high,
        _text(item, "feeds", where) if "feeds" in item else "", _texts(item, "names", where),
    )  # fmt: skip


def _known(table: Any, keys: set[str], where: str) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table")
    unknown = next((key for key in table if key not in keys), None)
    if unknown is not None:
        raise ConfigError(f"{where}: unknown key {ascii(unknown)[:60]}", hint=f"known keys: {', '.join(sorted(keys))}")


def _tables(table: Mapping[str, Any], key: str) -> list[Any]:
    found: list[Any] = _typed(table, key, list, "the file")
    if not found:
        raise ConfigError(f"{key} is empty: a model takes and answers something")
    return found


def _typed(table: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = table.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: {key} is missing or not of type {kind.__name__}")
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise ConfigError(f"{where}: {key} is larger than {LARGEST_WHOLE}")
    return value


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = str(_typed(table, key, str, where))
    if STEERING.search(value):
        raise ConfigError(f"{where}: {key} holds a control character")
    return value


def _texts(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and not STEERING.search(item) for item in value):
        raise ConfigError(f"{where}: {key} is not a list of texts")
    if len(set(value)) != len(value):
        raise ConfigError(f"{where}: {key} lists a name twice")
    return tuple(value)


def _number(table: Mapping[str, Any], key: str, where: str) -> float:
    value = table.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
        raise ConfigError(f"{where}: {key} = {str(value)[:40]} is not a finite number")
    return float(value)


def _range(table: Mapping[str, Any], where: str) -> tuple[float, float]:
    value = table.get("range")
    if not isinstance(value, list) or len(value) != 2:
        raise ConfigError(f"{where}: range is not [low, high]")
    low, high = (_number({"range": end}, "range", where) for end in value)
    if not low < high:
        raise ConfigError(f"{where}: range [{low:g}, {high:g}] is empty")
    return low, high


def _shape(table: Mapping[str, Any], where: str) -> tuple[int, ...]:
    value = _typed(table, "shape", list, where)
    if len(value) > 8 or not all(type(size) is int and 1 <= size <= 2**28 for size in value):
        raise ConfigError(f"{where}: shape is not a list of sizes from 1")
    return tuple(value)


def _dtype(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> str:
    value = _text(table, "dtype", where)
    if value not in known:
        raise ConfigError(f"{where}: dtype {value[:40]!r}", hint=f"known are {', '.join(known)}")
    return value


def _choice(table: Mapping[str, Any], key: str, choices: type[StrEnum], where: str) -> Any:
    value = _text(table, key, where)
    if value not in set(choices):
        raise ConfigError(f"{where}: {key} = {value[:40]!r} must be one of {', '.join(choices)}")
    return choices(value)


def _quoted(text: str) -> str:
    """A TOML basic string; its escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _list(texts: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(_quoted, texts)) + "]"


def _flag(value: bool) -> str:
    return "true" if value else "false"
