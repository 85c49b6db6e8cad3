"""A device that fetches by itself: static files over HTTP, ETag and resume; what a server cannot make it do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedinfer.artifact.release.mirror import mirror, renew_mirror
from fedinfer.cli.device import app
from fedinfer.cli.following import keep_following, pauses, said
from fedinfer.deployment.pinned import trusted_root
from fedinfer.errors import ConfigError, TransportError
from fedinfer.inference.install import web_source
from fedinfer.inference.install.updater import InstallReport
from fedinfer.inference.install.web_source import web_fetch
from fedinfer.system import SimulatedEntropy
from tests.unit.inference.test_device_with_repository import World

TARGET = "targets/model/1.onnx"


class Site:
    """A web server on this machine over a dict of files; it counts what it sends, and can break off."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent: list[tuple[str, int, int]] = []
        self.most = 1 << 30
        self.status = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the name that http.server calls
                site.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/repo"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.removeprefix("/repo/")
        data = self.files.get(path)
        tag = f'"{hash(data)}"'
        status, body = (404, b"") if data is None else (200, data)
        if self.status:
            status, body = self.status, b""
        elif data is not None and request.headers.get("If-None-Match") == tag:
            status, body = 304, b""
        elif data is not None and request.headers.get("If-Range") == tag:
            status, body = 206, data[int(str(request.headers["Range"]).removeprefix("bytes=").removesuffix("-")) :]
        self.sent.append((path, status, len(body[: self.most])))  # before the client can have read it
        request.send_response(status)
        request.send_header("ETag", tag)
        request.send_header("Location", "http://127.0.0.1:1/elsewhere")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.most])


@pytest.fixture
def site() -> Iterator[Site]:
    own = Site()
    yield own
    own.server.shutdown()
    own.server.server_close()


def test_an_unchanged_file_is_not_sent_again(site: Site, tmp_path: Path) -> None:
    site.files["metadata/timestamp.json"] = b"signed"
    for _ in range(2):  # two processes
        assert web_fetch(site.url, tmp_path)("metadata/timestamp.json") == b"signed"
    assert [status for _, status, _ in site.sent] == [200, 304]
    site.files["metadata/timestamp.json"] = b"signed anew"
    assert web_fetch(site.url, tmp_path)("metadata/timestamp.json") == b"signed anew"


def test_a_file_that_broke_off_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    whole = bytes(range(256)) * 1000
    site.files[TARGET], site.most = whole, 100_000
    with pytest.raises(TransportError, match="broke off after 100000 of 256000 bytes"):
        web_fetch(site.url, tmp_path)(TARGET)
    site.most = 1 << 30
    assert web_fetch(site.url, tmp_path)(TARGET) == whole
    assert site.sent[-1] == (TARGET, 206, 156_000)
    assert list(tmp_path.glob("*.part")) == []


def test_a_file_that_changed_meanwhile_comes_whole(site: Site, tmp_path: Path) -> None:
    site.files[TARGET], site.most = b"a" * 1000, 400
    with pytest.raises(TransportError):
        web_fetch(site.url, tmp_path)(TARGET)
    site.files[TARGET], site.most = b"b" * 1000, 1 << 30
    assert web_fetch(site.url, tmp_path)(TARGET) == b"b" * 1000


def test_what_is_not_there_is_none_and_an_error_is_one(site: Site, tmp_path: Path) -> None:
    fetch = web_fetch(site.url, tmp_path)
    assert fetch("metadata/9.root.json") is None
    site.status = 500
    with pytest.raises(TransportError, match="answers 500"):
        fetch("metadata/timestamp.json")
    site.server.shutdown()
    site.server.server_close()
    with pytest.raises(TransportError, match=r"metadata/timestamp\.json"):
        fetch("metadata/timestamp.json")


def test_a_redirect_is_not_followed(site: Site, tmp_path: Path) -> None:
    site.status = 302
    with pytest.raises(TransportError, match="answers 302"):
        web_fetch(site.url, tmp_path)("metadata/timestamp.json")


