"""Reads of storages by a client, in threads of this process, and the plans of runs, made of such reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from stagefleet import errors
from stagefleet.connections import Connections
from stagefleet.fleet.callbacks import OutcomeCallback, RunArguments, callback_fields
from stagefleet.fleet.hosts import FleetHosts
from stagefleet.fleet.submission import check_key
from stagefleet.images import StageDescription
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.operations.base import Operation, Plan, PlanStorages, fingerprint
from stagefleet.project_addresses import Items, Project, parse_storage
from stagefleet.runs import models
from stagefleet.storages.isolation import OnLeftOut, describe_all, left_out
from stagefleet.threads import LeaseBoundThreads

if TYPE_CHECKING:
    from stagefleet.registry.referrers import Referrer

_Found = TypeVar("_Found")
_THREADS = 8
_MOST_REFERRER_TAGS = 100_000  # some 15 MB


@dataclass(frozen=True, slots=True)
class StorageState:
    """The state of one storage of a project; after an error it has no number of stages."""

    project: str
    role: str
    address: StorageAddress
    stages: int | None = None
    error: errors.StagefleetError | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the state as commands print it."""
        return {
            "role": self.role,
            "address": str(self.address),
            "reachable": self.error is None,
            "stages": self.stages,
            "error": None
            if self.error is None
            else {"type": type(self.error).__name__, "message": str(self.error)},
        }


class StorageReader:
    """List and describe what storages have; plans look at storages through it, too."""

    def __init__(self, connections: Connections, notice: Callable[[str], None]) -> None:
        self._connections = connections
        self._notice = notice

    def plan_storages(
        self, *, missing_ok: bool = False, beside: Iterable[StorageAddress] = ()
    ) -> PlanStorages:
        """Create the view that plans have of storages; arguments as of `PlanStorages`."""
        storages = self._connections.storages
        return PlanStorages(
            lambda address: storages.open(address).stage_ids(),
            lambda address, kind: storages.open(address).records.ids(kind),
            lambda address: storages.open(address).check(),
            lambda address: storages.open(address).exists(),
            self._notice,
            self._connections.settings.engine.host_name,
            storages.side_by_side,
            missing_ok,
            tuple(beside),
        )

    def expecting(
        self,
        address: StorageAddress,
        found: Iterator[_Found],
        *,
        missing_ok: bool,
        beside: Iterable[StorageAddress] = (),
    ) -> Iterator[_Found]:
        """Iterate over a storage's entries; if there are none, check that the storage exists."""
        first = next(found, None)
        if first is None:
            self.plan_storages(missing_ok=missing_ok, beside=beside).expect(address)
            return found
        return chain([first], found)

    def stage_ids(self, address: StorageAddress | str, *, missing_ok: bool) -> Iterator[StageId]:
        """Iterate over the stages of a repository or of this host's engine."""
        storage = parse_storage(address)
        found = iter(self._connections.storages.open(storage).stage_ids())
        return self.expecting(storage, found, missing_ok=missing_ok)

    def describe_stages(
        self,
        address: StorageAddress | str,
        stage_ids: Items | None,
        *,
        parallel: int | None,
        on_left_out: OnLeftOut | None,
        missing_ok: bool,
    ) -> Iterator[StageDescription]:
        """Describe stages in threads of this process; see `Fleet.describe_stages`."""
        storage = parse_storage(address)
        if stage_ids is None:
            which = self.stage_ids(storage, missing_ok=missing_ok)
        else:
            which = iter([StageId.parse(str(stage_id)) for stage_id in stage_ids])
            on_left_out = self._expecting_at_first(storage, on_left_out, missing_ok=missing_ok)
        return self.describe(
            storage,
            self._connections.storages.open(storage).describe,
            which,
            is_list=stage_ids is None,
            parallel=parallel,
            on_left_out=on_left_out,
        )

    def referrers(
        self, address: Repository, stage_ids: Items | None, *, parallel: int | None, missing_ok: bool
    ) -> Iterator[tuple[StageId, list[Referrer]]]:
        """List the referrers of stages, in threads of this process; see `FleetProject.referrers`.

        Tags that lead to referrers are looked for in the tag list: those that are not there cost no request.
        """
        from stagefleet.registry.referrers import ReferrerLookup, bounded_tags  # noqa: PLC0415 - few ask for them
        from stagefleet.storages.repository import find_subjects  # noqa: PLC0415 - brings the registry client

        storage = self._connections.storages.open(address)
        tags = bounded_tags(storage.registries.tags(address), _MOST_REFERRER_TAGS)
        client = storage.registries.client
        lookup = ReferrerLookup(client, address, None if tags is None else frozenset(tags))
        if stage_ids is None:
            which = self.stage_ids(address, missing_ok=missing_ok)
        else:
            which = iter([StageId.parse(str(stage_id)) for stage_id in stage_ids])
        limit = self._connections.settings.runs.parallel if parallel is None else parallel
        return describe_all(
            lambda stage_id: (stage_id, list(lookup.find_all(find_subjects(client, address, stage_id)))),
            which,
            parallel=max(1, limit),
            on_left_out=self._tell_left_out,
            ping=storage.check,
        )

    def describe(
        self,
        address: StorageAddress,
        describe: Callable[[StageId], StageDescription],
        stage_ids: Iterable[StageId],
        *,
        is_list: bool,
        parallel: int | None,
        on_left_out: OnLeftOut | None,
    ) -> Iterator[StageDescription]:
        """Describe stages in threads; with `is_list` they are of the tag list, and so not rejected."""
        storage = self._connections.storages.open(address)
        settings = self._connections.settings.runs
        return describe_all(
            describe,
            stage_ids,
            parallel=max(1, settings.parallel if parallel is None else parallel),
            on_left_out=on_left_out or self._tell_left_out,
            # Named stages have not been checked for rejections yet.
            find=storage.known if is_list else None,
            ping=storage.check,
        )

    def storage_states(self, project: Project) -> list[StorageState]:
        """Return the state of each storage of a project; the storages are read in parallel."""
        name, storages = project.name, self._connections.storages

        def look(role: str, address: StorageAddress) -> StorageState:
            try:
                return StorageState(name, role, address, len(storages.open(address).stage_ids()))
            except errors.StagefleetError as error:
                return StorageState(name, role, address, error=error)

        with LeaseBoundThreads(_THREADS, "states") as pool:
            return list(pool.map(lambda storage: look(*storage), project.storages()))

    def _expecting_at_first(
        self, address: StorageAddress, on_left_out: OnLeftOut | None, *, missing_ok: bool
    ) -> OnLeftOut:
        """Wrap `on_left_out` so that the first missing stage checks if the repository exists."""
        tell, is_checked = on_left_out or self._tell_left_out, False

        def leave_out(stage_id: StageId, error: Exception) -> None:
            nonlocal is_checked
            if isinstance(error, errors.StageNotFoundError) and not is_checked:
                is_checked = True
                self.plan_storages(missing_ok=missing_ok).expect(address)
            tell(stage_id, error)

        return leave_out

    def _tell_left_out(self, stage_id: StageId, error: Exception) -> None:
        self._notice(left_out(stage_id, error))


