"""`fedinfer artifact import`: a model that was made elsewhere, read, tried and described in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
import typer

from fedinfer.cli.described import print_described
from fedinfer.cli.output import JsonOption, errors_to_exit
from fedinfer.errors import ConfigError, DataError
from fedinfer.reading import DEFAULT_RULES, plain_numbers, read_file
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.artifact import Audio, Detections, GraphFacts, Image, Vocabulary, Wishes

T = TypeVar("T")
_Many = list[str] | None
Ranges = Annotated[_Many, typer.Option("--range", help="NAME=LOW:HIGH, public; repeat")]
NUMPY = (".npy", ".npz")
MOST_LABEL_BYTES = 2**22


def import_command(
    model: Annotated[Path, typer.Argument(help="ONNX file; weights may lie in files beside it")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write: model.toml and model.onnx")],
    name: Annotated[str, typer.Option(help="of the task; default: from the file's name")] = "",
    task: Annotated[str, typer.Option(help="classification, regression, scores or tensors")] = "",
    labels: Annotated[str, typer.Option(help="names of classes or scores: a file with one per line, or A,B,...")] = "",
    label: Annotated[str, typer.Option(help="column of labelled tables that holds the label")] = "label",
    calibration: Annotated[Path | None, typer.Option(help="public rows: CSV, .npy or .npz")] = None,
    columns: Annotated[str, typer.Option(help="names of the values of the only input: A,B,...")] = "",
    outputs: Annotated[str, typer.Option(help="outputs that are answered: A,B,...; default: what fits the task")] = "",
    ranges: Ranges = None,
    sizes: Annotated[_Many, typer.Option("--size", help="NAME=NUMBER of a free size (or INPUT:AXIS); repeat")] = None,
    constants: Annotated[_Many, typer.Option("--constant", help="INPUT=VALUE that never changes; repeat")] = None,
    states: Annotated[_Many, typer.Option("--state", help="INPUT=OUTPUT that feeds it row by row; repeat")] = None,
    axes: Annotated[_Many, typer.Option("--axis", help="INPUT=AXIS that counts rows; repeat")] = None,
    categories: Annotated[_Many, typer.Option("--categories", help="INPUT=A|B|... of a text input; repeat")] = None,
    images: Annotated[
        _Many, typer.Option("--image", help="INPUT=HEIGHTxWIDTH[/CROPxCROP][:MEAN,..:STD,..]: of raw pixels; repeat")
    ] = None,
    audios: Annotated[
        _Many, typer.Option("--audio", help="INPUT=samples:N,rate:N,frame:N,hop:N,bands:N,...: of raw samples; repeat")
    ] = None,
    vocabularies: Annotated[
        _Many, typer.Option("--vocabulary", help="INPUT=FILE[:PADDING:UNKNOWN] of token numbers: a word per line")
    ] = None,
    detections: Annotated[
        str,
        typer.Option(help="boxes:OUTPUT,scores:OUTPUT,most:N[,overlap:N,least:N,form:centre] of an object detector"),
    ] = "",
    top: Annotated[int, typer.Option(min=0, help="classes that are listed, the likeliest first; 0: none")] = 0,
    threshold: Annotated[float, typer.Option(help="of two classes: the second from this probability on")] = 0.5,
    abstain_below: Annotated[float, typer.Option(help="nothing is decided below this probability; 0: always")] = 0.0,
    missing: Annotated[bool, typer.Option("--missing", help="numbers may be missing: the graph gets NaN")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read a model that was made elsewhere, try it confined, and describe it in a folder that `quantize` takes."""
    with errors_to_exit():
        from fedinfer.artifact import Deciding, Wishes, task_of

        wishes = Wishes(
            task=task_of(task),
            labels=labels_of(labels),
            outputs=names_of(outputs),
            sizes=_pairs(sizes, "--size", int),
            ranges=ranges_of(ranges),
            constants=_pairs(constants, "--constant", float),
            states=_pairs(states, "--state", str),
            axes=_pairs(axes, "--axis", int),
            columns=names_of(columns),
            categories=_pairs(categories, "--categories", lambda text: tuple(text.split("|"))),
            missing=missing,
            images=_pairs(images, "--image", image_of),
            vocabularies=_pairs(vocabularies, "--vocabulary", vocabulary_of),
            detections=detections_of(detections),
            deciding=Deciding(top, threshold, abstain_below),
            audios=_pairs(audios, "--audio", audio_of),
        )
        described = _import(model, out, name or model_name(model.stem), label, wishes, calibration)
    print_described(described, as_json)


