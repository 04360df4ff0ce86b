"""Slugs: names converted to valid tags, with a hash that keeps different names distinct.

The rules, quirks included, are those of the container build tool that defined the records.
"""

from __future__ import annotations

import re

import mmh3

from stagefleet.names import is_tag
from stagefleet.records.transliteration import SPELLING

__all__ = ["limited_slug", "murmur_hash", "tag_slug"]

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
