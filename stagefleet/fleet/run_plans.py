"""What a run is to do, and on which hosts: the plan that a client makes before it starts a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from stagefleet.connections import Connections
from stagefleet.errors import UsageError
from stagefleet.fleet.callbacks import OutcomeCallback, RunArguments, callback_fields
from stagefleet.fleet.hosts import FleetHosts
from stagefleet.fleet.reader import StorageReader
from stagefleet.fleet.submission import check_key
from stagefleet.names import StorageAddress
from stagefleet.operations.base import Items, Operation, Plan, fingerprint
from stagefleet.runs.models import RunSpec


class RunPlans:
    """Plan runs."""

    def __init__(self, connections: Connections, reader: StorageReader, hosts: FleetHosts) -> None:
        self._connections = connections
        self._reader = reader
        self._hosts = hosts

    def plan(
        self,
        operation: Operation,
        items: Items | None,
        *,
        missing_ok: bool,
        beside: Sequence[StorageAddress],
    ) -> Plan:
        """Plan a dry run; see `Fleet.plan`."""
        named, placed = operation.parse_items(items), self.choose_hosts(operation)
        storages = self._reader.plan_storages(missing_ok=missing_ok, beside=beside or operation.beside)
        return placed.plan_dry_run(named, storages)

    def prepare(
        self,
        operation: Operation,
        items: Items | None,
        callback: OutcomeCallback | None,
        run: RunArguments,
    ) -> tuple[RunSpec, Callable[[], Plan]]:
        """Return what a run is to do, and the function that plans it."""
        key, parallel = run.get("idempotency_key"), run.get("parallel")
        check_key(key)
        named, placed = operation.parse_items(items), self.choose_hosts(operation)
        storages = partial(
            self._reader.plan_storages,
            missing_ok=run.get("missing_ok", False),
            beside=run.get("beside") or operation.beside,
        )
        settings = self._connections.settings.runs
        spec = RunSpec(
            operation=placed.name,
            options=placed.options,
            parallel=max(1, settings.parallel if parallel is None else parallel),
            **callback_fields(callback),
            key=key,
            fingerprint=fingerprint(placed, named),
            max_attempts=settings.max_attempts,
        )
        return spec, lambda: placed.plan(named, storages())

    def choose_hosts(self, operation: Operation) -> Operation:
        """Choose the hosts of an operation on engines.

        Raises:
            UsageError: Hosts are named, and no engine takes part.
            HostNotFoundError: A host has no live worker.
        """
        if operation.is_on_host:
            return operation.on_hosts(self._hosts.choose(operation.hosts))
        if operation.hosts:
            raise UsageError(
                f"host {operation.hosts[0]} is named, but {operation.addresses[-1]} is no Docker Engine: "
                "registries have no hosts"
            )
        return operation
