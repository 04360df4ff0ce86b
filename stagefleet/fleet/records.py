"""The records beside the stages: reads and writes of single ones, and runs on many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Unpack

from stagefleet.connections import Connections
from stagefleet.fleet.callbacks import OutcomeCallback, RunArguments
from stagefleet.fleet.storage_reader import StorageReader
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.operations import records as operations
from stagefleet.project_addresses import Items, parse_repository, parse_storage
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.models import CustomTag, Record
from stagefleet.runs.models import Run

if TYPE_CHECKING:
    from stagefleet.storages.base import RecordStore, StoredRecord, WriteResult

Address = StorageAddress | str


class FleetRecords:
    """List, read, write and delete records; add and delete custom tags.

    An address is a repository, or `docker-daemon:PROJECT`. A Docker Engine keeps import metadata only: writes
    of other records do nothing, reads and deletions find none. `final` is the final storage, if the project
    has one: it has the custom tags, and `address`, the primary storage, their records.

    Every `for_each_...` takes, returns and raises what `Fleet.for_each` does, and takes `host` if the address
    is an engine. Names of None select all records; there is no default. A record that is gone is skipped; a
    record without a required label fails with `BrokenRecordError`, and is not modified.
    """

    def __init__(self, connections: Connections, reader: StorageReader, for_each: Callable[..., Run]) -> None:
        self._connections = connections
        self._reader = reader
        self._for_each = for_each

    # Single records; no worker is needed

    def ids(
        self,
        address: Address,
        kind: RecordKind | str | None = None,
        *,
        on_unknown: Callable[[str], None] | None = None,
        missing_ok: bool = False,
    ) -> Iterator[RecordId]:
        """Iterate over the records of a repository, from its tag list, or of this host's engine.

        `on_unknown` is called with each tag of a repository that is neither a stage's nor a record's;
        `missing_ok` treats a missing repository as empty. `kind` selects those of one kind.

        Raises:
            RepositoryNotFoundError: The repository does not exist.
            UsageError: The address is malformed, or its registry rejects the login.
        """
        storage, wanted = parse_storage(address), None if kind is None else RecordKind.parse(kind)
        found = self._records(storage).ids(wanted, on_unknown=on_unknown)
        return self._reader.expecting(storage, found, missing_ok=missing_ok)

    def read(self, address: Address, kind: RecordKind | str, name: str = "") -> StoredRecord | None:
        """Read one record; None if it does not exist.

        Raises:
            BrokenRecordError: It lacks a label, or is not a record.
            UsageError: The address or the name is malformed.
        """
        return self._records(address).read(RecordId.of(RecordKind.parse(kind), name))

    def write(
        self, address: Address, record: Record, *, project: str | None = None, force: bool = False
    ) -> WriteResult:
        """Write a record, unless the same is there already or an engine does not keep its kind.

        Args:
            record: The record; for a custom tag this writes the record only, see `add_custom_tag`.
            project: The project of the record; if None, the last part of the repository's path, or the
                project of the engine.
            force: Write even if the same is there.

        Raises:
            ForbiddenError: The login may not write, and it is neither image nor import metadata.
            UsageError: An argument is malformed, or it is a client id and another exists.
        """
        return self._records(address).write(record, project=project, force=force)

    def add_custom_tag(
        self,
        address: Address,
        tag: str,
        stage_id: str | StageId,
        *,
        project: str | None = None,
        final: str | Repository | None = None,
    ) -> WriteResult:
        """Add a custom tag to a stage, and write its record; does nothing for an engine.

        Raises:
            StageNotFoundError: The storage that gets the tag lacks the stage, or the stage is rejected.
            UsageError: The tag is not a valid custom tag.
        """
        custom = CustomTag(tag, StageId.parse(str(stage_id)))
        return self._records(address).add_custom_tag(custom, project=project, final=_parse_final(final))

    def check_custom_tag(
        self, address: Address, tag: str, stage_id: str | StageId, *, final: str | Repository | None = None
    ) -> None:
        """Check that a custom tag names the image of its stage; succeeds for an engine, which has no tags.

        Raises:
            CustomTagError: The tag is missing, or names another image.
        """
        custom = CustomTag(tag, StageId.parse(str(stage_id)))
        self._records(address).check_custom_tag(custom, final=_parse_final(final))

    def _records(self, address: Address) -> RecordStore:
        return self._connections.storages.open(parse_storage(address)).records

    # Runs

    def for_each_rm_image_metadata(
        self,
        address: Address,
        image_name_or_hash: str,
        stage_commits: Mapping[str | StageId, Iterable[str]],
        on_outcome: OutcomeCallback = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Delete metadata of one image, of the commits of each stage; an item is `COMMIT_STAGEID`.

        Args:
            image_name_or_hash: The image's name, "" for the image without a name; if there is no metadata for
                the name, the hash in the tags.
        """
        operation = self.removal(address, RecordKind.IMAGE_METADATA, image=image_name_or_hash)
        items = operations.image_metadata_items(stage_commits.items())
        return self._for_each(operation, items, on_outcome, **run)

    def for_each_rm_managed_image(
        self,
        address: Address,
        names: Items | None,
        on_outcome: OutcomeCallback = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Delete the records of managed images; the item of the image without a name is `__nameless__`."""
        return self.for_each_remove(address, RecordKind.MANAGED_IMAGE, names, on_outcome, **run)

    def for_each_get_import_metadata(
        self,
        address: Address,
        ids: Items | None,
        on_outcome: OutcomeCallback = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Read import metadata; the outcome's result is the record as JSON."""
        operation = operations.ReadImportMetadataOperation(repository=parse_storage(address))
        return self._for_each(operation, ids, on_outcome, **run)

    def for_each_rm_import_metadata(
        self,
        address: Address,
        ids: Items | None,
        on_outcome: OutcomeCallback = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Delete import metadata."""
        return self.for_each_remove(address, RecordKind.IMPORT_METADATA, ids, on_outcome, **run)

    def for_each_get_stage_custom_tag_metadata(
        self,
        address: Address,
        ids: Items | None,
        on_outcome: OutcomeCallback = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Read the records of custom tags, by tag or by the tag's slug."""
        operation = operations.ReadCustomTagOperation(repository=parse_storage(address))
        return self._for_each(operation, ids, on_outcome, **run)

    def for_each_delete_stage_custom_tag(
        self,
        address: Address,
        tags: Items | None,
        on_outcome: OutcomeCallback = None,
        *,
        final: str | Repository | None = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Delete custom tags and their records, by tag or by the tag's slug; keep the stages.

        A tag without a record is not a custom tag of `add_custom_tag`, and is kept.
        """
        return self.for_each_remove(address, RecordKind.CUSTOM_TAG, tags, on_outcome, final=final, **run)

    def for_each_delete_rejected_stage(
        self,
        address: Address,
        stage_ids: Items | None,
        on_outcome: OutcomeCallback = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Delete rejected stages, image and record; a stage that is not rejected is kept and fails."""
        return self.for_each_remove(address, RecordKind.REJECTED_STAGE, stage_ids, on_outcome, **run)

    def for_each_rm_record(
        self,
        address: Address,
        kind: RecordKind | str,
        names: Items | None,
        on_outcome: OutcomeCallback = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Delete records of any kind, but keep the custom tag or rejected stage itself.

        This revokes a rejection, or keeps a tag without its record; `for_each_remove` does neither.
        """
        operation = operations.DeleteRecordOperation(
            repository=parse_storage(address), kind=RecordKind.parse(kind)
        )
        return self._for_each(operation, names, on_outcome, **run)

    def for_each_remove(
        self,
        address: Address,
        kind: RecordKind | str,
        names: Items | None,
        on_outcome: OutcomeCallback = None,
        *,
        final: str | Repository | None = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Delete records of any kind, with the custom tags and rejected stages that they describe."""
        return self._for_each(self.removal(address, kind, final=final), names, on_outcome, **run)

    def removal(
        self,
        address: Address,
        kind: RecordKind | str,
        *,
        image: str | None = None,
        final: str | Repository | None = None,
        hosts: tuple[str, ...] = (),
    ) -> operations.RecordOperation:
        """Return the operation of `for_each_remove`; with `image` that of `for_each_rm_image_metadata`."""
        storage = parse_storage(address)
        if image is not None:
            return operations.DeleteImageMetadataOperation(repository=storage, hosts=hosts, image=image)
        parsed = RecordKind.parse(kind)
        tags = _parse_final(final) if parsed is RecordKind.CUSTOM_TAG else None
        return operations.removal_of(parsed, repository=storage, hosts=hosts, final=tags)


def _parse_final(final: str | Repository | None) -> Repository | None:
    return None if final is None else parse_repository(final)
