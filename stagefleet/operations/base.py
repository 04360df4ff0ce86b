"""Work on stages: checks of arguments, and plans from tag lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stagefleet.errors import StagesNotFoundError, TooManyItemsError, UsageError
from stagefleet.names import Repository, StageId, StorageAddress, parse_address
from stagefleet.records import RecordId, RecordKind
from stagefleet.runs.models import MAX_ITEMS, ItemState, Outcome, split_host

__all__ = [
    "CopyOperation",
    "DeleteOperation",
    "Operation",
    "Plan",
    "PlanStorages",
    "StageIds",
    "bounded",
    "find_lacking",
    "listed_ids",
    "named_ids",
    "parse_repository",
    "parse_stage_ids",
    "parse_storage",
    "refuse_missing",
]

StageIds = Iterable[str | StageId]

_NAMED_IN_MESSAGES = 3


class PlanStorages(Protocol):
    """The reads of storages that a plan needs; the storage manager implements them."""

    def stage_ids(self, address: StorageAddress) -> Iterator[StageId]:
        """Iterate over the stages of a repository or of this host's engine; none if it does not exist."""

    def record_ids(self, address: StorageAddress, kind: RecordKind) -> Iterator[RecordId]:
        """List the records of one kind in a repository or this host's engine; none if it does not exist."""

    def ping(self, repository: Repository) -> None:
        """Check that the registry answers, is a registry, and accepts the login; raise if not."""

    def expect(self, address: StorageAddress) -> None:
        """Reject a named repository that does not exist; called if nothing was found in it.

        Raises:
            RepositoryNotFoundError: The repository does not exist, and must.
        """


@dataclass(frozen=True, slots=True)
class Plan:
    """The items of a run.

    Attributes:
        items: The stages that need a task, in order.
        skipped: The stages that need none.
    """

    items: Sequence[str]
    skipped: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.items) + len(self.skipped)

    def outcomes(self) -> Iterator[Outcome]:
        """Iterate over the outcomes that a dry run prints."""
        yield from self.skips()
        for item in self.items:
            name, host = split_host(item)
            yield Outcome(item=name, host=host, state=ItemState.PLANNED)

    def skips(self) -> Iterator[Outcome]:
        """Iterate over the outcomes of stages that need no task."""
        for item in self.skipped:
            name, host = split_host(item)
            yield Outcome(item=name, host=host, state=ItemState.SKIPPED)


class Operation(Protocol):
    """One kind of run, with its arguments."""

    @property
    def name(self) -> str:
        """The name of the task."""

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the task besides the item."""

    @property
    def stage_ids(self) -> tuple[str, ...] | None:
        """The named stages; None for all."""

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Determine the items; changes nothing."""


