"""An operation: a kind of work with its options; a client plans it, and workers execute it item by item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stagefleet import errors
from stagefleet.bounds import MAX_ITEMS, join_first
from stagefleet.names import StageId, StorageAddress, join_host
from stagefleet.project_addresses import Items, Project, parse_stage_ids
from stagefleet.setting_types import RepositoryText, StorageAddressText
from stagefleet.stage_lists import StageIdList, StageNames

if TYPE_CHECKING:
    from stagefleet.leases import Lease
    from stagefleet.records import RecordId, RecordKind

_NAMED_IN_MESSAGES = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """The items of a run: those that need a task, in order, and those that need none."""

    items: Sequence[str]
    skipped: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.items) + len(self.skipped)

    def on_hosts(self, hosts: Sequence[str]) -> Plan:
        """Combine each item with each host; hosts alternate, so that none waits for another."""
        if not hosts:
            return self
        items, skipped = (
            bounded(join_host(item, host) for item in named for host in hosts)
            for named in (self.items, self.skipped)
        )
        return Plan(items, skipped)


def left_out_if_unset(*, default: Any) -> Any:
    """Define a field that the options of a run have only if it is set."""
    return Field(default=default, exclude_if=lambda value: not value)


class Operation(BaseModel):
    """A kind of work; its fields are the options of its runs, as the ledger keeps them.

    Attributes:
        past: What it does to an item, for reports.
        noun: What its items are.
        reads: The option that names what is read, or what is changed in place.
        writes: The option that names what is written.
        hosts: The hosts of its storages; empty if all are in registries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    name: ClassVar[str]
    past: ClassVar[str] = "done"
    noun: ClassVar[str] = "stage"
    reads: ClassVar[str] = "repository"
    writes: ClassVar[str] = ""

    hosts: tuple[str, ...] = left_out_if_unset(default=())

    @property
    def options(self) -> dict[str, Any]:
        """The options of a run, in JSON's types."""
        return self.model_dump(mode="json")

    @property
    def addresses(self) -> tuple[StorageAddress, ...]:
        """The storages that may lie on a host; the first is the one that has the items."""
        raise NotImplementedError

    @property
    def is_on_host(self) -> bool:
        """True if only the workers of its hosts can execute it."""
        return any(address.is_on_host for address in self.addresses)

    @property
    def deletes_from(self) -> tuple[StorageAddress, ...]:
        """The storages that it deletes tags from."""
        return ()

    @property
    def starts_early(self) -> bool:
        """True if items may start before all are submitted; a deletion starts when its list is complete."""
        return not self.deletes_from

    @property
    def beside(self) -> tuple[StorageAddress, ...]:
        """The storages of which one has to exist; the others may be new."""
        return ()

    def on_hosts(self, hosts: Sequence[str]) -> Self:
        """Return a copy for some hosts."""
        return self.model_copy(update={"hosts": tuple(hosts)})

    def parse_items(self, items: Items | None) -> tuple[str, ...] | None:
        """Check the names of items, without duplicates; `UsageError` if malformed, or for a single string."""
        return parse_stage_ids(items)

    def plan(self, items: Sequence[str] | None, storages: PlanStorages) -> Plan:
        """Determine the items of a run, all if None; changes nothing.

        Raises:
            UsageError: All items of another host's storage were requested.
            RepositoryNotFoundError: A repository that has to exist does not.
            StagesNotFoundError: Named stages are missing.
            TooManyItemsError: The run has more items than allowed.
        """
        lies_elsewhere = self._lies_elsewhere(items, storages)
        plan = Plan(bounded(items or ())) if lies_elsewhere else self._plan(items, storages)
        return plan.on_hosts(self.hosts)

    def plan_dry_run(self, items: Sequence[str] | None, storages: PlanStorages) -> Plan:
        """Plan a run that is not started; arguments and errors as of `plan`."""
        return self.plan(items, storages)

    def _plan(self, items: Sequence[str] | None, storages: PlanStorages) -> Plan:
        """Plan the items on a storage that this process can list."""
        raise NotImplementedError

    def _lies_elsewhere(self, items: Sequence[str] | None, storages: PlanStorages) -> bool:
        """Return True if the items are on another host, where tasks alone can look at them."""
        address = self.addresses[0]
        other = next((host for host in self.hosts if host != storages.host_name), None)
        if not address.is_on_host or other is None:
            return False
        if items is None:
            raise errors.UsageError(
                f"what {address} has on another host, {other}, is not known here: name what is meant, or run "
                "this on that host"
            )
        return True