def _import(model: Path, out: Path, name: str, label: str, wishes: Wishes, calibration: Path | None) -> Json:
    from dataclasses import replace

    from fedinfer.artifact import describe_imported, facts_of, import_model, save_imported

    data, facts = facts_of(model)
    arrays: dict[str, npt.NDArray[Any]] = {}
    if calibration is not None:
        arrays, found = read_arrays(calibration, facts, wishes, label)
        wishes = replace(wishes, columns=wishes.columns or found)
    imported = import_model(data, facts, name, label, wishes, arrays, SystemClock(), simulation_rng("import"))
    save_imported(out, imported)
    return {"folder": str(out), **describe_imported(imported)}


def read_arrays(
    path: Path, facts: GraphFacts, wishes: Wishes, label: str
) -> tuple[dict[str, npt.NDArray[Any]], tuple[str, ...]]:
    """Public rows by input of a graph, and the columns of its only input where they come from a table.

    Args:
        path: .npz with an array per input, .npy with that of the only input, or a table: a column per input, or all its
            columns but the label as the values of the only input.
        facts: of the graph.
        wishes: which inputs are constant or state, and which columns.
        label: column that is no input.

    Raises:
        ConfigError: the file does not fit the graph or cannot be read.
    """
    from fedinfer.artifact import states_of

    states = states_of(facts, wishes)
    asked = [port for port in facts.inputs if port.name not in (*wishes.constants, *states)]
    if path.suffix in NUMPY:
        return _numpy_arrays(path, [port.name for port in asked]), ()
    table = read_file(path, DEFAULT_RULES)
    if all(port.name in table.columns for port in asked):
        texts = {port.name for port in asked if port.dtype == "string"}
        return {
            port.name: np.array([[cell] for cell in table.columns[port.name]], object)
            if port.name in texts
            else _plain(table, port.name)[:, None]
            for port in asked
        }, ()
    if len(asked) != 1:
        raise ConfigError(
            f"{path}: a column for each of {', '.join(port.name for port in asked)}", hint="or an .npz file"
        )
    names = wishes.columns or tuple(name for name in table.columns if name != label)
    return {asked[0].name: np.stack([_plain(table, name) for name in names], axis=1)}, names


def _plain(table: Any, name: str) -> npt.NDArray[np.float64]:
    if name not in table.columns:
        raise DataError(f"{table.name}: column {name} is absent")
    return plain_numbers(table, name, DEFAULT_RULES, "an input of the model is a number")


def read_numpy(path: Path) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    """The array of an .npy file, or the arrays of an .npz by name.

    Args:
        path: of the file.

    Raises:
        ConfigError: it cannot be read, or holds objects.
    """
    try:
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, EOFError) as error:
        raise ConfigError(f"{path}: not a numpy file of plain arrays: {str(error)[:80]}") from error


