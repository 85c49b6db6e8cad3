import numpy as np
import pytest

from fedinfer.errors import ConfigError, StoreError
from fedinfer.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint

WEIGHTS = np.arange(5, dtype=np.float32)


def test_round_trip_keeps_arrays_and_header(tmp_path):
    path = tmp_path / "round-3.npz"
    save_checkpoint(path, Checkpoint({"weights": WEIGHTS, "second": np.ones(2)}, {"round": 3, "kind": "fedadam"}))
    loaded = load_checkpoint(path)
    assert loaded.header == {"round": 3, "kind": "fedadam"}
    assert set(loaded.arrays) == {"weights", "second"}
    assert loaded.arrays["weights"].dtype == np.float32
    np.testing.assert_array_equal(loaded.arrays["weights"], WEIGHTS)


def test_equal_contents_give_equal_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_checkpoint(tmp_path / name, Checkpoint({"weights": WEIGHTS}, {"x": 1}))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_nothing_is_left_beside_the_file(tmp_path):
    save_checkpoint(tmp_path / "c.npz", Checkpoint({"weights": WEIGHTS}, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 broken"])
def test_damaged_file_is_a_config_error(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        load_checkpoint(path)


def test_truncated_file_is_a_config_error(tmp_path):
    path = tmp_path / "cut.npz"
    save_checkpoint(path, Checkpoint({"weights": np.zeros(1000, dtype=np.float32)}, {}))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        load_checkpoint(path)


def test_missing_file_and_foreign_npz_are_config_errors(tmp_path):
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "absent.npz")
    np.savez(tmp_path / "foreign.npz", weights=WEIGHTS)
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "foreign.npz")


def test_pickled_objects_are_never_loaded_or_stored(tmp_path):
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "evil.npz", header_json=np.frombuffer(b'{"version": 1, "header": {}}', np.uint8), x=objects)
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "evil.npz")
    with pytest.raises(ConfigError, match="cannot be stored"):
        save_checkpoint(tmp_path / "x.npz", Checkpoint({"x": objects}, {}))


def test_other_version_is_refused(tmp_path):
    np.savez(tmp_path / "v9.npz", header_json=np.frombuffer(b'{"version": 9, "header": {}}', np.uint8))
    with pytest.raises(ConfigError, match="version 1"):
        load_checkpoint(tmp_path / "v9.npz")


def test_no_room_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="cannot be written"):
        save_checkpoint(tmp_path / "absent" / "x.npz", Checkpoint({"weights": WEIGHTS}, {}))
