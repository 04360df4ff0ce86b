"""Chains of runs, as mirrors and purges: planned and written together, each starts when the one before ended.

All runs are written before the first one starts, the last one first: each names the one that the fleet starts
when it has ended. So nobody has to wait for a chain, and whoever dies, it goes on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_hex
from typing import TYPE_CHECKING

from stagefleet.connections import Connections
from stagefleet.errors import PruneLimitError, RunNotFoundError, StagefleetError
from stagefleet.fleet.callbacks import RemoteCallback, RunArguments, callback_fields
from stagefleet.fleet.follower import read_chain
from stagefleet.fleet.storage_reader import RunPlans, StorageReader
from stagefleet.fleet.submission import append_plan, cancelled_if_interrupted, check_key, submit
from stagefleet.operations.base import Operation, Plan, bounded, fingerprint
from stagefleet.operations.catalog import parse_operation
from stagefleet.operations.copy import CopyOperation
from stagefleet.operations.delete import PruneOperation
from stagefleet.project_addresses import Project, parse_repository
from stagefleet.redis_client import RedisRetry
from stagefleet.runs.ledger import key_conflict
from stagefleet.runs.models import NextRun, Run, RunSpec, RunState
from stagefleet.traces import in_span

if TYPE_CHECKING:
    from stagefleet.projects.purge_plan import PurgeGroup, PurgePlan  # imports the registry client

_POLL_SECONDS = 0.2
_WHOLE = {"starts_early": False}


@dataclass(frozen=True, slots=True)
class RunChains:
    """Start chains of runs, and find them again by their keys; `notice` is for messages to the user."""

    connections: Connections
    notice: Callable[[str], None]
    redis_retry: RedisRetry = field(repr=False)

    @in_span("submit chain", "producer")
    def start(self, runs: Sequence[tuple[RunSpec, Plan]], *, if_succeeded: bool = False) -> list[Run]:
        """Write some runs in the order of their starts, and start the first; return them.

        The key of the first one is that of the chain. With `if_succeeded` a run starts only if the one before
        has succeeded; else also if it has failed.
        """
        ledger, name = self.connections.ledger, token_hex(6)
        (first, plan), *later = runs
        replaces = first.key and ledger.run_under(first.key)
        following: NextRun | None = None
        try:
            for number, (spec, own_plan) in reversed(list(enumerate(later, 2))):
                # A key keeps a run that waits for its start from the sweep of an older release.
                changes = {"key": f"chain {name} {number}", "next": following, "follows": True}
                following = self._write(spec.model_copy(update=changes | _WHOLE), own_plan)
                following = following.model_copy(update={"if_succeeded": if_succeeded})
            spec = first.model_copy(update={"next": following} | _WHOLE)
            submission = submit(
                lambda: ledger, spec, lambda: plan, replaces=replaces or "", redis_retry=self.redis_retry
            )
            with cancelled_if_interrupted(ledger, submission):
                if ledger.run(submission.run_id).spec.next != following:  # another client's, or begun by one
                    self._cancel(following)
                return self._runs(submission.run_id)
        except BaseException:
            self._cancel(following)
            raise

    def _write(self, spec: RunSpec, plan: Plan) -> NextRun:
        """Write a run that is started later."""
        submission = self.connections.ledger.open(spec)
        try:
            append_plan(self.connections.ledger, submission, plan, self.redis_retry)
        except BaseException:
            with suppress(StagefleetError):
                self.connections.ledger.cancel(submission.run_id)
            raise
        return NextRun(
            run_id=submission.run_id,
            token=submission.token,
            items=submission.items,
            decided=submission.decided,
        )

    def find(self, key: str, fingerprint: str) -> list[Run] | None:
        """Return the last chain under a key; None if there is none that goes on or succeeded as a whole.

        Raises:
            KeyConflictError: The key was used with other arguments.
            UsageError: The key is unusable.
        """
        check_key(key)
        found = self.connections.ledger.run_under(key)
        if found is None or not self._is_submitted(found, fingerprint):
            return None
        runs = self._runs(found)
        is_whole = bool(runs) and runs[-1].spec.next is None and not runs[-1].spec.refusal
        if is_whole and all(run.state is RunState.SUCCEEDED for run in runs):
            self.notice(f"nothing was done now: all of it succeeded under this key, with run {found}")
        elif all(run.state.is_final for run in runs):
            return None
        return runs

    def _is_submitted(self, run_id: str, fingerprint: str) -> bool:
        """Wait while another client writes a chain; return False, and cancel it, if that one has vanished."""
        ledger, run = self.connections.ledger, self.connections.ledger.run(run_id)
        if run.spec.fingerprint != fingerprint:
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

    def _runs(self, run_id: str) -> list[Run]:
        """Return a run and those that follow it; none if it has expired."""
        with suppress(RunNotFoundError):
            return list(read_chain(self.connections.ledger, self.connections.ledger.run(run_id)))
        return []

    def _cancel(self, following: NextRun | None) -> None:
        """Cancel runs that will not be started."""
        with suppress(StagefleetError):
            while following is not None:
                run = self.connections.ledger.run(following.run_id)
                self.connections.ledger.cancel(run.id)
                following = run.spec.next


# Mirrors: copies of all stages, after which the destination has no more of them than the source.


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """The stages to copy and then to delete; none of these if they are too many, as `refusal` says."""

    copies: Plan
    deletions: Plan
    refusal: PruneLimitError | None = None


@dataclass(frozen=True, slots=True)
class Mirror:
    """The runs of a mirror: the copy, and the deletion if there is anything to delete.

    `refusal` says that too much would have been deleted, and so nothing is.
    """

    runs: Sequence[Run]
    refusal: PruneLimitError | None = None


@dataclass(frozen=True, slots=True)
class MirrorStarter:
    """Plan and start mirrors; as of `FleetProject.start_mirror`."""

    chains: RunChains
    plans: RunPlans
    reader: StorageReader

    def plan(self, copy: CopyOperation, max_percent: float) -> MirrorPlan:
        """Plan a mirror, from one list of each storage."""
        prune, storages = _prune_of(copy, max_percent), self.reader.plan_storages().listed_once()
        refusal: PruneLimitError | None = None
        try:
            deletions = prune.plan(None, storages)
        except PruneLimitError as error:
            deletions, refusal = Plan(()), error
        return MirrorPlan(copy.plan(None, storages), deletions, refusal)

    def start(
        self,
        copy: CopyOperation,
        callback: RemoteCallback | None,
        max_percent: float,
        *,
        parallel: int | None,
        key: str | None,
    ) -> Mirror:
        """Write the copy and the deletion, and start the copy; or find those under the key."""
        prune = _prune_of(copy, max_percent)
        options = [copy.name, str(copy.verify), str(copy.foreign_layers)]
        listed = prune.model_copy(update={"referrers": False})  # as releases did that pruned without them
        own = fingerprint(listed, [*options, "referrers"] if copy.referrers else options)
        found = None if key is None else self.chains.find(key, own)
        if found is not None:
            reason = found[0].spec.refusal if found else ""
            return Mirror(found, PruneLimitError(reason) if reason else None)
        plan = self.plan(copy, max_percent)
        spec = self._spec(copy, callback, own, parallel=parallel, key=key)
        runs = [(spec.model_copy(update={"refusal": str(plan.refusal or "")}), plan.copies)]
        if plan.deletions:
            runs.append((self._spec(prune, callback, own, parallel=parallel, key=key), plan.deletions))
        return Mirror(self.chains.start(runs, if_succeeded=True), plan.refusal)

    def _spec(
        self,
        operation: Operation,
        callback: RemoteCallback | None,
        own_fingerprint: str,
        *,
        parallel: int | None,
        key: str | None,
    ) -> RunSpec:
        run = RunArguments(parallel=parallel, idempotency_key=key)
        spec, _ = self.plans.prepare(operation, None, callback, run)
        return spec.model_copy(update={"fingerprint": own_fingerprint})


def _prune_of(copy: CopyOperation, max_percent: float) -> PruneOperation:
    source, destination = map(parse_repository, copy.addresses)
    return PruneOperation(
        repository=destination, source=source, max_percent=max_percent, referrers=copy.referrers
    )


# Purges: the deletion of everything in a project, a chain of runs that are planned as one.


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
        runs = self.chains.start(specs) if specs else []
        by_group = {run.spec.group: run for run in runs}
        return [
            PurgedGroup(group.name, str(group.repository), by_group.get(group.name), group.size)
            for group in plan.groups
        ]

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


def _group_of(run: Run) -> PurgedGroup:
    return PurgedGroup(run.spec.group, str(run.spec.options.get("repository", "")), run)
