"""Runs on records, and work on single records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Unpack

from stagefleet.errors import UsageError
from stagefleet.fleet.base import FleetBase
from stagefleet.fleet.callbacks import HostArguments
from stagefleet.names import EngineProject, Repository, StageId, StorageAddress
from stagefleet.operations.base import Plan, parse_repository, parse_storage
from stagefleet.operations.records import RecordOperation
from stagefleet.records import CustomTag, Record, RecordId, RecordKind
from stagefleet.redaction import quoted
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.models import Run

if TYPE_CHECKING:
    from stagefleet.storages.storage import StoredRecord, WriteResult

__all__ = ["RecordRuns"]

Names = Iterable[str] | None

_REMOVALS: Mapping[RecordKind, str] = {
    RecordKind.MANAGED_IMAGE: "rm_managed_image",
    RecordKind.IMPORT_METADATA: "rm_import_metadata",
    RecordKind.CUSTOM_TAG: "delete_stage_custom_tag",
    RecordKind.REJECTED_STAGE: "delete_rejected_stage",
}
"""The operation that deletes a kind; kinds that are rarely deleted in bulk share one."""


class RecordRuns(FleetBase):
    """List, read, write and delete records; add and delete custom tags.

    A place is a repository, or `docker-daemon:PROJECT`. A Docker Engine keeps import metadata only: writes of
    other records do nothing, reads and deletions find none.

    Every `for_each_...` takes `on_outcome`, `parallel`, `idempotency_key`, `detach`, and `host` if the place
    is an engine; it returns and raises as `for_each_copy_stage` does. Names of None select all records; there
    is no default. A record that is gone is skipped; a record without a required label fails with
    `BrokenRecordError`, and is not modified.
    """

    # Single records; no worker is needed

    def record_ids(
        self,
        address: StorageAddress | str,
        kind: RecordKind | str | None = None,
        *,
        on_unknown: Callable[[str], None] | None = None,
        missing_ok: bool = False,
    ) -> Iterator[RecordId]:
        """Iterate over the records of a repository, from its tag list, or of this host's engine.

        Args:
            address: The repository or engine.
            kind: Only records of this kind.
            on_unknown: Called with each tag of a repository that is neither a stage's nor a record's.
            missing_ok: Treat a missing repository as empty.

        Raises:
            RepositoryNotFoundError: The repository does not exist.
            UsageError: The address is malformed, or its registry rejects the login.
        """
        where, wanted = parse_storage(address), None if kind is None else _parse_kind(kind)
        registries = self._services.registries
        if where.is_on_host:
            return registries.engine_records(where).ids(wanted)
        found = registries.records.ids(where, wanted, on_unknown=on_unknown)
        return self._listed(where, found, missing_ok=missing_ok)

    def read_record(
        self, address: StorageAddress | str, kind: RecordKind | str, name: str = ""
    ) -> StoredRecord | None:
        """Read one record; None if it does not exist.

        Raises:
            BrokenRecordError: It lacks a label, or is not a record.
            UsageError: The address or the name is malformed.
        """
        where, record_id = parse_storage(address), RecordId.of(_parse_kind(kind), name)
        registries = self._services.registries
        if where.is_on_host:
            return registries.engine_records(where).read(record_id)
        return registries.records.read(where, record_id)

    def write_record(
        self,
        address: StorageAddress | str,
        record: Record,
        *,
        project: str | None = None,
        force: bool = False,
    ) -> WriteResult:
        """Write a record, unless the same is there already or an engine does not keep its kind.

        Args:
            address: The repository or engine.
            record: The record; for a custom tag this writes the record only, see `add_stage_custom_tag`.
            project: The project of the record; if None, the last part of the repository's path, or the
                project of the engine.
            force: Write even if the same is there.

        Raises:
            ForbiddenError: The login may not write, and it is neither image nor import metadata.
            UsageError: The address is malformed, the record is invalid, or it is a client id and another
                exists.
        """
        where, registries = parse_storage(address), self._services.registries
        if where.is_on_host:
            _refuse_project(where, project)
            return registries.engine_records(where).write(record, force=force)
        return registries.records.write(where, project or where.name, record, force=force)

    def add_stage_custom_tag(
        self,
        address: StorageAddress | str,
        tag: str,
        stage_id: str | StageId,
        *,
        project: str | None = None,
        final: str | Repository | None = None,
    ) -> WriteResult:
        """Add a custom tag to a stage, and write its record; does nothing for an engine.

        Args:
            address: The primary storage, which gets the record.
            tag: The tag.
            stage_id: The stage.
            project: As in `write_record`.
            final: The final storage, if the project has one, which gets the tag.

        Raises:
            StageNotFoundError: The storage that gets the tag lacks the stage, or the stage is rejected.
            UsageError: The tag is not a valid custom tag.
        """
        where, custom = parse_storage(address), CustomTag(tag, StageId.parse(str(stage_id)))
        if where.is_on_host:
            return self.write_record(where, custom, project=project)
        records = self._services.registries.records
        return records.add_custom_tag(where, project or where.name, custom, final=_parse_final(final))

    def check_stage_custom_tag(
        self,
        address: StorageAddress | str,
        tag: str,
        stage_id: str | StageId,
        *,
        final: str | Repository | None = None,
    ) -> None:
        """Check that a custom tag names the image of its stage; succeeds for an engine, which has no tags.

        Arguments as of `add_stage_custom_tag`.

        Raises:
            CustomTagError: The tag is missing, or names another image.
        """
        where, custom = parse_storage(address), CustomTag(tag, StageId.parse(str(stage_id)))
        if not where.is_on_host:
            records = self._services.registries.records
            records.check_custom_tag(where, custom.name, custom.stage_id, final=_parse_final(final))

    # Runs

    def for_each_rm_image_metadata(
        self,
        address: StorageAddress | str,
        image_name_or_hash: str,
        stage_commits: Mapping[str | StageId, Iterable[str]],
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete metadata of one image; an item is `COMMIT_STAGEID`.

        Args:
            address: The repository or engine.
            image_name_or_hash: The image's name, "" for the image without a name; if there is no metadata for
                the name, the hash in the tags.
            stage_commits: The commits of each stage.
            on_outcome: See the class.
            **arguments: See the class.
        """
        operation = RecordOperation.of_image_metadata(address, image_name_or_hash, stage_commits)
        return self._run(operation, on_outcome, arguments)

    def for_each_rm_managed_image(
        self,
        address: StorageAddress | str,
        names: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete the records of managed images; the item of the image without a name is `__nameless__`."""
        operation = RecordOperation.of("rm_managed_image", address, RecordKind.MANAGED_IMAGE, names)
        return self._run(operation, on_outcome, arguments)

    def for_each_get_import_metadata(
        self,
        address: StorageAddress | str,
        ids: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Read import metadata; the outcome's result is the record as JSON."""
        operation = RecordOperation.of("get_import_metadata", address, RecordKind.IMPORT_METADATA, ids)
        return self._run(operation, on_outcome, arguments)

    def for_each_rm_import_metadata(
        self,
        address: StorageAddress | str,
        ids: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete import metadata."""
        operation = RecordOperation.of("rm_import_metadata", address, RecordKind.IMPORT_METADATA, ids)
        return self._run(operation, on_outcome, arguments)

    def for_each_get_stage_custom_tag_metadata(
        self,
        address: StorageAddress | str,
        ids: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Read the records of custom tags, by tag or by the tag's slug."""
        operation = RecordOperation.of("get_stage_custom_tag_metadata", address, RecordKind.CUSTOM_TAG, ids)
        return self._run(operation, on_outcome, arguments)

    def for_each_delete_stage_custom_tag(
        self,
        address: StorageAddress | str,
        tags: Names,
        on_outcome: OnOutcome | None = None,
        *,
        final: str | Repository | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete custom tags and their records, by tag or by the tag's slug; keep the stages.

        A tag without a record is not a custom tag of `add_stage_custom_tag`, and is kept.

        Args:
            address: The primary storage, which has the records.
            tags: The tags; all if None.
            on_outcome: See the class.
            final: The final storage, if the project has one, which has the tags.
            **arguments: See the class.
        """
        details = _custom_tag_details(final)
        operation = RecordOperation.of(
            "delete_stage_custom_tag", address, RecordKind.CUSTOM_TAG, tags, details
        )
        return self._run(operation, on_outcome, arguments)

    def for_each_delete_rejected_stage(
        self,
        address: StorageAddress | str,
        stage_ids: Iterable[str | StageId] | None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete rejected stages, image and record; a stage that is not rejected is kept and fails."""
        operation = RecordOperation.of("delete_rejected_stage", address, RecordKind.REJECTED_STAGE, stage_ids)
        return self._run(operation, on_outcome, arguments)

    def for_each_rm_record(
        self,
        address: StorageAddress | str,
        kind: RecordKind | str,
        names: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete records of any kind, but keep the custom tag or rejected stage itself.

        This revokes a rejection, or keeps a tag without its record; `for_each_remove_record` does neither.
        """
        parsed = _parse_kind(kind)
        operation = RecordOperation.of("rm_record", address, parsed, names, {"kind": str(parsed)})
        return self._run(operation, on_outcome, arguments)

    def for_each_remove_record(
        self,
        address: StorageAddress | str,
        kind: RecordKind | str,
        names: Names,
        on_outcome: OnOutcome | None = None,
        *,
        final: str | Repository | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete records of any kind, with the custom tags and rejected stages that they describe.

        Arguments as of the other runs; `final` as of `for_each_delete_stage_custom_tag`, ignored for other
        kinds.
        """
        parsed = _parse_kind(kind)
        if parsed is RecordKind.CUSTOM_TAG:
            return self.for_each_delete_stage_custom_tag(address, names, on_outcome, final=final, **arguments)
        operation = _REMOVALS.get(parsed)
        if operation is None:
            return self.for_each_rm_record(address, parsed, names, on_outcome, **arguments)
        return self._run(RecordOperation.of(operation, address, parsed, names), on_outcome, arguments)

    def plan_rm_record(
        self,
        address: StorageAddress | str,
        kind: RecordKind | str,
        names: Names,
        *,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """Plan `for_each_rm_record`; changes nothing."""
        operation = RecordOperation.of("rm_record", address, _parse_kind(kind), names)
        return self._plan(operation, operation.address, host, self._plan_storages(missing_ok=missing_ok))

    def plan_rm_image_metadata(
        self,
        address: StorageAddress | str,
        image_name_or_hash: str,
        stage_commits: Mapping[str | StageId, Iterable[str]],
        *,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """Plan `for_each_rm_image_metadata`; changes nothing."""
        operation = RecordOperation.of_image_metadata(address, image_name_or_hash, stage_commits)
        return self._plan(operation, operation.address, host, self._plan_storages(missing_ok=missing_ok))

    def _run(self, operation: RecordOperation, on_outcome: OnOutcome | None, arguments: HostArguments) -> Run:
        return self._for_each(
            self._placed(operation, operation.address, arguments.get("host")),
            on_outcome,
            parallel=arguments.get("parallel"),
            idempotency_key=arguments.get("idempotency_key"),
            detach=arguments.get("detach", False),
            plan_storages=self._plan_storages(missing_ok=arguments.get("missing_ok", False)),
        )


def _refuse_project(address: EngineProject, project: str | None) -> None:
    if project not in {None, address.project}:
        raise UsageError(f"{address} keeps the records of {address.project} alone, not of {project}")


def _parse_final(final: str | Repository | None) -> Repository | None:
    return None if final is None else parse_repository(final)


def _custom_tag_details(final: str | Repository | None) -> dict[str, str]:
    where = _parse_final(final)
    return {} if where is None else {"final": str(where)}


def _parse_kind(kind: RecordKind | str) -> RecordKind:
    try:
        return RecordKind(kind)
    except ValueError:
        kinds = ", ".join(RecordKind)
        raise UsageError(f"{quoted(kind)} is no kind of record: write one of {kinds}") from None
