"""The report in a real browser, driven through its command line. Every check is first shown to be able to fail."""

from __future__ import annotations

import html
import json
import re
import struct
import subprocess
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fedinfer.report import axes, write_report
from tests.unit.report import sample_runs

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
WIDTHS = (360, 390, 1280)
SHOTS = ((360, 5200), (760, 4200))
SAMPLES = (sample_runs.digits, sample_runs.heart, sample_runs.rare, sample_runs.aborted)
OWN = "not an origin"
AROUND = """<!doctype html><pre id="measured"></pre>
<script>
addEventListener("message", (told) => {{ document.getElementById("measured").textContent = told.data; }});
</script>
<iframe src="{name}" style="width:{width}px;height:900px;border:0"></iframe>"""
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def _browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a browser that has never run before and write what it says to the result."""
    profile = folder / f"profile-{len(list(folder.glob('profile-*')))}"
    profile.mkdir()
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr
    return done


def _report(make: Any, folder: Path) -> Path:
    run, events = make()
    return write_report(sample_runs.write(folder / "run", run, events))


def _console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def _requests(page: Path, folder: Path) -> set[str]:
    """Addresses that the page asked for. The browser's own errands have no initiator in its log."""
    log = folder / "net.json"
    _browse(page, folder, f"--log-net-log={log}", "--dump-dom")
    found = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = {params["url"] for params in found if params.get("initiator", OWN) != OWN}
    return {address for address in asked if not address.startswith(("file:", "data:"))}


def _measured(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """What measure.js saw. The browser's window is at least 500 px wide, so the page is shown in a frame."""
    copy, around = folder / f"measured-{width}.html", folder / f"around-{width}.html"
    script = Path(__file__).with_name("measure.js").read_text()
    copy.write_text(POLICY.sub("", page.read_text()).replace("</body>", f"<script>{script}</script></body>"))
    around.write_text(AROUND.format(width=width, name=copy.name))
    done = _browse(around, folder, "--window-size=1600,1000", "--dump-dom")
    found = re.search(r'<pre id="measured">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr
    measured: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    return measured


def _colours(page: Path, folder: Path, width: int, height: int, *flags: str) -> Counter[tuple[int, int, int]]:
    """How often each colour occurs in a picture of the top of the page."""
    target = folder / f"shot-{width}.png"
    _browse(page, folder, f"--window-size={width},{height}", f"--screenshot={target}", *flags)
    size, pixels = _read_png(target.read_bytes())
    assert size == (width, height)
    return Counter(pixels)


def _read_png(data: bytes) -> tuple[tuple[int, int], list[tuple[int, int, int]]]:
    """Size and pixels of an 8-bit RGB or RGBA picture without interlacing (PNG specification, section 9)."""
    place, body = 8, b""
    width = height = channels = 0
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        chunk = data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunk)
            channels = {2: 3, 6: 4}[colour]
            assert (depth, interlaced) == (8, 0)
        elif kind == b"IDAT":
            body += chunk
        place += 12 + length
    raw, stride = zlib.decompress(body), width * channels
    before, pixels = bytearray(stride), []
    for row in range(height):
        start = row * (stride + 1)
        before = _unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + stride]), before, channels)
        pixels += [tuple(before[x : x + 3]) for x in range(0, stride, channels)]
    return (width, height), pixels  # type: ignore[return-value]  # slices of three bytes


def _unfiltered(kind: int, line: bytearray, before: bytearray, step: int) -> bytearray:
    for x in range(len(line)):
        left, up = (line[x - step] if x >= step else 0), before[x]
        corner = before[x - step] if x >= step else 0
        line[x] = (line[x] + (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]) & 255
    return line


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@pytest.mark.parametrize("make", SAMPLES)
def test_the_console_stays_silent(make: Any, tmp_path: Path) -> None:
    assert _console(_browse(_report(make, tmp_path), tmp_path, "--dump-dom")) == []