class StorageOperation(Operation):
    """Work on what one storage has."""

    repository: StorageAddressText

    @property
    def addresses(self) -> tuple[StorageAddress, ...]:
        return (self.repository,)


class ProjectOperation(Operation):
    """Work on the stages of a project's primary storage; its fields are as of `Project`.

    `takes_layouts` is True for what works on an OCI layout, too, as the only storage.
    """

    reads: ClassVar[str] = "primary"
    takes_layouts: ClassVar[bool] = False

    project: str
    primary: StorageAddressText
    final: RepositoryText | None = None
    caches: tuple[RepositoryText, ...] = ()
    secondaries: tuple[RepositoryText, ...] = ()

    @classmethod
    def of(cls, project: Project, **options: Any) -> Self:
        """Build the operation for the storages of a project."""
        return cls(**(project.as_fields() | options))

    @model_validator(mode="after")
    def _check_primary(self) -> Self:
        if self.primary.is_layout and not self.takes_layouts:
            raise errors.UsageError(
                f"{self.primary} is an OCI layout, which has no role in a project: name a repository, "
                "and copy its stages there"
            )
        return self

    @property
    def storages(self) -> Project:
        """The storages of the project."""
        return Project(self.project, self.primary, self.final, self.caches, self.secondaries)

    @property
    def addresses(self) -> tuple[StorageAddress, ...]:
        return (self.primary,)

    def _plan(self, items: Sequence[str] | None, storages: PlanStorages) -> Plan:
        """Plan the named stages, or all of the primary; caches are not read, since one may be down."""
        return Plan(select_present(storages, self.primary, items))


