"""The scripts behind `make bench`, `make test`, `make mutants` and `make sabotage`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.blocks import ROOT


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_benchmark_section_is_added_then_replaced_and_nothing_else_changes() -> None:
    context = _script("bench")
    page = context.replace_section("# Benchmarks\n\nText.\n", "one", "first")
    page = context.replace_section(page, "two", "second")
    page = context.replace_section(page, "one", r"new \1 figures")
    assert page.startswith("# Benchmarks\n\nText.\n\n## One\n\n<!-- begin one -->\nnew \\1 figures\n<!-- end one -->\n")
    assert page.endswith("## Two\n\n<!-- begin two -->\nsecond\n<!-- end two -->\n")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('print("talk"); print(\'{"ratio": 41.5, "peer": null}\')', {"ratio": 41.5, "peer": None}),
        ('print("no figures")', None),
        ("print('[1]')", None),
        ("print('{\"ratio\": 1}'); raise SystemExit(3)", None),
    ],
)
def test_figures_are_the_last_line_of_a_benchmark_that_ends_well(
    code: str, expected: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _script("bench")
    (tmp_path / "sample.py").write_text(code)
    monkeypatch.setattr(context, "FOLDER", tmp_path)
    assert context.run("sample") == expected


def test_a_failed_benchmark_keeps_the_page_and_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = _script("bench")
    (tmp_path / "good.py").write_text("print('{\"ratio\": 2.0}')")
    (tmp_path / "bad.py").write_text("raise SystemExit(1)")
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    monkeypatch.setattr(context, "FOLDER", tmp_path)
    monkeypatch.setattr(context, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["bench.py", "benchmarks"])
    assert context.main() == 1
    assert "| ratio | 2 |" in page.read_text()
    assert "bad" not in page.read_text()


def test_a_benchmark_that_cannot_run_here_keeps_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = _script("bench")
    (tmp_path / "card.py").write_text('print(\'{"skipped": "no GPU", "ratio": 1}\')')
    page = tmp_path / "page.md"
    page.write_text("<!-- begin card -->\nold\n<!-- end card -->\n")
    monkeypatch.setattr(context, "FOLDER", tmp_path)
    monkeypatch.setattr(context, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["bench.py", "card"])
    assert context.main() == 0
    assert page.read_text() == "<!-- begin card -->\nold\n<!-- end card -->\n"


def test_every_measured_table_stands_on_its_page() -> None:
    """`make bench` rewrites all of them: whatever it measures has its place."""
    context = _script("bench")
    pages = {name: study.page for name, study in context.TABLES.items()}
    pages |= {path.stem: context.PAGE for path in (ROOT / context.FOLDER).glob("[!_]*.py")}
    assert set(pages.values()) == set(context.GROUPS.values())
    for name, page in pages.items():
        text = (ROOT / page).read_text()
        assert f"<!-- begin {name} -->" in text, (name, page)
        assert f"<!-- end {name} -->" in text, (name, page)
    with pytest.raises(SystemExit, match="nothing of that name is measured"):
        context.chosen(["hearts"])


def test_a_row_of_the_reproductions_is_made_again_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cheapest row, by the script that the page names; the rest of the page stays."""
    context = _script("bench")
    page = tmp_path / "reproductions.md"
    text = (ROOT / context.TABLES["epsilons"].page).read_text()
    page.write_text(text)
    monkeypatch.setitem(context.TABLES, "epsilons", context.TABLES["epsilons"]._replace(page=page))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["bench.py", "epsilons"])
    assert context.main() == 0
    rows = [line for line in text.splitlines() if line.startswith(("| Opacus", "| Tram"))]
    made = page.read_text()
    assert len(rows) == 6
    assert all(row in made for row in rows)
    assert made.split("<!-- end epsilons -->")[1] == text.split("<!-- end epsilons -->")[1]
    assert "Command: `python simulations/reproduce_epsilons.py`. Run on " in made


def test_objects_of_objects_and_lists_become_tables() -> None:
    floor = {"run": {"us": 3.14159}, "deep": {"other": {"ms": None}}}
    text = _script("bench").body("sample", {"n": 3, "floor": floor, "kinds": [{"kind": "a", "us": 1.5}]})
    assert "| n | 3 |" in text
    assert "floor:\n\n| name | us |\n|---|---|\n| run | 3.142 |" in text
    assert "floor.deep:\n\n| name | ms |\n|---|---|\n| other | not run |" in text
    assert "kinds:\n\n| kind | us |\n|---|---|\n| a | 1.5 |" in text
    assert "{" not in text


