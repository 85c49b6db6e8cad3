"""What an analyst is wary of in a column: identifiers, codes, numbers that mean something else."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

IDENTIFIER_ENDS = frozenset(
    "id ids uuid guid key index idx nr nbr no num rownames rowid record number ssn mrn isbn iban vin imei".split()
)
"""Last words of a name that says: this tells rows or persons apart."""
PERSONAL = frozenset(
    "phone telephone tel mobile cell fax zip zipcode postcode postal plz postleitzahl surname lastname firstname "
    "forename fullname nachname vorname email mail address street strasse iban passport ssn mrn licence license "
    "username login ip url website".split()
)
"""Words of a name that says: this is a person, or leads to one."""
PERSONAL_PAIRS = frozenset(
    {("last", "name"), ("first", "name"), ("full", "name"), ("family", "name"), ("given", "name"), ("post", "code"),
     ("zip", "code"), ("postal", "code"), ("customer", "name"), ("patient", "name"), ("maiden", "name")}
)  # fmt: skip
CODE_ENDS = frozenset(
    "code cd type class category group zone region district ward dept department plan channel status".split()
)
"""Last words of a name whose numbers are names."""
MOST_CODES = 50
"""Numbers of an identifier or code that may still be a list of categories."""
LONG_NUMBER = 7
"""Digits from which a whole number that nearly never repeats is no quantity."""
EXPECTED_REPEATS = 10.0
"""Whole numbers without a single repeat are an identifier where chance alone would give so many."""
REPDIGITS = re.compile(r"^-?9{2,}(\.9*0*)?$|^-(1|9|99|100|200|500|888|1000|2000)$|^-?8{3,}$")
"""Numbers by which loggers and forms say `nothing was measured`."""
FEW_VALUES = 5
GAP = 0.1
"""Zeros are suspect where the least other value is this part of the median or more."""
_PHONE = re.compile(r"^(\+|00)[\d\s().\-/]{7,}$|^\(?0\d[\d\s().\-/]{7,}$|^\(?\d{3}\)?[\s.\-]\d{3}[\s.\-]\d{4}$")
_EMAIL = re.compile(r"^[^@\s]+@[^@\s]+\.[^@\s]+$")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def words_of(name: str) -> tuple[str, ...]:
    """The words of a column name, in lower case.

    Args:
        name: as the table has it.

    Examples:
        >>> words_of("patientId"), words_of("UNIQUE_ID"), words_of("full name")
        (('patient', 'id'), ('unique', 'id'), ('full', 'name'))
    """
    return tuple(word.lower() for word in _WORD.findall(name))


def names_a_person(name: str) -> bool:
    """Whether a column name says that its cells are a person, or lead to one: surname, phone, postcode.

    Args:
        name: of the column.
    """
    words = words_of(name)
    return bool(PERSONAL & set(words)) or any(pair in PERSONAL_PAIRS for pair in itertools.pairwise(words))


def names_an_identifier(name: str) -> bool:
    """Whether a column name ends like that of an identifier.

    Args:
        name: of the column.
    """
    words = words_of(name)
    return bool(words) and words[-1] in IDENTIFIER_ENDS


def names_a_code(name: str) -> bool:
    """Whether a column name ends like that of a code, whose numbers are names and have no order.

    Args:
        name: of the column.
    """
    words = words_of(name)
    return bool(words) and words[-1] in CODE_ENDS


def contact(counts: Mapping[str, int]) -> str:
    """`phone numbers` or `e-mail addresses` where most cells look like one, else empty.

    Args:
        counts: different cells and how often each comes.
    """
    total = sum(counts.values())
    for pattern, what in ((_PHONE, "phone numbers"), (_EMAIL, "e-mail addresses")):
        if sum(count for cell, count in counts.items() if pattern.match(cell)) > 0.8 * total:
            return what
    return ""


def has_leading_zeros(counts: Mapping[str, int]) -> bool:
    """Whether whole numbers are written with a zero in front: then they are names.

    Args:
        counts: different cells and how often each comes.
    """
    return any(len(cell) > 1 and cell[0] == "0" and cell.isdigit() for cell in counts)


def tells_rows_apart(values: npt.NDArray[np.float64]) -> str:
    """Why whole numbers look like a number that somebody gave to each row; empty where they do not.

    Args:
        values: shape (n,), finite.
    """
    different = len(np.unique(values))
    if len(values) < 10 or (values % 1).any() or different < 0.95 * len(values):
        return ""
    least, most, none_twice = values.min(), values.max(), different == len(values)
    if none_twice and most - least == len(values) - 1:
        return "an identifier: a different whole number in every row"
    digits = len(str(int(abs(most))))
    if least > 0 and digits >= LONG_NUMBER and len(str(int(least))) >= digits - 1:
        return f"an identifier: numbers of {digits} digits, {different} different ones in {len(values)} rows"
    # Draws from a range of M values repeat least when they are uniform: about n^2 / 2M times.
    chance = len(values) ** 2 / (2 * (most - least + 1))
    if none_twice and chance >= EXPECTED_REPEATS:
        return f"an identifier: no number comes twice, of so many about {chance:.0f} would by chance"
    return ""


def sentinels(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Numbers of a column that probably mean `missing`: -1 among counts, -200, 999, zeros where zero cannot be.

    A number is one when it repeats, stands at an end of the values, and is far from the others.

    Args:
        values: shape (n,), finite.

    Returns:
        Sorted; empty where nothing looks like one.
    """
    found: list[float] = []
    while True:
        rest = values[~np.isin(values, found)]
        suspect = _suspect_end(rest, len(values))
        if suspect is None:
            return tuple(sorted(found))
        found.append(suspect)


def _suspect_end(values: npt.NDArray[np.float64], rows: int) -> float | None:
    levels = np.unique(values)
    if len(levels) <= FEW_VALUES:
        return None
    for end, others in ((levels[0], levels[1:]), (levels[-1], levels[:-1])):
        often = int((values == end).sum()) >= max(3, round(0.002 * rows))
        if often and _stands_alone(float(end), others, values):
            return float(end)
    return None


def _stands_alone(end: float, others: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> bool:
    body = values[values != end]
    gap = float(np.abs(others - end).min())
    if end == 0.0:
        # A count starts with 1, a measure of something that is there does not.
        return bool(len(others) > 2 * FEW_VALUES and others[0] >= 2.0 and others[0] >= GAP * float(np.median(body)))
    if REPDIGITS.match(f"{end:.15g}") is None or gap < 1.0:
        return False
    low, high = np.quantile(body, [0.005, 0.995])
    return bool(end < 0.0 <= others[0] or gap > max(0.5 * (high - low), 1.0))
