"""Record identities, parsed from tags by a strict grammar.

A tag that does not match the grammar, or not in its canonical form, is unknown, and never modified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from stagefleet.errors import InvalidNameError
from stagefleet.names import StageId, is_tag
from stagefleet.records.image import rejected_stage
from stagefleet.records.slug import NAMELESS, decode_name, encode_name, limited_slug
from stagefleet.redaction import quoted

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

    Attributes:
        kind: The kind of record.
        name: The record's name within its kind, as commands and outcomes show it; "" for the image without
            a name.
    """

    kind: RecordKind
    name: str

    @classmethod
    def of(cls, kind: RecordKind, name: str) -> Self:
        """Build the identity of a record from its kind and name.

        Args:
            kind: The kind.
            name: An image's name; image hash, commit and stage; an import's id; a custom tag or its slug; a
                stage id; a client's id and time. For a kind with a single record, "" or its tag.

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
                return cls._checked(kind, tag, tag.removeprefix(prefix))
        return None

    @classmethod
    def _checked(cls, kind: RecordKind, tag: str, name: str) -> Self | None:
        try:
            found = cls.of(kind, decode_name(name) if kind is RecordKind.MANAGED_IMAGE else name)
        except InvalidNameError:
            return None
        return found if found.tag == tag else None

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
#
# A tag that does not match the grammar is unknown, and never modified.

_IMAGE_METADATA_TAG = re.compile(r"meta-[a-f0-9]{1,8}_[a-f0-9]{40,64}_[a-f0-9]{56}(?:-[0-9]{1,19})?")
_IMPORT_METADATA = re.compile(r"import-metadata-[a-f0-9]{32,64}")


def is_record_tag(tag: str) -> bool:
    """Return True for the tag of a rejection, of image metadata or of import metadata."""
    return (
        rejected_stage(tag) is not None
        or _IMAGE_METADATA_TAG.fullmatch(tag) is not None
        or _IMPORT_METADATA.fullmatch(tag) is not None
    )