def test_the_test_groups_cover_every_marker_once() -> None:
    groups = _script("run_tests").GROUPS
    expressions = [group[group.index("-m") + 1] for group in groups.values()]
    for slow in (False, True):
        for alone in (False, True):
            names = {"slow": slow, "e2e": alone, "browser": False, "token": False, "promtool": False, "soak": False}
            chosen = [eval(expression, {}, names) for expression in expressions]
            assert chosen.count(True) == 1, names


def test_pins_cover_what_the_project_asks_for() -> None:
    done = _script("freeze")
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {"torch", "flwr", "opacus", "onnxruntime", "numpy", "pytest"} <= pins
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
    assert "://" not in (ROOT / "constraints.txt").read_text()
    assert callable(done.main)


SAMPLE = """
def spent(events: list[float], most: float = 1.0) -> float:
    'Docstring.'
    if not events or max(events) < 0:
        raise ValueError(f"nothing in {len(events) + 1}")
    return sum(e * 2 for e in events if e > 0) / most
"""


def test_mutants_are_small_valid_and_leave_texts_alone() -> None:
    from scripts.mutation import mutants

    found = mutants("sample.py", SAMPLE)
    changes = {(mutant.before, mutant.after) for mutant in found}
    condition = "if not events or max(events) < 0:"
    assert {
        ("def spent(events: list[float], most: float=1.0)", "def spent(events: list[float], most: float=2.0)"),
        (condition, "if not events and max(events) < 0:"),
        (condition, "if max(events) < 0:"),
        (condition, "if not events or max(events) <= 0:"),
        (condition, "if not events or min(events) < 0:"),
        (condition, "if events or max(events) < 0:"),
        (condition, "pass"),
        ("raise ValueError(f'nothing in {len(events) + 1}')", "pass"),
        ("return sum((e * 2 for e in events if e > 0)) / most", "return sum((e * 2 for e in events)) / most"),
        ("return sum((e * 2 for e in events if e > 0)) / most", "return sum((e * 2 for e in events if e > 0)) * most"),
        ("return sum((e * 2 for e in events if e > 0)) / most", "return None"),
    } <= changes
    assert not any("nothing in" in after for _, after in changes)
    sources = {mutant.source() for mutant in found}
    assert len(sources) == len(found)
    for source in sources:
        compile(source, "sample.py", "exec")
        assert "Docstring." in source


def test_the_drawing_of_mutants_does_not_depend_on_where_code_stands() -> None:
    from scripts.mutation import mutants

    moved = mutants("other.py", "import math\n\nX = 3\n" + SAMPLE)
    ranks = {mutant.rank(1) for mutant in mutants("sample.py", SAMPLE)}
    assert ranks < {mutant.rank(1) for mutant in moved}
    assert ranks.isdisjoint(mutant.rank(2) for mutant in moved)


TRY = """
import json, sys
from pathlib import Path
from scripts import mutate
from scripts.mutation import mutants

tree = Path(sys.argv[1])
file = "fedinfer/sum.py"
source = (tree / file).read_text()
base = mutate.Baseline({"test_sum.py::test_sum": 0.01}, {file: {n: ["test_sum.py::test_sum"] for n in (4, 5, 6)}})
found = {m.before: m for m in mutants(file, source) if m.after in ("return None", "pass")}
print(json.dumps({before: mutate.try_mutant(m, "secagg", tree, base) for before, m in found.items()}))
"""


def test_a_mutant_that_tests_see_dies_and_another_lives(tmp_path: Path) -> None:
    """The whole way in a fork: a changed file, the tests that reach it, the verdict, and the file as it was."""
    tree = sample_tree(tmp_path)
    done = subprocess.run([sys.executable, "-c", TRY, str(tree)], cwd=ROOT, capture_output=True, text=True, check=True)
    outcomes = {before: result["outcome"] for before, result in json.loads(done.stdout).items()}
    assert outcomes == {
        "return sum((e * 2 for e in events if e > 0)) / most": "killed",
        "if not events or max(events) < 0:": "survived",
        "raise ValueError(f'nothing in {len(events) + 1}')": "survived",
    }
    assert (tree / "fedinfer/sum.py").read_text() == SAMPLE


