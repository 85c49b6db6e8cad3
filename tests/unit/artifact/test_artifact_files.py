"""Repository files: complete or absent, bounded, inside their folder, and typed errors when the disk refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedinfer.artifact.release import files
from fedinfer.artifact.release.files import inside, list_files, read_file, remove_file, write_file
from fedinfer.errors import ArtifactRejected, StoreError


def test_what_is_written_is_read(tmp_path):
    write_file(tmp_path, "a/b/c.json", b"one")
    write_file(tmp_path, "a/b/c.json", b"two")
    assert read_file(tmp_path, "a/b/c.json") == b"two"
    assert list_files(tmp_path) == ("a/b/c.json",)
    remove_file(tmp_path, "a/b/c.json")
    remove_file(tmp_path, "a/b/c.json")
    assert read_file(tmp_path, "a/b/c.json") is None
    assert list_files(tmp_path) == ()


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a\\b", "a\0b", "."])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ArtifactRejected, match="no file name"):
        inside(tmp_path, name)


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    write_file(tmp_path, "x.json", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_file(tmp_path, "x.json", b"new")
    assert list_files(tmp_path) == ("x.json",)
    assert read_file(tmp_path, "x.json") == b"old"


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(StoreError, match="a/b"):
        write_file(tmp_path, "a/b", b"x")


def test_a_folder_in_the_way_of_removal_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(StoreError, match=r"^a: "):
        remove_file(tmp_path, "a")


def test_oversized_files_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_ARTIFACT_BYTES", 10)
    write_file(tmp_path, "x", bytes(11))
    with pytest.raises(ArtifactRejected, match="11 bytes, at most 10"):
        read_file(tmp_path, "x")


def test_an_unreadable_disk_is_a_typed_error(tmp_path, monkeypatch):
    write_file(tmp_path, "x", b"1")

    def broken(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(StoreError, match="Input/output error"):
        read_file(tmp_path, "x")
