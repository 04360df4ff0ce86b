"""Purges: the deletion of everything in a project, a chain of runs that are planned as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagefleet.fleet.callbacks import RemoteCallback, callback_fields
from stagefleet.fleet.chains import RunChains
from stagefleet.operations.base import Operation, Plan, bounded
from stagefleet.operations.catalog import parse_operation
from stagefleet.project import Project
from stagefleet.runs.models import Run, RunSpec

if TYPE_CHECKING:
    from stagefleet.projects.purge import PurgeGroup, PurgePlan  # imports the registry client


@dataclass(frozen=True, slots=True)
class PurgedGroup:
    """A group of a purge, in the storage of an address; an empty one has no run."""

    name: str
    repository: str
    run: Run | None
    size: int | None = None


OnGroup = Callable[[PurgedGroup], None]


@dataclass(frozen=True, slots=True)
class PurgeStarter:
    """Start the purge of a project, or find the one under a key."""

    chains: RunChains
    project: Project
    choose_hosts: Callable[[Operation], Operation]
    max_attempts: int

    def start(
        self, plan: PurgePlan, callback: RemoteCallback | None, *, parallel: int, key: str | None
    ) -> list[PurgedGroup]:
        """Write the runs of all groups, and start the first; as of `FleetProject.start_purge`."""
        if key is not None and (found := self.find(key)) is not None:
            return found
        specs = [
            self._spec(group, callback, parallel=parallel, key=key) for group in plan.groups if group.items
        ]
        return self._described(plan, self.chains.start(specs) if specs else [])

    def find(self, key: str) -> list[PurgedGroup] | None:
        """Return the groups of the last purge under a key; as of `FleetProject.purge_under`."""
        runs = self.chains.find(key, self._fingerprint())
        return None if runs is None else [_group_of(run) for run in runs]

    def _spec(
        self, group: PurgeGroup, callback: RemoteCallback | None, *, parallel: int, key: str | None
    ) -> tuple[RunSpec, Plan]:
        operation = self.choose_hosts(parse_operation(group.operation, group.options))
        spec = RunSpec(
            operation=operation.name,
            options=operation.options,
            parallel=parallel,
            **callback_fields(callback),
            key=key,
            fingerprint=self._fingerprint(),
            max_attempts=self.max_attempts,
            group=group.name,
        )
        return spec, Plan(bounded(group.items)).on_hosts(operation.hosts)

    def _fingerprint(self) -> str:
        storages = {role: str(address) for role, address in self.project.as_fields().items()}
        return hashlib.sha256(json.dumps(["purge", storages], sort_keys=True).encode()).hexdigest()

    @staticmethod
    def _described(plan: PurgePlan, runs: Sequence[Run]) -> list[PurgedGroup]:
        by_group = {run.spec.group: run for run in runs}
        return [
            PurgedGroup(group.name, str(group.repository), by_group.get(group.name), group.size)
            for group in plan.groups
        ]


def _group_of(run: Run) -> PurgedGroup:
    options: dict[str, Any] = dict(run.spec.options)
    return PurgedGroup(run.spec.group, str(options.get("repository", "")), run)
