import pytest

from fedinfer.errors import ConfigError
from fedinfer.rollout.waves import Wave, members, place, plan_waves, wave_of

FLEET = {f"d{i:04d}": {"region": "north" if i % 4 == 0 else "south"} for i in range(1000)}


def test_waves_are_shares_of_the_fleet_and_everybody_has_one():
    waves = plan_waves(FLEET, [Wave(0.01), Wave(0.25), Wave(1.0)], "r")
    assert [wave.size for wave in waves] == [10, 240, 750]
    parts = [members(FLEET, waves, "r", index) for index in range(3)]
    assert [len(part) for part in parts] == [10, 240, 750]
    assert sorted(device for part in parts for device in part) == sorted(FLEET)


@pytest.mark.parametrize(("devices", "sizes"), [(1, [1]), (2, [1, 1]), (4, [1, 3]), (7, [2, 5])])
def test_a_quarter_of_a_few_devices_is_at_least_one(devices, sizes):
    fleet = {f"hospital-{i}": {} for i in range(devices)}
    waves = plan_waves(fleet, [Wave(0.25), Wave(1.0)], "r")
    assert [wave.size for wave in waves] == sizes


def test_the_same_salt_gives_the_same_waves_and_another_salt_others():
    one, two = (plan_waves(FLEET, [Wave(0.1)], salt) for salt in ("a", "b"))
    assert plan_waves(dict(reversed(FLEET.items())), [Wave(0.1)], "a") == one
    assert set(members(FLEET, one, "a", 0)) != set(members(FLEET, two, "b", 0))
    assert place("x", "ab") != place("bx", "a")


def test_attributes_choose_who_goes_first():
    waves = plan_waves(FLEET, [Wave(0.2, {"region": "north"}), Wave(1.0)], "r")
    first = members(FLEET, waves, "r", 0)
    assert len(first) == 50
    assert {FLEET[device]["region"] for device in first} == {"north"}
    assert waves[1].size == 950


def test_a_device_that_enrolls_later_has_a_wave():
    waves = plan_waves(FLEET, [Wave(0.5), Wave(1.0, {"region": "north"})], "r")
    found = {wave_of(f"late-{i}", {"region": "south"}, waves, "r") for i in range(50)}
    assert found == {0, None}
    assert wave_of("late", {}, plan_waves({"only": {}}, [Wave(1.0)], "r"), "r") in (0, None)


def test_waves_that_reach_nobody_are_refused():
    with pytest.raises(ConfigError, match="none of 1000 devices"):
        plan_waves(FLEET, [Wave(0.5, {"region": "west"})], "r")
    for fleet, waves in (({}, [Wave(1.0)]), (FLEET, [])):
        with pytest.raises(ConfigError, match="needs devices and waves"):
            plan_waves(fleet, waves, "r")
    for fraction in (0.0, 1.5, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="must be in"):
            Wave(fraction)
