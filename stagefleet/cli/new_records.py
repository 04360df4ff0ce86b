"""From the values of `stagefleet records add` to a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from stagefleet.client import Fleet
from stagefleet.errors import UsageError
from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.records import (
    ClientId,
    CustomTag,
    ImageMetadata,
    ImportMetadata,
    LastCleanup,
    LockServer,
    ManagedImage,
    Record,
    RecordKind,
    RejectedStage,
)
from stagefleet.redaction import quoted

__all__ = ["add_record"]


class _Form(NamedTuple):
    """How a record is written on the command line.

    Attributes:
        needed: The values that have to be given.
        optional: Those that may follow.
        build: Makes the record of them.
    """

    needed: str
    optional: str
    build: Callable[..., Record]


def _moment_ms(text: str | None) -> int:
    """A time in milliseconds since 1970; now if none is given."""
    if text is None:
        return time.time_ns() // 1_000_000
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # noqa: PLR2004 - in 64 bits
        raise UsageError(f"{quoted(text, limit=40)} is no time: write milliseconds since 1970")
    return int(text)


def _client_id(client_id: str, timestamp: str | None = None) -> ClientId:
    """A client id that is chosen now, or one with a time as the tag of a record has it."""
    if timestamp is None:
        return ClientId.chosen_at(client_id, _moment_ms(None))
    return ClientId(client_id, _moment_ms(timestamp))


_FORMS: Mapping[RecordKind, _Form] = {
    RecordKind.MANAGED_IMAGE: _Form("", "NAME", lambda name="": ManagedImage(name)),
    RecordKind.IMAGE_METADATA: _Form(
        "IMAGE COMMIT STAGE_ID",
        "",
        lambda image, commit, stage_id: ImageMetadata.of_image(image, commit, StageId.parse(stage_id)),
    ),
    RecordKind.IMPORT_METADATA: _Form("ID SOURCE_STAGE_ID CHECKSUM", "", ImportMetadata),
    RecordKind.CUSTOM_TAG: _Form(
        "TAG STAGE_ID", "", lambda tag, stage_id: CustomTag(tag, StageId.parse(stage_id))
    ),
    RecordKind.REJECTED_STAGE: _Form("STAGE_ID", "", lambda stage_id: RejectedStage(StageId.parse(stage_id))),
    RecordKind.CLIENT_ID: _Form("ID", "TIMESTAMP_MS", _client_id),
    RecordKind.LAST_CLEANUP: _Form("", "TIMESTAMP_MS", lambda moment=None: LastCleanup(_moment_ms(moment))),
    RecordKind.LOCK_SERVER: _Form(
        "ADDRESS", "TIMESTAMP_MS", lambda address, moment=None: LockServer(address, _moment_ms(moment))
    ),
}


def add_record(
    fleet: Fleet,
    place: Repository | DockerDaemon,
    kind: RecordKind,
    values: Sequence[str],
    *,
    project: str | None,
    final: Repository | None,
    force: bool,
) -> dict[str, Any]:
    """Write the record that some values make.

    Args:
        fleet: Writes it.
        place: Where.
        kind: Of which kind.
        values: What it says.
        project: Whose it is.
        final: Where a custom tag itself goes, if not there.
        force: Write again what is there.

    Returns:
        The record as JSON, and in `state` what became of it: `written`, `present`, `forbidden` or
        `ignored`.

    Raises:
        UsageError: The values are too few, too many or malformed, or it is a client id and there is one.
    """
    record = _build(kind, values)
    if isinstance(record, CustomTag):
        written = fleet.add_stage_custom_tag(
            place, record.name, record.stage_id, project=project, final=final
        )
    else:
        written = fleet.write_record(place, record, project=project, force=force)
    return {**record.as_json(), "state": str(written)}


def _build(kind: RecordKind, values: Sequence[str]) -> Record:
    form = _FORMS[kind]
    needed, optional = form.needed.split(), form.optional.split()
    if not len(needed) <= len(values) <= len(needed) + len(optional):
        usage = " ".join([*needed, *(f"[{name}]" for name in optional)])
        raise UsageError(f"records add REPO {kind} takes {usage}, and {len(values)} values were given")
    return form.build(*values)