def fingerprint(operation: Operation) -> str:
    """Return a digest of the work, the same for the same arguments in any order."""
    named = None if operation.stage_ids is None else sorted(operation.stage_ids)
    document = json.dumps([operation.name, operation.options, named], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


def parse_repository(address: str | StorageAddress) -> Repository:
    """Parse the address of a repository.

    Raises:
        InvalidNameError: The address is malformed.
        UsageError: The address is a Docker Engine.
    """
    parsed = parse_storage(address)
    if parsed.is_on_host:
        raise UsageError(f"{parsed} is a Docker Engine: name a registry's repository here")
    return parsed


def parse_storage(address: str | StorageAddress) -> StorageAddress:
    """Parse the address of a repository or engine.

    Raises:
        InvalidNameError: The address is malformed.
    """
    return parse_address(address) if isinstance(address, str) else address


def parse_stage_ids(stage_ids: StageIds | None) -> tuple[str, ...] | None:
    """Parse stage ids, without duplicates, in their order.

    Raises:
        UsageError: One is malformed, or the argument is a single string.
    """
    if stage_ids is None:
        return None
    if isinstance(stage_ids, str):
        raise UsageError("stage_ids is one string: hand in a list of stage ids")
    return tuple(dict.fromkeys(str(StageId.parse(str(stage_id))) for stage_id in stage_ids))


@dataclass(frozen=True, slots=True)
class CopyOperation:
    """Copy stages from one repository to another."""

    source: Repository
    destination: Repository
    stage_ids: tuple[str, ...] | None
    verify: bool

    name = "copy_stage"

    @classmethod
    def of(
        cls,
        source: str | Repository,
        destination: str | Repository,
        stage_ids: StageIds | None,
        *,
        verify: bool,
    ) -> CopyOperation:
        """Check the arguments.

        Raises:
            UsageError: One of them is malformed, or source and destination are the same.
        """
        operation = cls(
            parse_repository(source), parse_repository(destination), parse_stage_ids(stage_ids), verify
        )
        if operation.source == operation.destination:
            raise UsageError(
                f"source and destination are the same, {operation.source}: name two repositories"
            )
        return operation

    @property
    def options(self) -> dict[str, Any]:
        return {"source": str(self.source), "destination": str(self.destination), "verify": self.verify}

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Compare the two tag lists; with `verify`, plan common stages too, whose digests the task compares.

        Raises:
            RepositoryNotFoundError: The source does not exist.
            StagesNotFoundError: The source lacks named stages.
            TooManyItemsError: The run has more items than allowed.
        """
        wanted = self._wanted(plan_storages)
        present: set[str] = set()
        if self.verify:
            # The tag list is not needed, but the login to the destination is: reject a wrong one early.
            plan_storages.ping(self.destination)
        elif wanted:
            present.update(listed_ids(plan_storages, self.destination))
        return Plan(
            items=[stage_id for stage_id in wanted if stage_id not in present],
            skipped=[stage_id for stage_id in wanted if stage_id in present],
        )

    def _wanted(self, plan_storages: PlanStorages) -> Sequence[str]:
        if self.stage_ids is None:
            return bounded(map(str, named_ids(plan_storages, self.source)))
        wanted = bounded(self.stage_ids)
        refuse_missing(find_lacking(plan_storages, self.source, wanted), [self.source])
        return wanted


@dataclass(frozen=True, slots=True)
class DeleteOperation:
    """Delete stages from a repository."""

    repository: Repository
    stage_ids: tuple[str, ...] | None

    name = "delete_stage"

    @classmethod
    def of(cls, repository: str | Repository, stage_ids: StageIds | None) -> DeleteOperation:
        """Check the arguments.

        Raises:
            UsageError: One of them is malformed.
        """
        return cls(parse_repository(repository), parse_stage_ids(stage_ids))

    @property
    def options(self) -> dict[str, Any]:
        return {"repository": str(self.repository)}

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Plan all named stages without the tag list: the task succeeds for a stage that is gone.

        A stage that a crash left half deleted is on no list of stages, and the task must finish its deletion.

        Raises:
            RepositoryNotFoundError: The repository does not exist.
            TooManyItemsError: The run has more items than allowed.
        """
        if self.stage_ids is None:
            return Plan(bounded(map(str, named_ids(plan_storages, self.repository))))
        plan_storages.expect(self.repository)
        return Plan(bounded(self.stage_ids))


def named_ids(plan_storages: PlanStorages, address: StorageAddress) -> Iterator[StageId]:
    """Iterate over the stages of a named storage.

    Raises:
        RepositoryNotFoundError: The storage does not exist.
    """
    is_empty = True
    for stage_id in plan_storages.stage_ids(address):
        is_empty = False
        yield stage_id
    if is_empty:
        plan_storages.expect(address)


def listed_ids(plan_storages: PlanStorages, destination: Repository) -> set[str]:
    """Return the stages of a destination; it may be new, but its registry must answer."""
    present = {str(stage_id) for stage_id in plan_storages.stage_ids(destination)}
    if not present:
        plan_storages.ping(destination)
    return present


def bounded(stage_ids: Iterable[str]) -> Sequence[str]:
    """Return the items of a run, if there are not too many.

    Raises:
        TooManyItemsError: The run has more items than allowed.
    """
    found: list[str] = []
    for stage_id in stage_ids:
        if len(found) == MAX_ITEMS:
            raise TooManyItemsError(
                f"a run has at most {MAX_ITEMS:,} items: name fewer stages, in several runs"
            )
        found.append(stage_id)
    return found


def find_lacking(
    plan_storages: PlanStorages, address: StorageAddress, stage_ids: Iterable[str]
) -> Sequence[str]:
    """Return the stages that a storage's tag list lacks."""
    lacking = dict.fromkeys(stage_ids)
    for stage_id in named_ids(plan_storages, address):
        lacking.pop(str(stage_id), None)
    return list(lacking)


def refuse_missing(missing: Sequence[str], storages: Sequence[StorageAddress]) -> None:
    """Reject stages that no storage has; the error names the first storage as the one to check.

    Raises:
        StagesNotFoundError: Stages are missing.
    """
    if not missing:
        return
    shown = ", ".join(missing[:_NAMED_IN_MESSAGES])
    more = len(missing) - _NAMED_IN_MESSAGES
    rest = f" and {more:,} more" if more > 0 else ""
    verb = "does not have" if len(storages) == 1 else "do not have"
    raise StagesNotFoundError(
        f"{', '.join(map(str, storages))} {verb} {shown}{rest}: see stagefleet list {storages[0]}"
    )
