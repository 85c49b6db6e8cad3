import json
from datetime import UTC, datetime, timedelta

import pytest

from fedinfer.errors import LogTampered
from fedinfer.rollout.log import EMPTY, Head, dump, entry, entry_line, verify, verify_file

START = datetime(2026, 1, 1, tzinfo=UTC)


def chain(count):
    head, lines = EMPTY, []
    for number in range(count):
        line, head = entry_line(head, START + timedelta(minutes=number), "delivered", {"wave": number, "who": "Zoë"})
        lines.append(line)
    return lines, head


def refused(data, head=None):
    with pytest.raises(LogTampered) as caught:
        verify_file(data, head)
    return str(caught.value)


def test_an_untouched_log_is_valid():
    lines, head = chain(20)
    assert verify_file(dump(lines), None) == head == verify_file(dump(lines), head)
    assert verify_file(b"", None) == EMPTY
    assert head.count == 20
    assert all(line.isascii() for line in lines)


def test_a_log_that_grew_still_contains_the_head_that_was_kept():
    lines, head = chain(20)
    _, kept = chain(12)
    assert verify_file(dump(lines), kept) == head


def test_every_changed_byte_is_seen():
    lines, head = chain(6)
    data = dump(lines)
    for position in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(data)
            changed[position] ^= flip
            refused(bytes(changed), head)


def test_removed_repeated_swapped_and_inserted_lines_are_seen():
    lines, head = chain(6)
    for broken in (
        lines[1:],
        lines[:2] + lines[3:],
        [*lines[:3], lines[2], *lines[3:]],
        [lines[1], lines[0], *lines[2:]],
    ):
        assert "does not follow" in refused(dump(broken))
    other, _ = chain(2)
    refused(dump([*lines, other[1]]))
    assert "6 were written" in refused(dump(lines[:-1]), head)


def test_a_cut_off_end_is_seen_only_with_the_head():
    lines, head = chain(6)
    assert verify_file(dump(lines[:4]), None).count == 4
    assert "4 lines, 6 were written" in refused(dump(lines[:4]), head)
    assert "does not end" in refused(dump(lines)[:-1])


def test_a_rewritten_log_is_seen_with_the_head():
    _, kept = chain(3)
    head, lines = EMPTY, []
    for number in range(5):
        line, head = entry_line(head, START, "delivered", {"wave": number, "who": "Eve"})
        lines.append(line)
    assert verify_file(dump(lines), None) == head
    assert "line 3: digest differs" in refused(dump(lines), kept)


def test_another_spelling_of_the_same_entry_is_refused():
    lines, _ = chain(1)
    facts = json.loads(lines[0])
    assert "canonical" in refused(json.dumps(facts).encode() + b"\n")
    assert "canonical" in refused(lines[0].encode() + b" \n")
    doubled = lines[0].replace('"kind"', '"kind":"other","kind"')
    assert "canonical" in refused(doubled.encode() + b"\n")


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"null", b"{}", b'{"digest":1}', b"\xff", b"[" * 100_000, b'{"digest":NaN}']
)
def test_lines_that_are_no_entries_are_refused(line):
    refused(line + b"\n")


def test_heads_and_entries_read_back():
    lines, head = chain(2)
    assert Head.parse(str(head)) == head
    assert entry(lines[1])["seq"] == 2
    for text in ("", "5", "x:" + "0" * 64, "1:abc", "-1:" + "0" * 64, "²:" + "0" * 64):
        with pytest.raises(LogTampered):
            Head.parse(text)
    for line in ("", "[]", "{}", '{"seq":"x","digest":""}'):
        with pytest.raises(LogTampered):
            entry(line)


def test_verify_takes_lines_as_they_come():
    lines, head = chain(3)
    assert verify((line.encode() for line in lines), head) == head


def test_values_that_no_log_has_are_refused_and_no_crash():
    line, _ = entry_line(EMPTY, datetime(2026, 1, 1, tzinfo=UTC), "start", {})
    facts = json.loads(line)
    odd = json.dumps({**facts, "digest": "\ud800"}, sort_keys=True, separators=(",", ":"))
    with pytest.raises(LogTampered, match="was changed"):
        verify([odd.encode()], None)
    for text in ('{"seq":1e999,"digest":"x"}', "[" * 100_000):
        with pytest.raises(LogTampered, match="cannot be read"):
            entry(text)
    with pytest.raises(LogTampered, match="COUNT:DIGEST"):
        Head.parse("9" * 5000 + ":" + "0" * 64)