def test_more_than_the_bound_is_not_read(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_source, "MAX_METADATA_BYTES", 100)
    site.files["metadata/timestamp.json"] = b"x" * 101
    with pytest.raises(TransportError, match="101 bytes, at most 100 are read"):
        web_fetch(site.url, tmp_path)("metadata/timestamp.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url", ["http://example.org/repo", "ftp://127.0.0.1/repo", "https://", "file:///etc", "https://a/b?c", "x"]
)
def test_only_https_and_this_machine_are_asked(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no https:// address"):
        web_fetch(url, tmp_path)


def test_a_damaged_cache_is_no_error(site: Site, tmp_path: Path) -> None:
    site.files["metadata/timestamp.json"] = b"signed"
    fetch = web_fetch(site.url, tmp_path)
    fetch("metadata/timestamp.json")
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xff\xfe")
    assert fetch("metadata/timestamp.json") == b"signed"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_device_updates_itself_from_the_copy_of_a_repository(site: Site, tmp_path: Path) -> None:
    """By the commands that its owner uses; the second time it needs no root, and a model has come as a patch."""
    world, root, copy = World(tmp_path), tmp_path / "root.json", tmp_path / "released"
    root.write_bytes(world.repository.trusted_root())
    world.publish(1)
    mirror(tmp_path / "server", copy)
    site.files = files_of(copy)
    store, runner = tmp_path / "device", CliRunner()
    first = runner.invoke(app, ["update", "--store", str(store), "--from", site.url, "--root", str(root)])
    assert "version 1 (float) is active, before: none" in first.output
    world.publish(2)
    still = runner.invoke(app, ["update", "--store", str(store), "--from", site.url])
    assert "version 1 (float) is the newest" in still.output, "version 2 is in no wave yet, and not in the copy"
    mirror(tmp_path / "server", copy)
    site.files = files_of(copy)
    then = runner.invoke(app, ["update", "--store", str(store), "--from", site.url])
    assert "version 2 (float) is active, before: 1" in then.output
    nothing = runner.invoke(app, ["update", "--store", str(tmp_path / "other"), "--from", site.url])
    assert nothing.exit_code == 2
    assert "--root FILE" in nothing.output


def test_signatures_of_a_copy_are_renewed_unless_a_rollout_is_under_way(tmp_path: Path) -> None:
    world, copy = World(tmp_path), tmp_path / "released"
    world.publish(1)
    assert not renew_mirror(tmp_path / "server", copy)
    assert not copy.exists()
    mirror(tmp_path / "server", copy)
    world.repository.renew()
    assert renew_mirror(tmp_path / "server", copy)
    assert files_of(copy) == files_of(tmp_path / "server")
    world.publish(2)
    before = files_of(copy)
    assert not renew_mirror(tmp_path / "server", copy)
    assert files_of(copy) == before
    world.repository.withdraw(2)
    assert renew_mirror(tmp_path / "server", copy), "nothing is offered, so nothing too early"


def test_a_store_keeps_the_first_root_and_refuses_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trusts no root yet"):
        trusted_root(tmp_path, b"")
    assert trusted_root(tmp_path, b"first") == trusted_root(tmp_path, b"") == b"first"
    with pytest.raises(ConfigError, match="another root"):
        trusted_root(tmp_path, b"second")


def test_whoever_follows_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    reports = iter([InstallReport(1, 0, True, "int8", 5), None, InstallReport(1, 1, False, "int8", 5)])
    waited: list[float] = []

    def once() -> InstallReport:
        report = next(reports)
        if report is None:
            raise TransportError("nobody answers")
        return report

    with caplog.at_level("INFO"):
        keep_following(once, iter([1.0, 2.0, 3.0]), waited.append)
    assert waited == [1.0, 2.0, 3.0]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    drawn = pauses(100.0, SimulatedEntropy(1))
    assert all(90 <= next(drawn) <= 110 for _ in range(50))
    assert said(InstallReport(0, 0, False, "", 5, withdrawn=(3,))) == (
        "version 3 was withdrawn; this device has no model: the repository offers none"
    )
