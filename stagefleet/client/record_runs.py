"""Runs on records, and what can be done with records without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypedDict, Unpack

from stagefleet.client.desk import Desk
from stagefleet.client.record_work import RecordWork
from stagefleet.client.work import Plan, parse_repository
from stagefleet.errors import UsageError
from stagefleet.names import Repository, StageId
from stagefleet.records import CustomTag, Record, RecordId, RecordKind
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.model import Run

if TYPE_CHECKING:
    from stagefleet.storages.records import StoredRecord, Written  # brings the client of registries

__all__ = ["RecordRuns", "RunArguments"]

Names = Iterable[str] | None


class RunArguments(TypedDict, total=False):
    """What every run takes by name; as in `for_each_copy_stage`.

    Attributes:
        parallel: Items at once; from the settings if None.
        idempotency_key: The same work under the same key is done once.
        detach: Return at once.
    """

    parallel: int | None
    idempotency_key: str | None
    detach: bool


class RecordRuns(Desk):
    """Records listed, read, written and deleted; custom tags given and taken.

    Every `for_each_...` takes `on_outcome`, `parallel`, `idempotency_key` and `detach`, returns and raises as
    `for_each_copy_stage` does. None in place of names is all of them, and has to be said. What is gone
    already is a success where it was to be deleted, and skipped where it was to be read; what lacks a label
    fails with `BrokenRecordError`, and is left alone.
    """

    # Records, one by one; no worker is needed

    def record_ids(
        self,
        repository: str | Repository,
        kind: RecordKind | str | None = None,
        *,
        on_unknown: Callable[[str], None] | None = None,
    ) -> Iterator[RecordId]:
        """The records of a repository, from its tag list; none where it does not exist.

        Args:
            repository: Where.
            kind: Only these.
            on_unknown: Told of each tag that is neither a stage's nor a record's.

        Raises:
            UsageError: The repository is malformed, or its registry refuses the login.
        """
        where, wanted = parse_repository(repository), None if kind is None else _parse_kind(kind)
        return self._services.registries.records.ids(where, wanted, on_unknown=on_unknown)

    def read_record(
        self, repository: str | Repository, kind: RecordKind | str, name: str = ""
    ) -> StoredRecord | None:
        """Read one record, None if it is not there.

        Raises:
            BrokenRecordError: It lacks a label, or is none.
            UsageError: The repository or the name is malformed.
        """
        record_id = RecordId.of(_parse_kind(kind), name)
        return self._services.registries.records.read(parse_repository(repository), record_id)

    def write_record(
        self, repository: str | Repository, record: Record, *, project: str | None = None, force: bool = False
    ) -> Written:
        """Write a record; what would say nothing new is not written again.

        Args:
            repository: Where.
            record: The record; of a custom tag this writes the record alone, see `add_stage_custom_tag`.
            project: The project that it belongs to; the last part of the repository's path if None.
            force: Write again what is there.

        Raises:
            ForbiddenError: The login may not write, and it is neither image nor import metadata.
            UsageError: The repository is malformed, or there can be no such record.
        """
        where = parse_repository(repository)
        return self._services.registries.records.write(where, project or where.name, record, force=force)

    def add_stage_custom_tag(
        self,
        repository: str | Repository,
        tag: str,
        stage_id: str | StageId,
        *,
        project: str | None = None,
    ) -> None:
        """Give a stage a tag, and write the record of it.

        Raises:
            StageNotFoundError: There is no such stage, or it is rejected.
            UsageError: The tag can be no custom tag.
        """
        where, custom = parse_repository(repository), CustomTag(tag, StageId.parse(str(stage_id)))
        self._services.registries.records.add_custom_tag(where, project or where.name, custom)

    def check_stage_custom_tag(self, repository: str | Repository, tag: str, stage_id: str | StageId) -> None:
        """See that a custom tag names the image of its stage.

        Raises:
            CustomTagError: It is missing, or names another image.
        """
        custom = CustomTag(tag, StageId.parse(str(stage_id)))
        records = self._services.registries.records
        records.check_custom_tag(parse_repository(repository), custom.name, custom.stage_id)

    # Runs to start

    def for_each_rm_image_metadata(
        self,
        repository: str | Repository,
        image_name_or_hash: str,
        stage_commits: Mapping[str | StageId, Iterable[str]],
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[RunArguments],
    ) -> Run:
        """Delete metadata of one image; an item is `COMMIT_STAGEID`.

        Args:
            repository: Where.
            image_name_or_hash: The image's name, "" for the one without; where there is no metadata under
                it, the hash that stands in the tags.
            stage_commits: For each stage, the commits.
            on_outcome: See the class.
            **arguments: See the class.
        """
        work = RecordWork.of_image_metadata(repository, image_name_or_hash, stage_commits)
        return self._run(work, on_outcome, arguments)

    def for_each_rm_managed_image(
        self,
        repository: str | Repository,
        names: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[RunArguments],
    ) -> Run:
        """Delete the records of managed images; the item of the image without a name is `__nameless__`."""
        work = RecordWork.of("rm_managed_image", repository, RecordKind.MANAGED_IMAGE, names)
        return self._run(work, on_outcome, arguments)

    def for_each_get_import_metadata(
        self,
        repository: str | Repository,
        ids: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[RunArguments],
    ) -> Run:
        """Read import metadata; the outcome's result is the record as JSON."""
        work = RecordWork.of("get_import_metadata", repository, RecordKind.IMPORT_METADATA, ids)
        return self._run(work, on_outcome, arguments)

    def for_each_rm_import_metadata(
        self,
        repository: str | Repository,
        ids: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[RunArguments],
    ) -> Run:
        """Delete import metadata."""
        work = RecordWork.of("rm_import_metadata", repository, RecordKind.IMPORT_METADATA, ids)
        return self._run(work, on_outcome, arguments)

    def for_each_get_stage_custom_tag_metadata(
        self,
        repository: str | Repository,
        ids: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[RunArguments],
    ) -> Run:
        """Read the records of custom tags, by tag or by the tag's slug."""
        work = RecordWork.of("get_stage_custom_tag_metadata", repository, RecordKind.CUSTOM_TAG, ids)
        return self._run(work, on_outcome, arguments)

    def for_each_delete_stage_custom_tag(
        self,
        repository: str | Repository,
        tags: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[RunArguments],
    ) -> Run:
        """Delete custom tags and their records, by tag or by the tag's slug; the stages stay.

        A tag without a record was not given by `add_stage_custom_tag`, and stays.
        """
        work = RecordWork.of("delete_stage_custom_tag", repository, RecordKind.CUSTOM_TAG, tags)
        return self._run(work, on_outcome, arguments)

    def for_each_delete_rejected_stage(
        self,
        repository: str | Repository,
        stage_ids: Iterable[str | StageId] | None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[RunArguments],
    ) -> Run:
        """Delete rejected stages, image and record; a stage that is not rejected stays and fails."""
        work = RecordWork.of("delete_rejected_stage", repository, RecordKind.REJECTED_STAGE, stage_ids)
        return self._run(work, on_outcome, arguments)

    def for_each_rm_record(
        self,
        repository: str | Repository,
        kind: RecordKind | str,
        names: Names,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[RunArguments],
    ) -> Run:
        """Delete records of any kind, and nothing else: not the custom tag, not the rejected stage."""
        parsed = _parse_kind(kind)
        work = RecordWork.of("rm_record", repository, parsed, names, {"kind": str(parsed)})
        return self._run(work, on_outcome, arguments)

    def plan_rm_record(self, repository: str | Repository, kind: RecordKind | str, names: Names) -> Plan:
        """What a run that deletes these records would do; changes nothing, needs no Redis."""
        work = RecordWork.of("rm_record", repository, _parse_kind(kind), names)
        return work.plan(self._services.registries)

    def plan_rm_image_metadata(
        self,
        repository: str | Repository,
        image_name_or_hash: str,
        stage_commits: Mapping[str | StageId, Iterable[str]],
    ) -> Plan:
        """What `for_each_rm_image_metadata` would do; changes nothing, needs no Redis."""
        work = RecordWork.of_image_metadata(repository, image_name_or_hash, stage_commits)
        return work.plan(self._services.registries)

    def _run(self, work: RecordWork, on_outcome: OnOutcome | None, arguments: RunArguments) -> Run:
        return self._for_each(
            work,
            on_outcome,
            parallel=arguments.get("parallel"),
            idempotency_key=arguments.get("idempotency_key"),
            detach=arguments.get("detach", False),
        )


def _parse_kind(kind: RecordKind | str) -> RecordKind:
    try:
        return RecordKind(kind)
    except ValueError:
        raise UsageError(f"{kind!r} is no kind of record: write one of {', '.join(RecordKind)}") from None
