"""Spellings that a person reads as one: `Fully Paid` and `FULLY PAID`, `Sí` and `si`, found in an unprepared table.

Only texts that may be written into a scenario are looked at: labels, and categories that many rows and several devices
have. A rare spelling may be what tells somebody apart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from fedinfer.reading import MISSING_TEXT, ReadingRules, alike, one_spelling

SHORT_FORMS = (
    (("yes", "y"), ("no", "n")),
    (("true", "t"), ("false", "f")),
    (("ja", "j"), ("nein", "n")),
    (("oui", "o"), ("non", "n")),
    (("s\u00ed", "s"), ("no", "n")),
)
"""Yes and no with their first letters, language by language."""
MOST_SHOWN = 3
"""Groups in one note."""


def one_spelled(cells: Sequence[str], rules: ReadingRules) -> list[str]:
    """Cells with one spelling for each of the texts that the rules take for the same.

    Args:
        cells: of one column.
        rules: with `same_text`.

    Examples:
        >>> one_spelled(["yes", "Yes", "yes", "maybe"], ReadingRules())
        ['yes', 'yes', 'yes', 'maybe']
    """
    words = {text.casefold() for group in rules.same_text for text in group}
    counts = {cell: count for cell, count in Counter(cells).items() if cell.casefold() in words}
    changed = {cell: name for cell, name in one_spelling(counts, rules).items() if cell != name}
    return [changed.get(cell, cell) for cell in cells] if changed else list(cells)


def with_spellings(rules: ReadingRules, columns: Iterable[Iterable[str]]) -> ReadingRules:
    """The rules with what is spelled in several ways in some column.

    Args:
        rules: of the table.
        columns: different texts of each column that may be written down.
    """
    present = [set(texts) - set(MISSING_TEXT) for texts in columns]
    found = {group for texts in present for group in (*alike(texts, rules.same_text), *shortened(texts))}
    # A text is of one group only: a wider group stands for a narrower one, and "n" is no or nein.
    new: tuple[tuple[str, ...], ...] = ()
    for group in sorted(found, key=lambda group: (-len(group), group)):
        new += () if any(set(group) & set(other) for other in new) else (group,)
    new = tuple(sorted(new))
    kept = tuple(group for group in rules.same_text if not any(set(group) <= set(other) for other in new))
    return replace(rules, same_text=(*kept, *new))


def shortened(texts: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Words of yes and no that stand in a column beside their first letter, where it holds nothing else.

    Args:
        texts: different cells of one column.

    Examples:
        >>> shortened({"Yes", "Y", "no"}), shortened({"yes", "Y", "maybe"}), shortened({"Y", "N"})
        ((('yes', 'y'),), (), ())
    """
    words = {text.casefold() for text in texts}
    for language in SHORT_FORMS:
        if words <= {word for pair in language for word in pair}:
            return tuple(pair for pair in language if words >= set(pair))
    return ()


def spelling_notes(rules: ReadingRules, before: ReadingRules) -> list[str]:
    """What was taken for the same text.

    Args:
        rules: with the spellings.
        before: without.
    """
    new = [group for group in rules.same_text if group not in before.same_text]
    if not new:
        return []
    shown = ", ".join(" = ".join(map(repr, group)) for group in new[:MOST_SHOWN])
    more = f" and {len(new) - MOST_SHOWN} more" if len(new) > MOST_SHOWN else ""
    return [f"Spelled in several ways and taken for the same, in any case: {shown}{more}. It stands in same_text."]


def spelling_lines(rules: ReadingRules) -> list[str]:
    """The line of [data] about spellings; none where it says nothing new.

    Args:
        rules: of the table.
    """
    if rules.same_text == ReadingRules().same_text:
        return []
    listed = json.dumps(rules.same_text, ensure_ascii=False)
    return [f"same_text = {listed} # the same in any case of letters"]
