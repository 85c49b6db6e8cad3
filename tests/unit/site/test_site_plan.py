"""`site.toml`: the template is a site, and whatever is wrong is named before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedinfer.errors import ConfigError
from fedinfer.site.plan import TEMPLATE, read_plan


def plan_of(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in TEMPLATE
    path = folder / "site.toml"
    path.write_text(TEMPLATE.replace(old, new) if old else TEMPLATE)
    return path


def test_the_template_is_a_site(tmp_path: Path) -> None:
    plan = read_plan(plan_of(tmp_path))
    assert plan.superlink == "localhost:9500"
    assert plan.run.scenario == "heart"


def test_an_ipv6_address_gets_brackets(tmp_path: Path) -> None:
    assert read_plan(plan_of(tmp_path, '["localhost"]', '["2001:db8::1"]')).superlink == "[2001:db8::1]:9500"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "pilot"', 'name = "a b"', "letters, digits and hyphens"),
        ("0.0.0.0:9500", "9500", "HOST:PORT"),
        ("0.0.0.0:9500", "0.0.0.0:99999", "HOST:PORT"),
        ("127.0.0.1:9501", "127.0.0.1:9500", "have one port"),
        ("min_devices = 4", "min_devices = 1", "run.min_devices"),
        ("epsilon = 5.0", "epsilon = inf", "budget.epsilon"),
        ("epsilon = 5.0", "epsilom = 5.0", "epsilom"),
        ('"hospital0"', '"\\u00e9"', "devices.0"),
        ('["localhost"]', "[]", "addresses"),
        ("[run]", "[run", "no TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_plan(plan_of(tmp_path, old, new))
