"""`fedinfer artifact`: from a checkpoint to signed model files, step by step, and what is in files that exist.

A *model file* is one ONNX file; a *build* is a folder that `quantize` writes; a *repository* is a folder with
`metadata/` and `targets/`, for instance `artifacts/` in a run folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from fedinfer.cli import keys as signing_keys
from fedinfer.cli.answers import answer_fields, answer_lines
from fedinfer.cli.claims import claim_of
from fedinfer.cli.converting import convert_command
from fedinfer.cli.described import print_described
from fedinfer.cli.files import read_bytes, write_bytes
from fedinfer.cli.imported import describe_folder, is_imported_folder, quantize_imported
from fedinfer.cli.importing import import_command
from fedinfer.cli.keys import KeysFolder, RepositoryFolder, open_repository
from fedinfer.cli.labelled import read_labelled, read_rows, read_rows_file
from fedinfer.cli.output import JsonOption, a_number, errors_to_exit, print_json, stdout
from fedinfer.cli.secrets import PassphraseFile, secrets
from fedinfer.config import ArtifactSection, Scenario, load_scenario
from fedinfer.errors import ConfigError
from fedinfer.manifest import Manifest, Privacy, Variant
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.artifact import Evidence, Repository
    from fedinfer.schema import Schema
    from fedinfer.training import Trainer

app = typer.Typer(no_args_is_help=True, help="Export, quantize, sign, inspect and verify models.")

SYNTHETIC_ROWS = 256
RELEASED = "released"
"""Beside the repository of a run: the copy for devices that fetch by themselves."""
ModelFile = Annotated[Path, typer.Argument(help="model file (ONNX)")]
Root = Annotated[Path | None, typer.Option(help="trusted root metadata; default: the first one in the repository")]


@app.command()
def export(
    scenario: Annotated[str, typer.Argument(help="built-in name or TOML file the checkpoint belongs to")],
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint (.npz), for instance RUN/checkpoints/v1.npz")],
    out: Annotated[Path, typer.Option("--out", "-o", help="model file to write")],
    version: Annotated[int, typer.Option(min=1, help="version number written into the file")] = 1,
    pruning: Annotated[
        float, typer.Option(min=0, callback=a_number, help="share of each matrix that becomes zero, below 1")
    ] = 0.0,
    qat_steps: Annotated[int, typer.Option(min=0, help="steps of fine-tuning for int8 on public rows")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a float model file that agrees with torch; pruned or fine-tuned for int8 when asked."""
    with errors_to_exit():
        figures = _export(scenario, checkpoint, out, version, {"pruning": pruning, "qat_steps": qat_steps})
    print_described(figures, as_json)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="model file (ONNX), or folder of an imported model")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the build")],
    rows: Annotated[Path | None, typer.Option(help="held-out rows with labels to evaluate with")] = None,
    calibration: Annotated[Path | None, typer.Option(help="public rows; default: from public ranges")] = None,
    against: Annotated[Path | None, typer.Option(help="unpruned model file to compare with; default: MODEL")] = None,
    quantization: Annotated[str, typer.Option(help="int8 or float")] = "int8",
    max_metric_drop: Annotated[
        float, typer.Option(min=0, max=1, callback=a_number, help="against the float model")
    ] = 0.02,
    min_agreement: Annotated[float, typer.Option(min=0, max=1, callback=a_number, help="with the float model")] = 0.95,
    max_bytes: Annotated[int, typer.Option(min=1, help="largest model file")] = 50_000_000,
    version: Annotated[int, typer.Option(min=1, help="number of the build; only of an imported model")] = 1,
    statement: Annotated[
        Path | None, typer.Option(help="run.json, or what `privacy statement --json` printed; default: no claim")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Try the quantization schemes for this model, keep what passes the gates, say why the others did not."""
    with errors_to_exit():
        settings = _settings(quantization, max_metric_drop, min_agreement, max_bytes)
        privacy = claim_of(statement)
        if is_imported_folder(model):
            figures = quantize_imported(model, out, rows, calibration, settings, privacy, version)
        else:
            figures = _quantize(model, out, rows, calibration, against, settings, privacy)
    print_described(figures, as_json)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="model file, imported model, build or repository")],
    as_json: JsonOption = False,
) -> None:
    """Say what is in a model file, an imported model, a build or a repository."""
    with errors_to_exit():
        described = _inspect(path)
    print_described(described, as_json)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="model file, imported model, build or repository")],
    root: Root = None,
    as_json: JsonOption = False,
) -> None:
    """Check everything a device would check. Exit code 5 and a reason when something is wrong."""
    with errors_to_exit():
        verified = _verify(path, root)
    print_described(verified, as_json)


@app.command()
def predict(
    model: ModelFile,
    rows: Annotated[Path, typer.Argument(help="a file as `device predict` takes it")],
    as_json: JsonOption = False,
) -> None:
    """Predict the rows of a table file with a model file, as a device would."""
    with errors_to_exit():
        from fedinfer.inference import Predictor, rows_in_file

        predictor = Predictor.open(read_bytes(model))
        found = rows_in_file(rows, predictor.schema)
        answers = predictor.predict(read_rows_file(rows, predictor.schema) if found is None else found)
        lines = list(answer_lines(answers, nested=as_json))
    if as_json:
        print_json({"predictions": lines})
        return
    table = [",".join(answer_fields(answers.naming)), *(",".join(map(str, line.values())) for line in lines)]
    stdout.print("\n".join(table), markup=False, highlight=False, soft_wrap=True)


@app.command()
def publish(
    build: Annotated[Path, typer.Argument(help="folder that `quantize` wrote")],
    repository: Annotated[Path, typer.Option("--repository", help="folder with metadata/ and targets/; may be new")],
    keys: KeysFolder,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a build and make it the current version, with deltas from the version before."""
    with errors_to_exit():
        published = _publish(build, open_repository(repository, keys, secrets(passphrase_file)))
    print_described(published, as_json)


@app.command()
def renew(
    repository: RepositoryFolder,
    keys: KeysFolder,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Sign everything below root again before it expires; run it at least daily."""
    with errors_to_exit():
        from fedinfer.artifact import renew_mirror

        opened = open_repository(repository, keys, secrets(passphrase_file))
        opened.renew()
        copied = renew_mirror(repository, repository.parent / RELEASED)
    print_described({"renewed": True, "version": opened.newest_version, "copied": copied}, as_json)


@app.command()
def withdraw(
    repository: RepositoryFolder,
    keys: KeysFolder,
    version: Annotated[int, typer.Option(min=1, help="the bad version; its number is not used again")],
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Take a bad version away for good: devices stop serving it as soon as they read the repository."""
    with errors_to_exit():
        from fedinfer.artifact import renew_mirror

        opened = open_repository(repository, keys, secrets(passphrase_file))
        opened.withdraw(version)
        renew_mirror(repository, repository.parent / RELEASED)
    print_described({"withdrawn": list(opened.withdrawn()), "left": list(opened.versions())}, as_json)


app.command("import")(import_command)
app.command("convert")(convert_command)
for command in (signing_keys.keys, signing_keys.root, signing_keys.rotate, signing_keys.adopt):
    app.command()(command)


def _export(scenario: str, checkpoint: Path, out: Path, version: int, slimming: Json) -> Json:
    from fedinfer.artifact import OutputHead, Templates, export_core, finish
    from fedinfer.data import check_qat_rows, load
    from fedinfer.training import load_checkpoint, load_trainer

    loaded = load_scenario(scenario, [f"artifact.{key}={value}" for key, value in slimming.items()])
    weights = load_checkpoint(checkpoint).arrays.get("weights")
    if weights is None:
        raise ConfigError(f"{checkpoint} holds no weights")
    federation = load(loaded)
    check_qat_rows(loaded, len(federation.public[1]))
    schema = federation.schema
    trainer = load_trainer(loaded.model, schema, loaded.training, loaded.scenario.seed)
    if weights.shape != (trainer.size,):
        raise ConfigError(f"{checkpoint} holds {weights.shape} weights, the model of {scenario} has {trainer.size}")
    templates, probe = Templates(), _synthetic(schema)[:64]
    core = export_core(trainer.module(weights), schema, probe, templates)
    if any(slimming.values()):
        compress = _compressed(loaded, trainer, weights, federation.public[0], core.model)
        core = export_core(trainer.module(compress), schema, probe, templates)
    data = finish(core.model, OutputHead(schema, 1.0, loaded.scenario.name, version, terms=trainer.terms))
    write_bytes(out, data)
    return {"path": str(out), "version": version, "bytes": len(data), "weights": trainer.size, "parity": core.parity}


def _compressed(scenario: Scenario, trainer: Trainer, weights: Any, public_x: Any, core: Any) -> Any:
    """The weights pruned and fine-tuned for the scheme that this kind of graph gets first."""
    from fedinfer.artifact import family_of, rounds_inputs
    from fedinfer.training import CompressionPlan, Rounded

    rounded = Rounded.INPUTS if rounds_inputs("", family_of(core)) else Rounded.WEIGHTS
    section, batch = scenario.artifact, scenario.training.batch_size
    plan = CompressionPlan(section.pruning, section.qat_steps, batch, rounded)
    return trainer.compress(weights, public_x, plan, simulation_rng(scenario.scenario.seed, "slimming"))


def _quantize(
    model: Path,
    out: Path,
    rows: Path | None,
    calibration: Path | None,
    against: Path | None,
    settings: ArtifactSection,
    privacy: Privacy,
) -> Json:
    from fedinfer.artifact import baseline_of, build_from_core, core_of, head_of, load, save_build

    parsed = load(read_bytes(model))
    head, clock = head_of(parsed), SystemClock()
    evidence = _evidence(head.schema, rows, calibration)
    other = core_of(load(read_bytes(against))) if against else None
    baseline = baseline_of(other, head, evidence, settings, clock) if other else None
    built = build_from_core(core_of(parsed), head, evidence, settings, clock, baseline)
    save_build(out, built, privacy, clock.now().isoformat(timespec="seconds"))
    return {"folder": str(out), **built.to_json()}


def _evidence(schema: Schema, rows: Path | None, calibration: Path | None) -> Evidence:
    from fedinfer.artifact import Evidence

    nothing = np.empty((0, schema.width), np.float32)
    held_x, held_y = read_labelled(rows, schema) if rows else (nothing, np.empty(0, np.int64))
    public = read_rows(calibration, schema) if calibration else nothing
    return Evidence(held_x, held_y, public if len(public) else _synthetic(schema), public)


def _synthetic(schema: Schema) -> Any:
    from fedinfer.artifact import synthetic_rows

    return synthetic_rows(schema, SYNTHETIC_ROWS, simulation_rng("calibration"))


def _settings(quantization: str, max_metric_drop: float, min_agreement: float, max_bytes: int) -> ArtifactSection:
    if quantization not in ("int8", "float"):
        raise ConfigError(f"--quantization {quantization}: not int8 or float")
    return ArtifactSection.model_validate(
        {
            "quantization": quantization,
            "max_metric_drop": max_metric_drop,
            "min_agreement": min_agreement,
            "max_bytes": max_bytes,
        }
    )


def _inspect(path: Path) -> Json:
    from fedinfer.artifact import describe_manifest, describe_model, describe_repository, load_build

    if path.is_file():
        return describe_model(read_bytes(path))
    if is_imported_folder(path):
        return describe_folder(path)
    if (path / "metadata").is_dir():
        return describe_repository(path, None, SystemClock().now())
    return describe_manifest(load_build(path)[0])


def _verify(path: Path, root: Path | None) -> Json:
    from fedinfer.artifact import describe_model, load_build, verify_repository

    if path.is_file():
        described = describe_model(read_bytes(path))
        _try(read_bytes(path))
        return {**described, "verified": True}
    if is_imported_folder(path):
        return {**describe_folder(path), "verified": True}
    if (path / "metadata").is_dir():
        return verify_repository(path, read_bytes(root) if root else None, SystemClock().now(), _check_as_device)
    manifest, files = load_build(path)
    for variant in manifest.variants:
        _check_as_device(manifest, variant, files[variant.path])
    return {"kind": "version", "verified": True, "version": manifest.version, "files": len(files)}


def _check_as_device(manifest: Manifest, variant: Variant, model: bytes) -> None:
    """Everything a device checks before it takes a model, by the same code; raises GateFailed."""
    from fedinfer.inference import MOST_LATENCY_US, SessionCache, open_variant, self_check

    self_check(open_variant(model, manifest, SessionCache(1)), manifest, variant, SystemClock(), MOST_LATENCY_US)


def _try(model: bytes) -> None:
    """Open a model file as a device would and let it answer a row of zeros or an empty text; raises GateFailed."""
    from fedinfer.inference import Predictor

    predictor = Predictor.open(model)
    predictor.predict_matrix(predictor.reader.blank(1))


def _publish(build: Path, repository: Repository) -> Json:
    from fedinfer.artifact import add_deltas, load_build

    manifest, files = load_build(build)
    if not manifest.deltas:
        before = repository.model_files(repository.newest_version)
        manifest, files = add_deltas(manifest, files, manifest.variants, [before])
    repository.publish(manifest, files)
    return {
        "version": manifest.version,
        "variants": {variant.name: variant.bytes for variant in manifest.variants},
        "deltas": {delta.path: delta.bytes for delta in manifest.deltas},
        "bundle_bytes": sum(map(len, repository.bundle(manifest.version).values())),
    }
