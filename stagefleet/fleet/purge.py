"""Purges: the deletion of everything in a project, several runs that are planned as one.

All runs are written before the first one starts, the last one first: each names the one that the fleet starts
when it has ended. So nobody has to wait for a purge, and whoever dies, it goes on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from stagefleet.connections import Connections
from stagefleet.errors import RunNotFoundError, StagefleetError
from stagefleet.fleet.callbacks import RemoteCallback, callback_fields
from stagefleet.fleet.submission import append_plan, check_key, submit
from stagefleet.operations.base import Operation, Plan, bounded
from stagefleet.operations.catalog import parse_operation
from stagefleet.project import Project
from stagefleet.redis_client import RedisRetry
from stagefleet.runs.ledger import key_conflict
from stagefleet.runs.models import NextRun, Run, RunSpec, RunState

if TYPE_CHECKING:
    from stagefleet.projects.purge import PurgeGroup, PurgePlan  # imports the registry client

_POLL_SECONDS = 0.2


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
    """Start the purge of a project, or find the one under a key; `notice` is for messages to the user."""

    connections: Connections
    project: Project
    choose_hosts: Callable[[Operation], Operation]
    notice: Callable[[str], None]
    redis_retry: RedisRetry = field(repr=False)

    def start(
        self, plan: PurgePlan, callback: RemoteCallback | None, *, parallel: int, key: str | None
    ) -> list[PurgedGroup]:
        """Write the runs of all groups, and start the first; as of `FleetProject.start_purge`."""
        if key is not None and (found := self.find(key)) is not None:
            return found
        ledger, chain = self.connections.ledger, token_hex(6)
        replaces = key and ledger.run_under(key)
        groups = [group for group in plan.groups if group.items]
        following: NextRun | None = None
        if not groups:
            return self._described(plan, [])
        try:
            for group in reversed(groups[1:]):
                # A key keeps a run that waits for its start from the sweep of an older release.
                run_key = f"purge {chain} {group.name}"
                spec = self._spec(group, callback, parallel=parallel, key=run_key, following=following)
                following = self._write(spec.model_copy(update={"follows": True}), group)
            spec = self._spec(groups[0], callback, parallel=parallel, key=key, following=following)
            first = _plan_of(spec, groups[0])
            submission = submit(
                lambda: ledger, spec, lambda: first, replaces=replaces or "", redis_retry=self.redis_retry
            )
            if ledger.run(submission.run_id).spec.next != following:  # another client's, or begun by one
                self._cancel(following)
        except BaseException:
            self._cancel(following)
            raise
        return self._described(plan, list(self._chain(submission.run_id)))

    def _write(self, spec: RunSpec, group: PurgeGroup) -> NextRun:
        """Write a run that is started later."""
        submission = self.connections.ledger.open(spec)
        try:
            append_plan(self.connections.ledger, submission, _plan_of(spec, group), self.redis_retry)
        except BaseException:
            with suppress(StagefleetError):
                self.connections.ledger.cancel(submission.run_id)
            raise
        return NextRun(run_id=submission.run_id, token=submission.token, items=submission.items)

    def find(self, key: str) -> list[PurgedGroup] | None:
        """Return the groups of the last purge under a key; as of `FleetProject.purge_under`."""
        check_key(key)
        found = self.connections.ledger.run_under(key)
        if found is None or not self._is_submitted(found):
            return None
        runs = list(self._chain(found))
        is_whole = bool(runs) and runs[-1].spec.next is None
        if is_whole and all(run.state is RunState.SUCCEEDED for run in runs):
            self.notice(f"nothing was done now: the purge succeeded under this key, with run {found}")
        elif all(run.state.is_final for run in runs):
            return None
        return [_group_of(run) for run in runs]

    def _is_submitted(self, run_id: str) -> bool:
        """Wait while another client writes a purge; return False, and cancel it, if that one has vanished."""
        ledger, run = self.connections.ledger, self.connections.ledger.run(run_id)
        if run.spec.fingerprint != self._fingerprint():
            raise key_conflict(run.spec.key, run_id)
        total, until = run.total, time.monotonic() + run.lease_seconds
        while (stands := ledger.run(run_id)).state is RunState.SUBMITTING:
            if stands.total != total:  # it lives: each part that it writes renews its lease
                total, until = stands.total, time.monotonic() + run.lease_seconds
            elif time.monotonic() > until:
                ledger.cancel(run_id)
                self._cancel(run.spec.next)
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _spec(
        self,
        group: PurgeGroup,
        callback: RemoteCallback | None,
        *,
        parallel: int,
        key: str | None,
        following: NextRun | None,
    ) -> RunSpec:
        operation = self.choose_hosts(parse_operation(group.operation, group.options))
        return RunSpec(
            operation=operation.name,
            options=operation.options,
            parallel=parallel,
            **callback_fields(callback),
            key=key,
            fingerprint=self._fingerprint(),
            max_attempts=self.connections.settings.runs.max_attempts,
            group=group.name,
            next=following,
        )

    def _fingerprint(self) -> str:
        storages = {role: str(address) for role, address in self.project.as_fields().items()}
        return hashlib.sha256(json.dumps(["purge", storages], sort_keys=True).encode()).hexdigest()

    def _chain(self, run_id: str) -> Iterator[Run]:
        """Iterate over a run and those that follow it, up to one that Redis has lost."""
        following: str | None = run_id
        with suppress(RunNotFoundError):  # the sweep cancels those after it
            while following is not None:
                run = self.connections.ledger.run(following)
                yield run
                following = None if run.spec.next is None else run.spec.next.run_id

    def _cancel(self, following: NextRun | None) -> None:
        """Cancel runs that will not be started."""
        with suppress(StagefleetError):
            while following is not None:
                run = self.connections.ledger.run(following.run_id)
                self.connections.ledger.cancel(run.id)
                following = run.spec.next

    @staticmethod
    def _described(plan: PurgePlan, runs: Sequence[Run]) -> list[PurgedGroup]:
        by_group = {run.spec.group: run for run in runs}
        return [
            PurgedGroup(group.name, str(group.repository), by_group.get(group.name), group.size)
            for group in plan.groups
        ]


def _plan_of(spec: RunSpec, group: PurgeGroup) -> Plan:
    return Plan(bounded(group.items)).on_hosts(spec.options.get("hosts", ()))


def _group_of(run: Run) -> PurgedGroup:
    options: dict[str, Any] = dict(run.spec.options)
    return PurgedGroup(run.spec.group, str(options.get("repository", "")), run)
