"""Change the product's code in small ways, one at a time, and see whether its fast tests notice.

    .venv/bin/python -m scripts.mutate --sample 400 --seed 1

A seeded sample of the changes of `scripts/mutation.py` over the packages in TARGETS. Each is written into a copy of the
tree and meets the tests of its package that run the changed line, quickest first, until one fails. One warm process
that has imported the heavy libraries forks once per change. Tests that compare with recorded output of this product
(tests/vectors) do not count: they notice any change, right or wrong.

Results are kept in build/mutants/results.json: a second run repeats nothing whose module is unchanged, except
survivors whose tests changed. tests/mutants_accepted.toml lists survivors that may live, each with its reason; the
exit code is 1 when another one lives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scripts.mutation import Mutant, code_digest, mutants
from scripts.warm_fork import ROOT, copy_tree, replaced, run_forked, warm_up

RESULTS = ROOT / "build/mutants/results.json"
ACCEPTED = ROOT / "tests/mutants_accepted.toml"
OPTIONS = ("-m", "not slow and not soak and not e2e and not browser", "--tb=no")


@dataclass(frozen=True, slots=True)
class Target:
    """A package under test: glob patterns of its modules and of its fast tests."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


TARGETS: dict[str, Target] = {
    "secagg": Target(
        ("fedinfer/secagg/**/*.py",),
        (
            "tests/unit/secagg",
            "tests/property/test_secagg_*.py",
            "tests/protocol/test_secagg_*.py",
            "tests/protocol/test_red_team_[cjp]*.py",
            "tests/protocol/test_group_rounds.py",
            "tests/unit/coordinator/test_aggregation_cohort.py",
            "tests/unit/deployment/test_enrolment_files.py",
        ),
    ),
    "privacy": Target(
        ("fedinfer/privacy/**/*.py",),
        ("tests/unit/privacy", "tests/property/test_privacy_properties.py", "tests/property/test_clipping_bounds.py"),
    ),
    "device": Target(
        ("fedinfer/device/**/*.py",),
        (
            "tests/unit/device",
            *(f"tests/protocol/test_{name}*.py" for name in ("device", "g", "d", "a", "w", "corr", "red_team_[!gt]")),
        ),
    ),
    "inference": Target(
        tuple(f"fedinfer/inference/install/{name}.py" for name in ("updater", "tuf_channel", "slots", "self_check")),
        ("tests/unit/inference", "tests/property/test_inference_fuzz.py", "tests/protocol/test_patch_pushes.py"),
    ),
    "rollout": Target(
        ("fedinfer/rollout/**/*.py",),
        ("tests/unit/rollout", "tests/property/test_rollout_safety.py", "tests/unit/coordinator/test_gate_planning.py"),
    ),
    "drift": Target(("fedinfer/drift/**/*.py",), ("tests/unit/drift", "tests/property/test_drift_bounds.py")),
}
# Compare with recorded output of this product.
RECORDED = ("test_privacy_vectors.py", "test_secagg_vectors.py")


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the tests of a package do without a change: seconds of each test, and tests by (file, line)."""

    seconds: dict[str, float]
    reached: dict[str, dict[int, list[str]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, run, print."""
    asked = _arguments(arguments)
    drawn = draw(asked.sample, asked.seed, asked.only)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = copy_tree(Path(folder) / "tree")
        warm_up(tree)
        results = _load(asked.fresh)
        for package in TARGETS:
            mine = [mutant for mutant in drawn if modules()[mutant.path] == package]
            if mine:
                _run_package(package, mine, tree, results)
    return report(drawn, results, accepted())


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=400, help="changes drawn from all packages together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=TARGETS, default=list(TARGETS), help="run those of these packages")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    return parser.parse_args(arguments)


@cache
def modules() -> dict[str, str]:
    """Package of every module under test, by path from the root."""
    found = {path: name for name, target in TARGETS.items() for p in target.modules for path in ROOT.glob(p)}
    return {str(path.relative_to(ROOT)): found[path] for path in sorted(found)}


def draw(sample: int, seed: int, only: Sequence[str]) -> list[Mutant]:
    """The first `sample` mutants of all packages by rank, then those of the packages asked for."""
    every = [mutant for path in modules() for mutant in mutants(path, (ROOT / path).read_text(encoding="utf-8"))]
    drawn = sorted(every, key=lambda mutant: mutant.rank(seed))[:sample]
    return [mutant for mutant in drawn if modules()[mutant.path] in only]


