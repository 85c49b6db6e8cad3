"""Your own model by name."""

import sys
from pathlib import Path

import pytest

from fedinfer.config.factory import import_factory
from fedinfer.errors import ConfigError


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "own_model_for_test.py"
    path.write_text("def build(schema):\n    return schema\n\nNOT_CALLABLE = 3\n")
    (tmp_path / "broken_model_for_test.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return tmp_path


def test_a_module_beside_the_scenario_is_found(module: Path) -> None:
    assert import_factory("own_model_for_test:build", module)("schema") == "schema"


def test_an_installed_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert import_factory("json:dumps", tmp_path)([1]) == "[1]"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent_model_for_test:build", ["ModuleNotFoundError"]),
        ("own_model_for_test:absent", ["AttributeError", "absent"]),
        ("own_model_for_test:NOT_CALLABLE", ["NOT_CALLABLE is a int"]),
        ("broken_model_for_test:build", ["RuntimeError: no licence"]),
    ],
)
def test_a_factory_that_cannot_be_used_is_named(module: Path, name: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        import_factory(name, module)
    for word in [*words, f"[model] factory = {name!r}"]:
        assert word in str(caught.value)
