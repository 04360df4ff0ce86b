"""Slugs: names made fit for a tag, with a hash that keeps different names apart.

The rules are those of the container build tool that started the records, quirks included.
"""

from __future__ import annotations

import re

import mmh3

from stagefleet.names import is_tag
from stagefleet.records.alphabet import SPELLING

__all__ = ["limited_slug", "murmur_hash", "tag_slug"]

_MAX_TAG_BYTES = 128
_DASHES = re.compile("-+")


def murmur_hash(text: str) -> str:
    """MurmurHash3 (x86, 32 bits, seed 0) in lower-case hexadecimal, without leading zeros.

    >>> murmur_hash("")
    '0'
    """
    # A file name's bytes that are no UTF-8 reach us as lone surrogates: they are hashed, not refused.
    return f"{mmh3.hash(text.encode(errors='surrogatepass'), 0, signed=False):x}"


def limited_slug(text: str, limit_bytes: int) -> str:
    """The slug of a name; one that is a slug already, and short enough, stays as it is.

    What is cut and hashed may hold `--` in front of the hash; so that it stays as it is too, a name with one
    `--` counts as a slug.

    Args:
        text: The name.
        limit_bytes: How long the slug may be; slugs are ASCII.

    >>> limited_slug("A", 42)
    'a-54dcf7ce'
    """
    if not text or _is_slug(text, limit_bytes):
        return text
    # The build tool drops the last character of a cut slug that begins with a dash; no slug does.
    return _with_hash(_slug(text), murmur_hash(text), limit_bytes)


def tag_slug(text: str) -> str:
    """The name itself where it can be a tag, else its slug.

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
