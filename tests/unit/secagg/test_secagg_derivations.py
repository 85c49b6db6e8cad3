"""The table of derivations: what each row binds, shown by what changes when a value changes; docs say the same."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fedinfer.secagg import IdentityKey, Stage, derivations
from fedinfer.secagg.derivations import DERIVATIONS, Label, Scope, Secret, bind
from fedinfer.secagg.keys import statement_bytes
from fedinfer.system import SimulatedEntropy

PAGE = Path(__file__).parents[3] / "docs" / "secure-aggregation.md"


def scope(at):
    return Scope(at["session id"], at["key list hash"], at["cohort"])


def signature(at):
    key = IdentityKey(at["signing key"])
    return key.sign(statement_bytes(Stage(at["stage"]), at["device's name"], at["context"], at["SHA-256 of the body"]))


COMPUTE = {
    Label.SESSION: lambda at: derivations.session_id(at["session"]),
    Label.COMMITMENT: lambda at: derivations.commitment(
        at["session id"], at["one"], at["cohort"][at["one"]], at["self-mask secret"]
    ),
    Label.KEY_LIST: lambda at: derivations.key_list_hash(at["session id"], at["key list"]),
    Label.SHARERS: lambda at: derivations.sharers_hash(at["session id"], at["key list hash"], at["sharers"]),
    Label.SELF_MASK: lambda at: derivations.self_mask_seed(
        at["self-mask secret"], scope(at), at["sharers hash"], at["one"]
    ),
    Label.PAIR_MASK: lambda at: derivations.pair_mask_seed(
        at["X25519 of mask keys"], scope(at), at["sharers hash"], at["one"], at["other"]
    ),
    Label.BOX: lambda at: derivations.box_key(at["X25519 of box keys"], scope(at), at["one"], at["other"]),
    Label.TAG_KEY: lambda at: derivations.tag_key(at["X25519 of box keys"], scope(at), at["one"], at["other"]),
    Label.TAG: lambda at: derivations.tag(
        at["acknowledgement key"], scope(at), at["sharers hash"], at["one"], at["other"]
    ),
    Label.SHARE: lambda at: derivations.share_digest(
        scope(at), at["one"], at["other"], Secret(at["which secret"]), at["share"]
    ),
    Label.STATEMENT: signature,
}
VALUES = {
    "session": b"session", "session id": b"i" * 32, "self-mask secret": b"s" * 32, "key list": b"list",
    "key list hash": b"l" * 32, "sharers": b"\x07", "sharers hash": b"u" * 32, "X25519 of mask keys": b"x" * 32,
    "X25519 of box keys": b"y" * 32, "acknowledgement key": b"z" * 32, "which secret": "mask key", "share": b"h" * 34,
    "stage": "masked", "device's name": "a", "context": b"c" * 32, "SHA-256 of the body": b"b",
    "signing key": b"k" * 32, "cohort": ("a", "b", "c"), "one": 0, "other": 1,
}  # fmt: skip
PARTIES = {
    "device": ({"one": 1}, {"cohort": ("A", "b", "c")}),
    "who adds": ({"one": 2}, {"cohort": ("A", "b", "c")}),
    "who subtracts": ({"other": 2}, {"cohort": ("a", "B", "c")}),
    "dealer": ({"one": 2}, {"cohort": ("A", "b", "c")}),
    "holder": ({"other": 2}, {"cohort": ("a", "B", "c")}),
}
OTHER = {"which secret": "self-mask secret", "stage": "shares", "device's name": "b"}


def changes(name):
    """Other values for one entry of a row; of a device its position and its name apart."""
    if name in PARTIES:
        return PARTIES[name]
    value = VALUES[name]
    return ({name: OTHER.get(name) or bytes([value[0] ^ 1]) + value[1:]},)


@pytest.mark.parametrize("row", DERIVATIONS, ids=lambda row: row.label)
def test_each_row_changes_with_everything_it_binds_and_with_nothing_else(row):
    compute = COMPUTE[row.label]
    before, bound = compute(VALUES), [*row.binds, *([row.secret] if row.secret else [])]
    seen = {before}
    for name in bound:
        for change in changes(name):
            after = compute(VALUES | change)
            assert after not in seen, (row.label, change)
            seen.add(after)
    for name in set(VALUES) - set(bound) - {"cohort", "one", "other"}:
        assert compute(VALUES | changes(name)[0]) == before, (row.label, name)


def test_every_row_is_in_the_table_once():
    assert [row.label for row in DERIVATIONS] == list(Label)
    assert set(COMPUTE) == set(Label)


@pytest.mark.parametrize("label", [Label.BOX, Label.TAG_KEY, Label.TAG, Label.SHARE])
def test_the_direction_between_dealer_and_holder_is_bound(label):
    assert COMPUTE[label](VALUES) != COMPUTE[label](VALUES | {"one": 1, "other": 0})


def test_both_sides_of_a_pair_find_one_seed_and_no_two_pairs_do():
    """Also where all devices have one secret with each other, which is what a copied key amounts to."""
    wide = VALUES | {"cohort": tuple("abcdefg")}
    seeds = {}
    for one, other in itertools.permutations(range(7), 2):
        seeds.setdefault(frozenset((one, other)), set()).add(
            COMPUTE[Label.PAIR_MASK](wide | {"one": one, "other": other})
        )
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set().union(*seeds.values())) == 21


def test_no_two_rows_share_an_input():
    """Every part has its length before it, so values cannot run into each other or into a label."""
    inputs = [bind(row.label, *([b"same"] * len(row.binds))) for row in DERIVATIONS]
    assert len(set(inputs)) == len(inputs)
    assert bind(Label.KEY_LIST, b"ab", b"c") != bind(Label.KEY_LIST, b"a", b"bc")
    with pytest.raises(ValueError, match="binds 2 values, got 1"):
        bind(Label.KEY_LIST, b"ab")
    taken = SimulatedEntropy("x").take(32)
    assert derivations.box_key(taken, scope(VALUES), 0, 1) != derivations.tag_key(taken, scope(VALUES), 0, 1)


def test_the_page_has_the_same_table():
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    table = {cells[0].strip("`"): cells[1:] for cells in lines if cells[0].strip("`") in set(Label)}
    assert set(table) == set(Label)
    for row in DERIVATIONS:
        function, secret, binds = table[row.label]
        assert (function, secret, binds) == (row.function, row.secret or "none", ", ".join(row.binds))
