"""The place and kind of the records that a command selects."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import stagefleet
from stagefleet.cli.options import NO_REPOSITORY
from stagefleet.errors import UsageError
from stagefleet.names import Repository, StageId, StorageAddress, parse_address
from stagefleet.records import models
from stagefleet.records.ids import RecordKind
from stagefleet.redaction import quoted


@dataclass(frozen=True, slots=True)
class RecordArguments:
    """The arguments of a command on records: `[REPO] [KIND [WORD...]]`.

    Without an address, the primary storage of a project is meant. The other arguments are ids, or values.
    """

    address: StorageAddress | None
    named_kind: RecordKind | None
    rest: tuple[str, ...]

    @classmethod
    def read(cls, words: Sequence[str], project: str | None) -> RecordArguments:
        """Parse the arguments; with a project, the first may be the kind."""
        first, *others = words or ("",)
        if project is not None and (not first or first in set(RecordKind)):
            return cls(None, RecordKind(first) if first else None, tuple(others))
        if not first:
            raise UsageError(NO_REPOSITORY)
        address = parse_address(first)
        return cls(address, _parse_kind(others[0]) if others else None, tuple(others[1:]))

    @property
    def kind(self) -> RecordKind:
        """The kind of the records."""
        if self.named_kind is None:
            raise UsageError(f"Missing argument 'KIND': write one of {', '.join(RecordKind)}")
        return self.named_kind

    def resolve(self, fleet: stagefleet.Fleet, project: str | None) -> StorageAddress:
        """Return the storage of the records: the address, or the primary storage of the project."""
        if project is None:
            assert self.address is not None
            return self.address
        if self.address is not None:
            raise UsageError(f"--project says where the records are: leave out {self.address}")
        return fleet.project(project).storages.primary


def final_of(fleet: stagefleet.Fleet, project: str | None) -> Repository | None:
    """Return the final storage of a project, which has its custom tags; None if the primary has them."""
    return None if project is None else fleet.project(project).storages.final


def _parse_kind(word: str) -> RecordKind:
    try:
        return RecordKind(word)
    except ValueError:
        kinds = ", ".join(RecordKind)
        raise UsageError(f"{quoted(word)} is no kind of record: write one of {kinds}") from None


# Records from the arguments of `stagefleet records add`.


class _RecordSyntax(NamedTuple):
    """The values of one kind of record: the required ones, and the optional ones after them."""

    needed: str
    optional: str
    build: Callable[..., models.Record]


def _moment_ms(text: str | None) -> int:
    """Parse a time in milliseconds since 1970; now if None."""
    if text is None:
        return time.time_ns() // 1_000_000
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # noqa: PLR2004 - in 64 bits
        raise UsageError(f"{quoted(text, limit=40)} is no time: write milliseconds since 1970")
    return int(text)


def _client_id(client_id: str, timestamp: str | None = None) -> models.ClientId:
    """Build a client id created now, or at a time as in the tag of a record."""
    if timestamp is None:
        return models.ClientId.chosen_at(client_id, _moment_ms(None))
    return models.ClientId(client_id, _moment_ms(timestamp))


_SYNTAXES: Mapping[RecordKind, _RecordSyntax] = {
    RecordKind.MANAGED_IMAGE: _RecordSyntax("", "NAME", lambda name="": models.ManagedImage(name)),
    RecordKind.IMAGE_METADATA: _RecordSyntax(
        "IMAGE COMMIT STAGE_ID",
        "",
        lambda image, commit, stage_id: models.ImageMetadata.of_image(image, commit, StageId.parse(stage_id)),
    ),
    RecordKind.IMPORT_METADATA: _RecordSyntax("ID SOURCE_STAGE_ID CHECKSUM", "", models.ImportMetadata),
    RecordKind.CUSTOM_TAG: _RecordSyntax(
        "TAG STAGE_ID", "", lambda tag, stage_id: models.CustomTag(tag, StageId.parse(stage_id))
    ),
    RecordKind.REJECTED_STAGE: _RecordSyntax(
        "STAGE_ID", "", lambda stage_id: models.RejectedStage(StageId.parse(stage_id))
    ),
    RecordKind.CLIENT_ID: _RecordSyntax("ID", "TIMESTAMP_MS", _client_id),
    RecordKind.LAST_CLEANUP: _RecordSyntax(
        "", "TIMESTAMP_MS", lambda moment=None: models.LastCleanup(_moment_ms(moment))
    ),
    RecordKind.LOCK_SERVER: _RecordSyntax(
        "ADDRESS", "TIMESTAMP_MS", lambda address, moment=None: models.LockServer(address, _moment_ms(moment))
    ),
}


def add_record(
    fleet: stagefleet.Fleet,
    address: StorageAddress,
    kind: RecordKind,
    values: Sequence[str],
    *,
    project: str | None,
    final: Repository | None,
    force: bool,
) -> dict[str, Any]:
    """Write a record built from command line values.

    `final` is the storage of a custom tag, if it is not `address`. With `force` it is written even if the
    same is there.

    Returns:
        The record as JSON, with the result in `state`: `written`, `present`, `forbidden` or `ignored`.
    """
    record = _build(kind, values)
    if isinstance(record, models.CustomTag):
        written = fleet.records.add_custom_tag(
            address, record.name, record.stage_id, project=project, final=final
        )
    else:
        written = fleet.records.write(address, record, project=project, force=force)
    return {**record.as_json(), "state": str(written)}


def _build(kind: RecordKind, values: Sequence[str]) -> models.Record:
    form = _SYNTAXES[kind]
    needed, optional = form.needed.split(), form.optional.split()
    if not len(needed) <= len(values) <= len(needed) + len(optional):
        usage = " ".join([*needed, *(f"[{name}]" for name in optional)])
        raise UsageError(f"records add REPO {kind} takes {usage}, and {len(values)} values were given")
    return form.build(*values)
