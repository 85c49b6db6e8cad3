"""Text from the other side: what of it may be shown, logged and kept, and what may be the name of a device.

A terminal obeys control characters, a page obeys marks of text direction, a log grows by what is written into it. So
every text that somebody else chose goes through here on its way in, and nothing behind this place cuts or cleans again.
"""

from __future__ import annotations

import re

STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal or a page obeys instead of showing: control, line separators, text direction, halves."""
LONGEST_NAME = 64
"""Characters of a device's name."""
NAME_RULE = f"a device's name is 1 to {LONGEST_NAME} printable ASCII characters"


def shown(text: str, most: int) -> str:
    r"""The beginning of a text, with a space for every character that is no letter, mark, digit, sign or space.

    Args:
        text: any text.
        most: characters of it that are kept, >= 0.

    Returns:
        At most `most` characters, each printable in the sense of Unicode: no control or format characters (ESC, line
        ends, text direction, zero width), no separators but the space, nothing unassigned, no half of a pair.

    >>> shown("gone\x1b[2J\n\u202e", 8)
    'gone [2J'
    """
    return "".join(character if character.isprintable() else " " for character in text[:most])


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: not with half of a surrogate pair, which JSON and Python can hold.

    Args:
        text: any text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_device_name(text: str) -> bool:
    """Tell whether a text may be the name of a device: the one rule of enrolment, sessions and rollouts (`NAME_RULE`).

    ASCII, because two names that look alike are two devices; short, because every cohort is a list of names.

    Args:
        text: any text.
    """
    return 1 <= len(text) <= LONGEST_NAME and text.isascii() and text.isprintable()
