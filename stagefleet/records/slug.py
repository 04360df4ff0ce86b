"""Slugs: names converted to valid tags, with a hash that keeps different names distinct.

The rules, quirks included, are those of the container build tool that defined the records.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping

import mmh3
from anyascii import anyascii

from stagefleet.names import is_tag

_MAX_TAG_BYTES = 128
_DASHES = re.compile("-+")


def murmur_hash(text: str) -> str:
    """Compute MurmurHash3 (x86, 32 bits, seed 0) in lower-case hexadecimal, without leading zeros.

    >>> murmur_hash("")
    '0'
    """
    # Python reads bytes of a file name that are not UTF-8 as lone surrogates: hash them, too.
    return f"{mmh3.hash(text.encode(errors='surrogatepass'), 0, signed=False):x}"


def limited_slug(text: str, limit_bytes: int) -> str:
    """Convert a name to a slug; a short enough slug stays unchanged.

    A shortened slug may contain `--` before the hash; so that it stays unchanged too, a name with one
    `--` counts as a slug.

    Args:
        text: The name.
        limit_bytes: The maximum length of the slug; slugs are ASCII.

    >>> limited_slug("A", 42)
    'a-54dcf7ce'
    """
    if not text or _is_slug(text, limit_bytes):
        return text
    # The build tool drops the last character of a shortened slug with a leading dash; no slug has one.
    return _with_hash(_slug(text), murmur_hash(text), limit_bytes)


def tag_slug(text: str) -> str:
    """Return the name itself if it is a valid tag, else its slug.

    >>> tag_slug("da/ta")
    'da-ta-afa96f8'
    """
    return text if not text or is_tag(text) else _with_hash(_slug(text), murmur_hash(text), _MAX_TAG_BYTES)


def _slug(text: str) -> str:
    return _DASHES.sub("-", "".join(SPELLING.get(character, "") for character in text)).strip("-")


def _is_slug(text: str, limit_bytes: int) -> bool:
    if len(text) > limit_bytes:
        return False
    readings = [text, text.replace("--", "-")] if text.count("--") == 1 else [text]
    return any(_slug(reading) == reading for reading in readings)


def _with_hash(slug: str, hashed: str, limit_bytes: int) -> str:
    cut = slug[: limit_bytes - 1 - len(hashed)]
    return f"{cut}-{hashed}" if cut else hashed


# The character table of slugs, from the container build tool that defined the records.
#
# Both tools must find the same tags, so the table is fixed and does not follow today's Unicode.

_SPELT_AS_DASHES = "-_.,;:=+<>~&/()[]{} \uff3f\uff5e"

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
    **dict.fromkeys(_SPELT_AS_DASHES, "-"),
}
"""Lower-case letters and digits, or a dash, for each character; a character without an entry is dropped."""


# Image names in the tags of records.

NAMELESS = "__nameless__"
"""The encoded name of the image without a name."""

_LIMIT_BYTES = 128 - len("managed-image-")
_REPLACEMENTS = {" ": "__space__", "/": "__slash__", "+": "__plus__"}


def encode_name(name: str) -> str:
    """Encode an image's name for a tag; a name that cannot be a tag becomes a slug."""
    encoded = name or NAMELESS
    for character, replacement in _REPLACEMENTS.items():
        encoded = encoded.replace(character, replacement)
    return encoded if is_tag(encoded) else limited_slug(encoded, _LIMIT_BYTES)


def decode_name(encoded: str) -> str:
    """Decode an image's name; a slug stays a slug."""
    if encoded == NAMELESS:
        return ""
    name = encoded
    for character, replacement in _REPLACEMENTS.items():
        name = name.replace(replacement, character)
    return name


def image_hash(name: str) -> str:
    """Return the hash of an image's name for the tags of its metadata: of the name encoded and decoded."""
    return murmur_hash(decode_name(encode_name(name)))
