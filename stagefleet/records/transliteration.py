"""The character table of slugs, from the container build tool that defined the records.

Both tools must find the same tags, so the table is fixed and does not follow today's Unicode.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping

from anyascii import anyascii

__all__ = ["SPELLING"]

_DASHES = "-_.,;:=+<>~&/()[]{} \uff3f\uff5e"

_RANGES = """
    B2-B3 B5 C0-F6 F8-181 184-185 187-18C 190-193 196-199 19C-1A1 1A4-1B2 1B5-1B7 1BC-1BD 1C4-1ED 1F0-1F5
    1F8-21B 21E-220 224-233 237-240 243-24F 251 257 260-262 26F 271 275-276 401 410-44F 451 1D00-1D07
    1D0A-1D0F 1E00-1E9A 1EA0-1EC7 1ECC-1EF9 2090-2093 2100-2106 2109-210F 2115 2117 2119-2122 2124 212A-212C
    212E-212F 2490-24EA A730-A73D FF21-FF3A FF3F FF41-FF5A FF5E
"""
"""Ranges of characters, besides ASCII, that are kept; hexadecimal."""

_EXCEPTIONS = """
    D7 x, DF b, F0 o, 130 l, 131 l, 138 k, 14A n, 14B n, 184 b, 185 b, 18B nd, 18C nd, 1A7 s, 1A8 s, 1A9 s,
    1AA t, 1B2 u, 1B7 z, 1BC q, 1BD q, 23E l, 245 v, 2104 c, 211E px, A736 aj, A737 aj, A73A af, A73B af,
    A73C af, A73D af, 415 ye, 435 ye, 401 yo, 451 yo, 419 j, 439 j, 425 h, 445 h, 426 c, 446 c
"""
"""Characters for which the table differs from anyascii."""


def _characters() -> Iterator[str]:
    for span in _RANGES.split():
        first, _, last = span.partition("-")
        yield from map(chr, range(int(first, 16), int(last or first, 16) + 1))


def _spell(character: str) -> str:
    return "".join(filter(str.isalnum, anyascii(character).lower()))


def _exceptions() -> Iterator[tuple[str, str]]:
    for entry in _EXCEPTIONS.split(","):
        code, spelling = entry.split()
        yield chr(int(code, 16)), spelling


SPELLING: Mapping[str, str] = {
    **{character: character.lower() for character in string.ascii_letters + string.digits},
    **{character: _spell(character) for character in _characters()},
    **dict(_exceptions()),
    **dict.fromkeys(_DASHES, "-"),
}
"""Lower-case letters and digits, or a dash, for each character; a character without an entry is dropped."""
