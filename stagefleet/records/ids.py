"""Record identities, parsed from tags by a strict grammar, and the slugs in these tags.

A tag that does not match the grammar, or not in its canonical form, is unknown, and never modified.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Self

import mmh3
from anyascii import anyascii

from stagefleet.errors import InvalidNameError, UsageError
from stagefleet.names import StageId, is_tag
from stagefleet.records.image import rejected_stage
from stagefleet.redaction import quoted

# Slugs: names converted to valid tags, with a hash that keeps different names distinct.
#
# The rules, quirks included, are those of the container build tool that defined the records.

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
    """Convert a name to a slug, ASCII of at most so many bytes; a short enough slug stays unchanged.

    A shortened slug may contain `--` before the hash; so that it stays unchanged too, a name with one `--`
    counts as a slug.

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
    return _DASHES.sub("-", "".join(spelling().get(character, "") for character in text)).strip("-")


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


@cache
def spelling() -> Mapping[str, str]:
    """Return lower-case letters and digits, or a dash, for each character; others are dropped."""
    return {
        **{character: character.lower() for character in string.ascii_letters + string.digits},
        **{character: _spell(character) for character in _characters()},
        **{chr(int(code, 16)): spelt for code, spelt in map(str.split, _EXCEPTIONS.split(","))},
        **dict.fromkeys(_SPELT_AS_DASHES, "-"),
    }


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


CLEANUP_TAG = "cleanup"
LOCK_SERVER_TAG = "sync-server"

_CUSTOM_TAG_BYTES = 48
_IMAGE_METADATA = re.compile(r"(0|[1-9a-f][0-9a-f]{0,7})_([0-9a-f]{40}|[0-9a-f]{64})_([0-9a-f-]{56,})")
_CLIENT_ID = re.compile(r".+-(?:0|[1-9][0-9]{0,18})")


class RecordKind(StrEnum):
    """The subject of a record."""

    MANAGED_IMAGE = "managed-image"
    IMAGE_METADATA = "image-metadata"
    IMPORT_METADATA = "import-metadata"
    CUSTOM_TAG = "custom-tag"
    REJECTED_STAGE = "rejected-stage"
    CLIENT_ID = "client-id"
    LAST_CLEANUP = "last-cleanup"
    LOCK_SERVER = "lock-server"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a kind as people write it; `UsageError` if there is none of that name."""
        try:
            return cls(text)
        except ValueError:
            raise UsageError(f"{quoted(text)} is no kind of record: write one of {', '.join(cls)}") from None


_PREFIXES: Mapping[RecordKind, str] = {
    RecordKind.MANAGED_IMAGE: "managed-image-",
    RecordKind.IMAGE_METADATA: "meta-",
    RecordKind.IMPORT_METADATA: "import-metadata-",
    RecordKind.CUSTOM_TAG: "custom-tag-meta-",
    RecordKind.CLIENT_ID: "client-id-",
}
_SINGLES: Mapping[RecordKind, str] = {
    RecordKind.LAST_CLEANUP: CLEANUP_TAG,
    RecordKind.LOCK_SERVER: LOCK_SERVER_TAG,
}
_GRAMMARS: Mapping[RecordKind, str] = {
    RecordKind.MANAGED_IMAGE: "the image's name, short enough for a tag",
    RecordKind.IMAGE_METADATA: "IMAGEHASH_COMMIT_STAGEID, the commit in full, short enough for a tag",
    RecordKind.IMPORT_METADATA: "letters, digits, _ . and -, short enough for a tag",
    RecordKind.CUSTOM_TAG: "a tag that is neither a stage's nor a record's",
    RecordKind.REJECTED_STAGE: "the stage's id",
    RecordKind.CLIENT_ID: "ID-TIMESTAMP_MS, short enough for a tag",
    RecordKind.LAST_CLEANUP: f"nothing, or {CLEANUP_TAG}",
    RecordKind.LOCK_SERVER: f"nothing, or {LOCK_SERVER_TAG}",
}


@dataclass(frozen=True, slots=True, order=True)
class RecordId:
    """The identity of a record in a repository.

    The name is unique within the kind, as commands and outcomes show it; "" for the image without a name.
    """

    kind: RecordKind
    name: str

    @classmethod
    def of(cls, kind: RecordKind, name: str) -> Self:
        """Build the identity of a record from its kind and name.

        The name is an image's; image hash, commit and stage; an import's id; a custom tag or its slug; a
        stage id; a client's id and time. For a kind with a single record, it is "" or its tag.

        Raises:
            InvalidNameError: No such record can exist.
        """
        found = cls(kind, _canonical(kind, name))
        if not is_tag(found.tag) or not _is_sound(found):
            raise InvalidNameError(f"{quoted(name)} names no {kind} record: write {_GRAMMARS[kind]}")
        return found

    @classmethod
    def from_tag(cls, tag: str) -> Self | None:
        """Parse a tag; return None if it is not the tag of a record."""
        stage_id = rejected_stage(tag)
        if stage_id is not None:
            return cls(RecordKind.REJECTED_STAGE, str(stage_id))
        for kind, single in _SINGLES.items():
            if tag == single:
                return cls(kind, single)
        for kind, prefix in _PREFIXES.items():
            if tag.startswith(prefix):
                name = tag.removeprefix(prefix)
                with suppress(InvalidNameError):
                    found = cls.of(kind, decode_name(name) if kind is RecordKind.MANAGED_IMAGE else name)
                    return found if found.tag == tag else None
        return None

    @property
    def tag(self) -> str:
        """The record's tag."""
        match self.kind:
            case RecordKind.MANAGED_IMAGE:
                return _PREFIXES[self.kind] + encode_name(self.name)
            case RecordKind.REJECTED_STAGE:
                return StageId.parse(self.name).rejected_tag
            case RecordKind.LAST_CLEANUP | RecordKind.LOCK_SERVER:
                return _SINGLES[self.kind]
            case _:
                return _PREFIXES[self.kind] + self.name

    @property
    def item(self) -> str:
        """The name as runs and commands show it; never empty."""
        return self.name or NAMELESS

    def __str__(self) -> str:
        return f"{self.kind} {self.item}"