def fingerprint(operation: Operation, items: Iterable[str] | None) -> str:
    """Return a digest of the work, the same for the same items in any order."""
    named = None if items is None else sorted(items)
    document = json.dumps([operation.name, operation.options, named], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


# Plans from tag lists.


def named_list(storages: PlanStorages, address: StorageAddress) -> StageIdList:
    """Return the stages of a named storage; `RepositoryNotFoundError` if it does not exist."""
    listed = StageIdList.of(storages.stage_ids(address))
    if not listed:
        storages.expect(address)
    return listed


def compare(wanted: Sequence[str], storages: PlanStorages, destination: StorageAddress) -> Plan:
    """Plan the stages that a destination lacks; it may be new, but it must answer."""
    if not wanted:
        return Plan(wanted)
    present = storages.list_reachable(destination)
    if isinstance(wanted, StageNames):
        return Plan(*wanted.split(present))
    common = set(wanted).intersection(map(str, present))
    return Plan(
        [stage_id for stage_id in wanted if stage_id not in common],
        [stage_id for stage_id in wanted if stage_id in common],
    )


def bounded(items: Iterable[str], noun: str = "stages") -> Sequence[str]:
    """Return the items of a run; `TooManyItemsError` if there are more than allowed."""
    found = items if isinstance(items, Sequence) else list(islice(items, MAX_ITEMS + 1))
    if len(found) > MAX_ITEMS:
        raise errors.TooManyItemsError(
            f"a run has at most {MAX_ITEMS:,} items: name fewer {noun}, in several runs"
        )
    return found


def select_present(
    storages: PlanStorages, address: StorageAddress, items: Sequence[str] | None
) -> Sequence[str]:
    """Return the named stages, or all of None; `StagesNotFoundError` if the storage lacks some."""
    if items is None:
        return bounded(StageNames(named_list(storages, address)))
    wanted = bounded(items)
    refuse_missing(select_lacking(storages, address, wanted), [address])
    return wanted


def select_lacking(storages: PlanStorages, address: StorageAddress, items: Iterable[str]) -> Sequence[str]:
    """Return the stages that a storage's tag list lacks."""
    lacking = dict.fromkeys(items)
    for stage_id in named_list(storages, address):
        lacking.pop(str(stage_id), None)
    return list(lacking)


def refuse_missing(missing: Sequence[str], addresses: Sequence[StorageAddress]) -> None:
    """Reject stages that no storage has; the error names the first storage as the one to check."""
    if not missing:
        return
    shown = join_first(missing, _NAMED_IN_MESSAGES)
    verb = "does not have" if len(addresses) == 1 else "do not have"
    raise errors.StagesNotFoundError(
        f"{', '.join(map(str, addresses))} {verb} {shown}: see stagefleet list {addresses[0]}"
    )


# The reads of storages that a plan needs: a missing one is an error if the caller named it, else new.


@dataclass(frozen=True, slots=True)
class PlanStorages:
    """The storages that a caller names.

    Attributes:
        stage_ids: Returns the stages of a storage; there are none if it does not exist.
        record_ids: Iterates over its records of one kind.
        ping: Checks that a storage answers and accepts the login; raises if not.
        exists: Returns True if a storage exists, even an empty one.
        notice: Called with a message when a missing storage is treated as empty.
        side_by_side: Makes calls at once, each with a lease that ends with the first error, which it raises.
        beside: The other storages of a project: while one of them exists, a missing one is new.
    """

    stage_ids: Callable[[StorageAddress], Iterable[StageId]]
    record_ids: Callable[[StorageAddress, RecordKind], Iterator[RecordId]]
    ping: Callable[[StorageAddress], object]
    exists: Callable[[StorageAddress], bool]
    notice: Callable[[str], object]
    host_name: str
    side_by_side: Callable[[Sequence[Callable[[Lease], object]]], object]
    missing_ok: bool = False
    beside: tuple[StorageAddress, ...] = ()

    def expect(self, address: StorageAddress) -> None:
        """Refuse a missing repository that must exist; called if nothing was found in it."""
        if address.is_engine or self.exists(address):
            return
        if not self.missing_ok and not any(map(self.may_exist, self.beside)):
            raise errors.RepositoryNotFoundError(
                f"there is no repository {address}: mind the spelling; commands that get --missing-ok "
                "(missing_ok=True) take it for empty"
            )
        self.notice(f"there is no repository {address}: it is taken for empty")

    def listed_once(self) -> PlanStorages:
        """Return a view for several plans, in which each storage is listed once."""
        return replace(self, stage_ids=cache(lambda address: StageIdList.of(self.stage_ids(address))))

    def list_reachable(self, address: StorageAddress) -> StageIdList:
        """List a storage that may be new, but must answer."""
        found = StageIdList.of(self.stage_ids(address))
        if not found:
            self.ping(address)
        return found

    def listing(self, first: StorageAddress, second: StorageAddress) -> PlanStorages:
        """Return a view in which two storages have been listed, side by side; the second must answer.

        An error of the first is raised at once and ends both; one of the second where its list is used.
        """
        found: dict[StorageAddress, StageIdList] = {}
        failed: dict[StorageAddress, errors.StagefleetError] = {}

        def list_first(_: Lease) -> None:
            found[first] = StageIdList.of(self.stage_ids(first))

        def list_second(_: Lease) -> None:
            try:
                found[second] = self.list_reachable(second)
            except errors.StagefleetError as error:
                failed[second] = error

        def stage_ids(address: StorageAddress) -> Iterable[StageId]:
            if address in failed:
                raise failed[address]
            return found[address] if address in found else self.stage_ids(address)

        def ping(address: StorageAddress) -> object:
            return (address == second and second in found) or self.ping(address)

        self.side_by_side([list_first, list_second])
        return replace(self, stage_ids=stage_ids, ping=ping)

    def may_exist(self, address: StorageAddress) -> bool:
        """Return True if a storage exists, or does not answer."""
        if address.is_engine:
            return True  # without asking: it may be that of another host
        try:
            return self.exists(address)
        except errors.StagefleetError:
            return True