SABOTAGE = """
import json, sys
from pathlib import Path
from scripts import sabotage
from scripts.sabotage_entries import Edit, Sabotage

tree, test = Path(sys.argv[1]), "test_sum.py::test_sum"
base = sabotage.Base({test: 0.01}, frozenset())
edits = {
    "another number": ("e * 2", "e * 3"),
    "nothing that the test sees": ("max(events) < 0", "max(events) < -1"),
    "a name that is not there": ("e * 2", "e * two"),
    "a module that is not there": ("def spent", "import nowhere\\n\\ndef spent"),
}
for what, (old, new) in edits.items():
    entry = Sabotage("t", "", "c", what, (Edit("fedinfer/sum.py", "", old, new),), (test,), False, False)
    edits[what] = sabotage.try_entry(entry, tree, base)[1][test].splitlines()[:1]
print(json.dumps(edits))
"""


def sample_tree(folder: Path) -> Path:
    """A product of one function, and its test."""
    tree = folder / "tree"
    (tree / "fedinfer").mkdir(parents=True)
    (tree / "fedinfer/__init__.py").touch()
    (tree / "fedinfer/sum.py").write_text(SAMPLE)
    (tree / "pytest.ini").write_text("[pytest]\nmarkers = slow\n  e2e\n  browser\npythonpath = .\n")
    (tree / "test_sum.py").write_text(
        "from fedinfer.sum import spent\n\ndef test_sum():\n    assert spent([1.0, 2.0]) == 6.0\n"
    )
    return tree


def test_a_sabotage_is_found_by_a_failing_test_and_not_by_code_that_is_broken(tmp_path: Path) -> None:
    tree = sample_tree(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SABOTAGE, str(tree)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {
        "another number": [],
        "nothing that the test sees": ["passes"],
        "a name that is not there": ["NameError in call: [\"E   NameError: name 'two' is not defined\"]"],
        "a module that is not there": ["does not run"],
    }
    assert (tree / "fedinfer/sum.py").read_text() == SAMPLE


def test_every_target_of_the_mutants_exists() -> None:
    from scripts import mutate

    found = set(mutate.modules().values())
    assert found == set(mutate.TARGETS)
    for package in mutate.TARGETS:
        assert len(mutate.test_files(package, ROOT)) > 1, package


def test_every_accepted_mutant_is_one_that_can_be_made() -> None:
    """An entry whose code has changed is judged anew."""
    from scripts import mutate

    made = {mutant.entry for mutant in mutate.draw(10**9, 1, list(mutate.TARGETS))}
    assert [key for key in mutate.accepted() if key not in made] == []
    assert all(len(reason) > 20 for reason in mutate.accepted().values())


def test_a_picture_shows_one_section_of_a_report() -> None:
    context = _script("report_pictures")
    page = '<head></head><section class="w"><h2>A</h2>a</section><section><h2>B</h2>b</section>'
    alone = context.only(page, "B")
    assert '<section style="display:none" class="w"><h2>A</h2>' in alone
    assert "<section><h2>B</h2>" in alone
    assert context.only(page, "") == page
    with pytest.raises(SystemExit, match="no section 'C'"):
        context.only(page, "C")


def test_every_picture_is_drawn_by_the_script_and_shown_on_a_page() -> None:
    context = _script("report_pictures")
    drawn = {picture.name for story in context.STORIES.values() for picture in story.pictures}
    assert drawn == {path.name for path in (ROOT / "docs/pictures").iterdir()}
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert [name for name in drawn if f"pictures/{name})" not in pages] == []


def test_what_a_story_runs_stands_on_its_page() -> None:
    """The pictures of a tutorial are of what its reader runs."""
    context = _script("report_pictures")
    assert context.first_block((ROOT / "docs/tutorials/finance.md").read_text()).startswith("import csv")
    for name in ("healthcare", "finance", "edge-fleet", "research"):
        page = (ROOT / f"docs/tutorials/{name}.md").read_text()
        for command in context.STORIES[name].commands:
            assert " ".join(("fedinfer", *command[:2])) in page