def _canonical(kind: RecordKind, name: str) -> str:
    """Return the canonical form of a name: the one that its tag parses to."""
    match kind:
        case RecordKind.MANAGED_IMAGE:
            return decode_name(encode_name(name))
        case RecordKind.CUSTOM_TAG:
            return limited_slug(name, _CUSTOM_TAG_BYTES)
        case RecordKind.REJECTED_STAGE:
            return str(StageId.parse(name))
        case RecordKind.LAST_CLEANUP | RecordKind.LOCK_SERVER:
            return name or _SINGLES[kind]
        case _:
            return name


def _is_sound(record: RecordId) -> bool:
    name = record.name
    match record.kind:
        case RecordKind.IMAGE_METADATA:
            match = _IMAGE_METADATA.fullmatch(name)
            return match is not None and StageId.from_tag(match[3]) is not None
        case RecordKind.CLIENT_ID:
            return _CLIENT_ID.fullmatch(name) is not None
        case RecordKind.LAST_CLEANUP | RecordKind.LOCK_SERVER:
            return name == _SINGLES[record.kind]
        case RecordKind.MANAGED_IMAGE | RecordKind.REJECTED_STAGE:
            return True
        case _:
            return bool(name)


# Quick recognition of the tags of frequent records.

_IMAGE_METADATA_TAG = re.compile(r"meta-[a-f0-9]{1,8}_[a-f0-9]{40,64}_[a-f0-9]{56}(?:-[0-9]{1,19})?")
_IMPORT_METADATA = re.compile(r"import-metadata-[a-f0-9]{32,64}")


def is_record_tag(tag: str) -> bool:
    """Return True for the tag of a rejection, of image metadata or of import metadata."""
    return (
        rejected_stage(tag) is not None
        or _IMAGE_METADATA_TAG.fullmatch(tag) is not None
        or _IMPORT_METADATA.fullmatch(tag) is not None
    )