def _numpy_arrays(path: Path, asked: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    found = read_numpy(path)
    if isinstance(found, dict):
        return found
    if len(asked) != 1:
        raise ConfigError(f"{path}: one array for {len(asked)} inputs", hint="give an .npz with one for each")
    return {asked[0]: found}


def labels_of(text: str) -> tuple[str, ...]:
    """Names from a file with one per line, or with commas between them.

    Args:
        text: of the option.

    Raises:
        ConfigError: a file that cannot be read.
    """
    path = Path(text)
    try:
        named = bool(text) and path.is_file()
    except OSError:  # a list that is too long to be the name of a file
        named = False
    return tuple(line for line in _lines(path, "--labels") if line) if named else names_of(text)


def names_of(text: str) -> tuple[str, ...]:
    """Names with commas between them.

    Args:
        text: of the option.
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def ranges_of(items: _Many) -> dict[str, tuple[float, float]]:
    """Public ranges by name.

    Args:
        items: of the option `--range`.

    Raises:
        ConfigError: one that is not NAME=LOW:HIGH.
    """
    return _pairs(items, "--range", _range)


def _pairs(items: _Many, option: str, read: Callable[[str], T]) -> dict[str, T]:
    found: dict[str, T] = {}
    for item in items or ():
        name, separator, value = item.rpartition("=")
        try:
            if not separator or not name:
                raise ValueError
            found[name] = read(value)
        except ValueError as error:
            raise ConfigError(f"{option} {item[:80]}: not NAME=VALUE", hint="see --help") from error
    return found


def _range(text: str) -> tuple[float, float]:
    low, high = (float(end) for end in text.split(":"))
    if not low < high:
        raise ValueError
    return low, high


def image_of(text: str) -> Image:
    """The steps of an image from one word.

    Args:
        text: HEIGHTxWIDTH, then /HEIGHTxWIDTH of a crop and :MEAN,..:STD,.. where they are wanted; another form raises
            ValueError.
    """
    from fedinfer.artifact import Image

    sizes, *scaling = text.split(":")
    size, *crop = sizes.split("/")
    if len(scaling) not in (0, 2) or len(crop) > 1:
        raise ValueError
    mean, std = (tuple(float(value) for value in part.split(",")) for part in scaling or ("0", "1"))
    return Image(*_edges(size), mean, std, _edges(crop[0]) if crop else ())


def vocabulary_of(text: str) -> Vocabulary:
    """The words of a model from a file.

    Args:
        text: FILE, then :PADDING:UNKNOWN where these numbers are not 0 and 1; another form raises ValueError.

    Raises:
        ConfigError: the file cannot be read, or a rule is broken.
    """
    from fedinfer.artifact import Vocabulary

    name, *numbers = text.split(":")
    if len(numbers) not in (0, 2):
        raise ValueError
    return Vocabulary(_lines(Path(name), "--vocabulary"), *map(int, numbers))


def _lines(path: Path, option: str) -> tuple[str, ...]:
    """The lines of a text file, without blanks around them."""
    try:
        if path.stat().st_size > MOST_LABEL_BYTES:
            raise ConfigError(f"{option} {path}: more than {MOST_LABEL_BYTES} bytes")
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option} {path}: cannot be read: {error}") from error


def detections_of(text: str) -> Detections | None:
    """The step of an object detector from words.

    Args:
        text: NAME:VALUE with commas between them; empty: there is none.

    Raises:
        ConfigError: another form, an unknown or missing name, or a rule that is broken.
    """
    from fedinfer.artifact import detections_from

    words = [word.partition(":") for word in text.split(",")] if text else []
    if any(not separator for _, separator, _ in words):
        raise ConfigError(f"--detections {text[:80]}: not NAME:VALUE with commas between them", hint="see --help")
    return detections_from({name: value for name, _, value in words}, "--detections") if words else None


def audio_of(text: str) -> Audio:
    """The steps of audio from words.

    Args:
        text: NAME:VALUE with commas between them; another form raises ValueError.

    Raises:
        ConfigError: an unknown or missing name, or a rule that is broken.
    """
    from fedinfer.artifact import audio_from

    words = [word.split(":") for word in text.split(",")]
    if any(len(word) != 2 for word in words):
        raise ValueError
    return audio_from(dict(words), "--audio")


def _edges(text: str) -> tuple[int, int]:
    height, width = (int(edge) for edge in text.split("x"))
    return height, width


def model_name(text: str) -> str:
    """A name of a task.

    Args:
        text: a file's name or another text.
    """
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:64] or "model"