def test_an_error_on_the_console_would_be_seen(tmp_path: Path) -> None:
    page = _report(sample_runs.heart, tmp_path)
    page.write_text(page.read_text().replace("</body>", "<script>nothing.here()</script></body>"))
    assert len(_console(_browse(page, tmp_path, "--dump-dom"))) == 1  # the page's own policy refuses the script


@pytest.mark.parametrize("make", SAMPLES)
def test_nothing_is_asked_of_the_network(make: Any, tmp_path: Path) -> None:
    assert _requests(_report(make, tmp_path), tmp_path) == set()


def test_a_request_would_be_seen(tmp_path: Path) -> None:
    page = _report(sample_runs.heart, tmp_path)
    text = POLICY.sub("", page.read_text()).replace("</body>", '<img src="http://127.0.0.1:9/x.png"></body>')
    page.write_text(text)
    assert "http://127.0.0.1:9/x.png" in _requests(page, tmp_path)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("make", SAMPLES)
def test_it_is_readable_at_the_width_of_a_phone_and_of_a_desktop(make: Any, width: int, tmp_path: Path) -> None:
    seen = _measured(_report(make, tmp_path), tmp_path, width)
    assert seen["width"] == width
    assert seen["content"] <= width, "the page scrolls sideways"
    assert seen["smallest"] >= 11, "text below 11 px"
    assert seen["overlaps"] == []
    assert seen["outside"] == []
    assert seen["clipped"] == [], "part of a table is cut off"
    assert all(drawing <= width for drawing in seen["drawings"])
    assert all(marks >= 3 for marks in seen["marks"])


def test_a_page_that_is_too_wide_or_too_small_would_be_seen(tmp_path: Path) -> None:
    page = _report(sample_runs.heart, tmp_path)
    style = (
        "<style>.narrow{display:none!important}.wide{display:block!important}"
        ".box{overflow:visible!important;min-width:700px}</style>"
    )
    page.write_text(page.read_text().replace("</head>", style + "</head>"))
    seen = _measured(page, tmp_path, 360)
    assert seen["content"] > 360
    assert seen["smallest"] < 11


DARK = "--blink-settings=preferredColorScheme=0"
PAGE = {"light": (255, 255, 255), "dark": (0x14, 0x19, 0x1F)}


def test_it_is_dark_where_the_reader_wants_it_dark(tmp_path: Path) -> None:
    page = _report(sample_runs.heart, tmp_path)
    light, dark = (_colours(page, tmp_path, 1280, 3000, *flags) for flags in ((), (DARK,)))
    assert light.most_common(1)[0][0] == PAGE["light"]
    assert dark.most_common(1)[0][0] == PAGE["dark"]
    assert dark[PAGE["light"]] == 0, "a white patch is left"
    assert dark[_rgb("#56b4e9")] >= 40, "the curves are missing"
    assert dark[_rgb("#0072B2")] == 0, "a curve keeps its colour for white paper"


@pytest.mark.parametrize(("width", "height"), SHOTS)
def test_the_plots_are_drawn(width: int, height: int, tmp_path: Path) -> None:
    colours = _colours(_report(sample_runs.digits, tmp_path), tmp_path, width, height)
    for colour in axes.PALETTE[:4]:
        assert colours[_rgb(colour)] >= 40, f"{colour} is missing at {width} px"


def test_plots_that_are_not_drawn_would_be_seen(tmp_path: Path) -> None:
    page = _report(sample_runs.digits, tmp_path)
    page.write_text(re.sub(r"<figure>.*?</figure>|<ul class=.legend.>.*?</ul>", "", page.read_text(), flags=re.DOTALL))
    assert _colours(page, tmp_path, *SHOTS[0])[_rgb(axes.PALETTE[0])] < 40


def test_it_prints_on_paper(tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    _browse(_report(sample_runs.digits, tmp_path), tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={target}")
    assert target.read_bytes().startswith(b"%PDF-")
    pages = len(re.findall(rb"/Type\s*/Page\b", target.read_bytes()))
    assert 2 <= pages <= 10