def test_files(package: str, root: Path) -> list[Path]:
    """Test files of a package without those that compare with recorded output."""
    found = [path for pattern in TARGETS[package].tests for path in root.glob(pattern)]
    files = [file for path in found for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
    return sorted({file for file in files if file.name not in RECORDED})


def accepted() -> dict[tuple[str, str, str], str]:
    """Reasons of the survivors that may live, by function, statement before and after."""
    entries = tomllib.loads(ACCEPTED.read_text(encoding="utf-8")).get("accepted", []) if ACCEPTED.exists() else []
    return {(entry["function"], entry["before"], entry["after"]): entry["reason"] for entry in entries}


def _load(fresh: bool) -> dict[str, dict[str, Any]]:
    kept = RESULTS.exists() and not fresh
    return dict(json.loads(RESULTS.read_text(encoding="utf-8"))) if kept else {}


def _save(results: dict[str, dict[str, Any]]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.with_suffix(".new").write_text(json.dumps(results, indent=1), encoding="utf-8")
    RESULTS.with_suffix(".new").replace(RESULTS)


def _digest(paths: Sequence[Path]) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def _run_package(package: str, mine: list[Mutant], tree: Path, results: dict[str, dict[str, Any]]) -> None:
    tests, reasons = _digest(test_files(package, tree)), accepted()
    todo = []
    for mutant in mine:
        before = results.get(mutant.key)
        same = before is not None and before["module"] == code_digest((tree / mutant.path).read_bytes())
        again = same and before["outcome"] == "survived" and before["tests"] != tests and mutant.entry not in reasons
        if not same or again:
            todo.append(mutant)
    if not todo:
        return
    print(f"{package}: {len(mine)} mutants, {len(todo)} to run", flush=True)
    base = baseline(package, tree)
    for number, mutant in enumerate(todo, 1):
        result = try_mutant(mutant, package, tree, base)
        results[mutant.key] = result | {"module": code_digest((tree / mutant.path).read_bytes()), "tests": tests}
        _save(results)
        print(f"  {number}/{len(todo)} {result['outcome']:9} {result['seconds']:5.1f} s {_place(mutant)}", flush=True)


def _place(mutant: Mutant) -> str:
    return f"{mutant.path}:{mutant.line} [{mutant.operator}] {mutant.before}  =>  {mutant.after}"


def baseline(package: str, tree: Path) -> Baseline:
    """Run the tests of a package unchanged, with line coverage by test.

    Raises:
        SystemExit: when one fails.
    """
    data = tree.parent / f"coverage-{package}"
    extra = ["--cov=fedinfer", "--cov-context=test", "--cov-report="]
    os.environ["COVERAGE_FILE"] = str(data)
    seen = run_forked(tree, [str(f) for f in test_files(package, tree)], None, [*OPTIONS, *extra], 900.0)
    if seen.code != 0:
        raise SystemExit(f"{package}: without any change {seen.failed} fails ({seen.code})\n{seen.output[-3000:]}")
    return Baseline(seen.seconds, _reached(data, tree))


def _reached(data: Path, tree: Path) -> dict[str, dict[int, list[str]]]:
    from coverage import CoverageData

    stored = CoverageData(str(data))
    stored.read()
    reached: dict[str, dict[int, list[str]]] = {}
    for file in stored.measured_files():
        lines = stored.contexts_by_lineno(file)
        name = str(Path(file).relative_to(tree))
        reached[name] = {n: sorted({c.split("|")[0] for c in found if c}) for n, found in lines.items()}
    return reached


def try_mutant(mutant: Mutant, package: str, tree: Path, base: Baseline) -> dict[str, Any]:
    """Write the change, run the tests that reach it, take it back."""
    names = relevant(mutant, base)
    result = {"function": mutant.function, "operator": mutant.operator, "before": mutant.before, "after": mutant.after}
    result |= {"path": mutant.path, "package": package}
    if not names:
        return result | {"outcome": "survived", "by": "no test reaches it", "seconds": 0.0}
    files = sorted({str(tree / name.split("::")[0]) for name in names})
    limits = {name: 10.0 + 6 * base.seconds[name] for name in names}
    with replaced(tree / mutant.path, mutant.source()):
        seen = run_forked(tree, files, limits, [*OPTIONS, "-x"], 60.0 + 6 * sum(limits.values()))
    outcome = "survived" if seen.code == 0 else "timeout" if seen.timed_out else "killed"
    by = f"{len(names)} tests pass" if outcome == "survived" else seen.failed or "collection"
    return result | {"outcome": outcome, "by": by, "seconds": round(seen.elapsed, 1)}


def relevant(mutant: Mutant, base: Baseline) -> list[str]:
    """Tests that run the changed statement, quickest first; for what runs at import those that run the module."""
    lines = base.reached.get(mutant.path, {})
    inside = {name for n in range(mutant.line, mutant.last + 1) for name in lines.get(n, [])}
    if not mutant.inside or (not inside and any(n in lines for n in range(mutant.line, mutant.last + 1))):
        inside = {name for found in lines.values() for name in found} or set(base.seconds)
    return sorted(inside & set(base.seconds), key=lambda name: (base.seconds[name], name))


def report(drawn: list[Mutant], results: dict[str, dict[str, Any]], reasons: dict[tuple[str, str, str], str]) -> int:
    """Print the score table and every survivor; 1 when one lives that may not."""
    rows: dict[str, Counter[str]] = {}
    lives = []
    for mutant in drawn:
        outcome = results[mutant.key]["outcome"]
        if outcome == "survived" and mutant.entry in reasons:
            outcome = "accepted"
        elif outcome == "survived":
            lives.append(mutant)
        rows.setdefault(modules()[mutant.path], Counter())[outcome] += 1
    print("\n| package | mutants | killed | timed out | accepted | survived | score |\n|---|---|---|---|---|---|---|")
    total = sum(rows.values(), Counter[str]())
    for name, row in [*rows.items(), ("together", total)]:
        dead, all_of = row["killed"] + row["timeout"], row.total()
        cells = (all_of, row["killed"], row["timeout"], row["accepted"], row["survived"])
        print(f"| {name} | {' | '.join(map(str, cells))} | {100 * dead / all_of:.1f} % |")
    for mutant in lives:
        print(f"\n# {mutant.path}:{mutant.line}, {mutant.operator}; {results[mutant.key]['by']}\n[[accepted]]")
        for name in ("function", "before", "after"):
            print(f"{name} = {json.dumps(getattr(mutant, name), ensure_ascii=False)}")
    return int(bool(lives))


if __name__ == "__main__":
    sys.exit(main())
