"""Work on records: checks of arguments, and plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from stagefleet.errors import TooManyItemsError, UsageError
from stagefleet.names import StageId, StorageAddress
from stagefleet.operations.base import Plan, PlanStorages, parse_storage
from stagefleet.records import ImageMetadata, RecordId, RecordKind
from stagefleet.redaction import quoted
from stagefleet.runs.models import MAX_ITEMS

__all__ = ["RecordOperation"]


@dataclass(frozen=True, slots=True)
class RecordOperation:
    """Read or delete records of one kind.

    Attributes:
        name: The name of the task.
        address: The storage: a repository, or a project in an engine.
        kind: The kind of the records.
        names: Their names; None for all.
        details: Options of the task besides the place.
    """

    name: str
    address: StorageAddress
    kind: RecordKind
    names: tuple[str, ...] | None
    details: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        operation: str,
        address: str | StorageAddress,
        kind: RecordKind,
        names: Iterable[str | StageId] | None,
        details: Mapping[str, str] | None = None,
    ) -> RecordOperation:
        """Check the arguments.

        Raises:
            UsageError: One of them is malformed.
        """
        return cls(operation, parse_storage(address), kind, _parse_names(kind, names), details or {})

    @classmethod
    def of_image_metadata(
        cls,
        address: str | StorageAddress,
        image_name_or_hash: str,
        stage_commits: Mapping[str | StageId, Iterable[str]],
    ) -> RecordOperation:
        """Check the arguments for a deletion of one image's metadata.

        Raises:
            UsageError: One of them is malformed.
        """
        return cls(
            "rm_image_metadata",
            parse_storage(address),
            RecordKind.IMAGE_METADATA,
            _image_metadata_items(stage_commits),
            {"image": image_name_or_hash},
        )

    @property
    def options(self) -> dict[str, Any]:
        return {"repository": str(self.address), **self.details}

    @property
    def stage_ids(self) -> tuple[str, ...] | None:
        """The names of the records: the items for these options."""
        return self.names

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Plan the named records, or all.

        Raises:
            RepositoryNotFoundError: The repository does not exist.
            TooManyItemsError: The run has more items than allowed.
        """
        if self.names is not None:
            plan_storages.expect(self.address)
            return Plan(_bounded(self.names))
        found = _bounded(record_id.item for record_id in plan_storages.record_ids(self.address, self.kind))
        if not found:
            plan_storages.expect(self.address)
        return Plan(found)


def _image_metadata_items(stage_commits: Mapping[str | StageId, Iterable[str]]) -> tuple[str, ...]:
    """Return one item per commit of each stage, `COMMIT_STAGEID`.

    Raises:
        UsageError: A stage or a commit is malformed.
    """
    items: dict[str, None] = {}
    for name, commits in stage_commits.items():
        stage_id = StageId.parse(str(name))
        _refuse_string(commits, "the commits of a stage are")
        for commit in commits:
            _ = ImageMetadata("0", commit, stage_id).id  # rejects an invalid record
            items[f"{commit}_{stage_id}"] = None
    return tuple(items)


def _parse_names(kind: RecordKind, names: Iterable[str | StageId] | None) -> tuple[str, ...] | None:
    """Parse names, without duplicates, in their order; keep custom tags as given, since they may be slugs."""
    if names is None:
        return None
    _refuse_string(names, "the records are")
    parsed: dict[str, None] = {}
    for name in names:
        record_id = RecordId.of(kind, str(name))
        parsed[str(name) if kind is RecordKind.CUSTOM_TAG else record_id.item] = None
    return tuple(parsed)


def _refuse_string(names: object, what: str) -> None:
    if isinstance(names, str):
        raise UsageError(f"{what} one string, {quoted(names, limit=40)}: hand in a list")


def _bounded(names: Iterable[str]) -> list[str]:
    found = list(islice(names, MAX_ITEMS + 1))
    if len(found) > MAX_ITEMS:
        raise TooManyItemsError(f"a run has at most {MAX_ITEMS:,} items: name fewer records, in several runs")
    return found
