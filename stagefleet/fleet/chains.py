"""Chains of runs: planned and written together, each starts when the one before has ended.

All runs are written before the first one starts, the last one first: each names the one that the fleet starts
when it has ended. So nobody has to wait for a chain, and whoever dies, it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_hex

from stagefleet.connections import Connections
from stagefleet.errors import RunNotFoundError, StagefleetError
from stagefleet.fleet.submission import append_plan, check_key, submit
from stagefleet.operations.base import Plan
from stagefleet.redis_client import RedisRetry
from stagefleet.runs.ledger import key_conflict
from stagefleet.runs.models import NextRun, Run, RunSpec, RunState

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class RunChains:
    """Start chains of runs, and find them again by their keys; `notice` is for messages to the user."""

    connections: Connections
    notice: Callable[[str], None]
    redis_retry: RedisRetry = field(repr=False)

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
                following = self._write(spec.model_copy(update=changes), own_plan)
                following = following.model_copy(update={"if_succeeded": if_succeeded})
            spec = first.model_copy(update={"next": following})
            submission = submit(
                lambda: ledger, spec, lambda: plan, replaces=replaces or "", redis_retry=self.redis_retry
            )
            if ledger.run(submission.run_id).spec.next != following:  # another client's, or begun by one
                self._cancel(following)
        except BaseException:
            self._cancel(following)
            raise
        return list(self.runs(submission.run_id))

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
        runs = list(self.runs(found))
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

    def runs(self, run_id: str) -> Iterator[Run]:
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