# What a run is to do, and on which hosts: the plan that a client makes before it starts a run.


class RunPlans:
    """Plan runs."""

    def __init__(self, connections: Connections, reader: StorageReader, hosts: FleetHosts) -> None:
        self._connections = connections
        self._reader = reader
        self._hosts = hosts

    def plan(
        self, operation: Operation, items: Items | None, *, missing_ok: bool, beside: Sequence[StorageAddress]
    ) -> Plan:
        """Plan a dry run; see `Fleet.plan`."""
        named, placed = operation.parse_items(items), self.choose_hosts(operation)
        storages = self._reader.plan_storages(missing_ok=missing_ok, beside=beside or operation.beside)
        return placed.plan_dry_run(named, storages)

    def prepare(
        self, operation: Operation, items: Items | None, callback: OutcomeCallback, run: RunArguments
    ) -> tuple[models.RunSpec, Callable[[], Plan]]:
        """Return what a run is to do, and the function that plans it."""
        key, parallel = run.get("idempotency_key"), run.get("parallel")
        check_key(key)
        if (host := run.get("host")) is not None:
            operation = operation.on_hosts([host])
        named, placed = operation.parse_items(items), self.choose_hosts(operation)
        storages = partial(
            self._reader.plan_storages,
            missing_ok=run.get("missing_ok", False),
            beside=run.get("beside") or operation.beside,
        )
        settings = self._connections.settings.runs
        spec = models.RunSpec(
            operation=placed.name,
            options=placed.options,
            parallel=max(1, settings.parallel if parallel is None else parallel),
            **callback_fields(callback),
            key=key,
            fingerprint=fingerprint(placed, named),
            max_attempts=settings.max_attempts,
            starts_early=settings.start_early in ("always", "never" if key else "auto")
            and placed.starts_early
            and not run.get("request"),
        )
        return spec, lambda: placed.plan(named, storages())

    def choose_hosts(self, operation: Operation) -> Operation:
        """Choose the hosts of an operation whose storages are on hosts.

        Raises:
            UsageError: Hosts are named, and all storages are in registries.
            HostNotFoundError: A host has no live worker.
        """
        if any(address.is_layout for address in operation.addresses):
            return operation.on_hosts(self._hosts.choose_for_layouts(operation.hosts))
        if operation.is_on_host:
            return operation.on_hosts(self._hosts.choose(operation.hosts))
        if operation.hosts:
            raise errors.UsageError(
                f"host {operation.hosts[0]} is named, but {operation.addresses[-1]} is in a registry: "
                "registries have no hosts"
            )
        return operation
