"""Base of all item tasks: claim an item, hold its lease, do the work, finish.

A message only points to an item. Duplicate, late and stray messages find nothing to claim. Whatever happens
to an execution, the ledger recovers: a lease that is not renewed expires, and the sweep publishes the item
again.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import structlog
from celery import Celery, Task
from pydantic import ValidationError
from redis import RedisError

from stagefleet import errors
from stagefleet.attempt import Attempt, BoundItemFunction, ItemLease, ItemLeaseRenewer, ItemResult, OtherItems
from stagefleet.backoff import Backoff, jittered
from stagefleet.leases import under_lease
from stagefleet.logs import EventLogger
from stagefleet.operations.base import Operation
from stagefleet.operations.catalog import parse_operation
from stagefleet.redis_client import LastStep, RedisRetry
from stagefleet.registry.http.waits import span_text
from stagefleet.runs.ledger import Claim, FinishResult, Ledger
from stagefleet.runs.messages import facts_of_span, problem_of_item, queue_of, subject_of, task_name
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, RunSpec, WaitReason
from stagefleet.settings import RunSettings
from stagefleet.traces import Facts, Span, note, span
from tasks.flower_view import TOLD_BY_EXCEPTION, AttemptEnd, EndKind, ItemRequest

_RUNS_KEPT = 64
_NOTHING = AttemptEnd(EndKind.NOTHING)

OUT_OF_REACH = (errors.RedisUnreachableError, errors.RedisConfigurationError)
"""Errors that end a call to the ledger for good, whatever the item."""

_log = EventLogger(__name__)


class ItemExecutor:
    """Shared state of all tasks in a worker process, and the execution of one item."""

    def __init__(
        self,
        ledger: Ledger,
        renewer: ItemLeaseRenewer,
        settings: RunSettings,
        *,
        worker: str,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._ledger = ledger
        self._renewer = renewer
        self._settings = settings
        self._worker = worker
        self._redis_retry = RedisRetry(
            settings.outage_seconds, stopping=lambda: renewer.stopping, sleep=sleep
        )
        self._process, self._claims = secrets.token_hex(8), itertools.count()
        self._runs: OrderedDict[str, _KnownRun] = OrderedDict()
        self._runs_lock = threading.Lock()

    def execute(self, operation: BoundItemFunction, run_id: str, index: int) -> AttemptEnd:
        """Execute the item that a message points to, and return the end that the ledger has recorded.

        Raises:
            RedisUnreachableError: The ledger stayed unreachable; its sweep publishes the item again.
            RedisConfigurationError: The ledger's Redis has become unsuitable.
        """
        # One nonce for all tries: a lost reply costs neither lease nor attempt.
        nonce = f"{self._process}.{next(self._claims)}"
        claim = self._redis_retry(lambda: self._ledger.claim(run_id, index, self._worker, nonce=nonce))
        if claim is None:
            _log.debug("item_not_claimed", action="claim", run=run_id, index=index)
            return _NOTHING
        with self._renewer.renewing(claim) as lease:
            try:
                known = self._known_run(run_id)
            except errors.IncompatibleVersionError as error:
                with structlog.contextvars.bound_contextvars(run=run_id, item=claim.item):
                    return self._finish(claim, _outcome(claim, ItemState.FAILED, error))
            if known is None:
                _log.warning("run_gone", action="claim", run=run_id, item=claim.item)
                return _NOTHING
            host = {} if claim.host is None else {"host": claim.host}
            fields = {"run": run_id, "item": claim.item, **known.facts, **host}
            logged = structlog.contextvars.bind_contextvars(**fields)
            try:
                with _open_span(known, claim) as made:
                    end = self._attempt(operation, known, claim, lease)
                    made.note({"stagefleet.end": end.kind})
                    if end.kind in (EndKind.FAILED, EndKind.RETRY):
                        made.fail("", end.text)
            finally:
                structlog.contextvars.reset_contextvars(**logged)
            self._renewer.counts.add(round(claim.seconds * 1000), "attempt_ms", known.spec.operation)
            for registry in known.registries:
                self._renewer.counts.add(1, "registry_attempts", registry, end.kind)
            return end

    def refuse(self, run_id: str, index: int, problem: str) -> None:
        """Fail an item that this release cannot carry out; the error names both versions and the problem."""
        claim = self._redis_retry(lambda: self._ledger.claim(run_id, index, self._worker))
        if claim is None:
            return
        with (
            structlog.contextvars.bound_contextvars(run=run_id, item=claim.item),
            self._renewer.renewing(claim),
        ):
            error: errors.StagefleetError
            try:
                error = self._ledger.run(run_id).version.refusal(f"run {run_id}", problem)
            except (errors.IncompatibleVersionError, errors.RunNotFoundError) as unreadable:
                error = unreadable
            self._finish(claim, _outcome(claim, ItemState.FAILED, error))

    def _attempt(
        self, operation: BoundItemFunction, known: _KnownRun, claim: Claim, lease: ItemLease
    ) -> AttemptEnd:
        last_step = LastStep()
        attempt = Attempt(
            run_id=claim.run_id,
            item=claim.item,
            options=known.spec.options,
            operation=known.operation,
            lease=lease,
            to_delete=lambda: (item for _, item in self._ledger.leftovers(claim.run_id)),
            number=claim.attempt,
            others=OtherItems(
                own=claim.index,
                numbered=lambda: self._ledger.leftovers(claim.run_id),
                item_states=lambda indexes: self._redis_retry(
                    lambda: self._ledger.item_states(claim.run_id, indexes)
                ),
            ),
            last_step=last_step,
            continues=known.spec.parent is not None,
        )
        try:
            with under_lease(lease), last_step:
                return self._finish(claim, _done(claim, operation(attempt)), last_step=last_step)
        except (errors.LeaseLostError, errors.ItemCancelledError, errors.ItemPostponedError) as error:
            return self._leave(claim, lease, error)
        except errors.StagefleetError as error:
            return self._fail(claim, error)
        except Exception as error:  # noqa: BLE001 - a bug fails its item, and must not end the worker
            _log.error("unexpected_error", action="attempt", exc_info=error)
            return self._finish(claim, _outcome(claim, ItemState.FAILED, error))

    def _leave(self, claim: Claim, lease: ItemLease, error: errors.StagefleetError) -> AttemptEnd:
        """End an attempt that had to stop before its item was done."""
        if isinstance(error, errors.LeaseLostError):
            _log.warning("lease_lost", action="attempt", error=str(error))
            self._renewer.counts.add(1, "lost_leases", "-")
            return AttemptEnd(EndKind.RETRY, str(error))
        if isinstance(error, errors.ItemPostponedError):
            _log.info("item_postponed", action="attempt", behind=error.behind, reason=str(error))
            return self._hand_back(claim, error, behind=error.behind)
        if lease.is_cancelled:
            return self._finish(claim, _outcome(claim, ItemState.CANCELLED), told=str(error))
        return self._hand_back(claim, error)

    def _fail(self, claim: Claim, error: errors.StagefleetError) -> AttemptEnd:
        """End a failed attempt: with a pause before the next one, unless a retry is pointless."""
        outcome = _outcome(claim, ItemState.FAILED, error)
        pause = self._pause_seconds(error, claim)
        longest = self._settings.longest_pause_seconds
        if pause is not None and _asked_seconds(error) > longest:
            pause = None
            told = (
                f"{error}; an item waits {span_text(longest)} at most: raise "
                "runs.longest_pause_seconds for the workers, or start it again later"
            )
            told_error = ErrorInfo(type=type(error).__name__, message=told).bounded()
            outcome = outcome.model_copy(update={"error": told_error})
        if (reason := WaitReason.of(error)).host:
            self._renewer.counts.add_refusal(reason.host, reason.text)
        return self._finish(claim, outcome, pause, reason)

    def _finish(
        self,
        claim: Claim,
        outcome: Outcome,
        retry_after_seconds: float | None = None,
        reason: WaitReason | None = None,
        *,
        told: str = "",
        last_step: LastStep | None = None,
    ) -> AttemptEnd:
        last_step = LastStep() if last_step is None else last_step
        try:
            recorded = self._record(
                claim, outcome, retry_after_seconds=retry_after_seconds, reason=reason, last_step=last_step
            )
        except (errors.StagefleetError, RedisError) as error:
            # Completed steps stay: the next attempt finds them.
            last_step.abandon()
            _log.error("outcome_not_recorded", action="finish", state=outcome.state, error=str(error))
            return AttemptEnd(EndKind.RETRY, f"the outcome could not be recorded: {error}")
        facts: dict[str, Any] = {"attempt": claim.attempt, "seconds": outcome.seconds, "bytes": outcome.bytes}
        if not recorded:
            last_step.close()  # raises if a change that the outcome needs was refused
            _log.warning("stale_finish", action="finish", state=outcome.state, **facts)
            self._renewer.counts.add(1, "lost_leases", "-")
            return AttemptEnd(EndKind.RETRY, "the lease was over before the end could be recorded")
        error_type = None if outcome.error is None else outcome.error.type
        note({"stagefleet.bytes": outcome.bytes, "error.type": error_type})
        if outcome.error is None:
            _log.info(f"item_{outcome.state}", action="finish", **facts)
        else:
            facts |= {"error": outcome.error.message, "error_type": outcome.error.type}
            _log.warning(
                f"item_{outcome.state}", action="finish", retry_after_seconds=retry_after_seconds, **facts
            )
        return _end_of(outcome, recorded, retry_after_seconds, told)

    def _record(self, claim: Claim, outcome: Outcome, **more: Any) -> FinishResult:
        """Record an outcome; one that cannot be written becomes a failure: the item must not stay leased."""
        try:
            return self._redis_retry(lambda: self._ledger.finish(claim, outcome, **more))
        except (errors.StagefleetError, RedisError):
            raise
        except Exception as error:  # noqa: BLE001 - encoding may fail in any way
            _log.error("outcome_not_encoded", action="finish", state=outcome.state, exc_info=error)
            failed = _outcome(claim, ItemState.FAILED, error, sent_bytes=outcome.bytes)
            return self._redis_retry(lambda: self._ledger.finish(claim, failed))

    def _hand_back(self, claim: Claim, why: Exception, *, behind: int | None = None) -> AttemptEnd:
        try:
            self._ledger.hand_back(claim, behind=behind)
        except OUT_OF_REACH as error:
            _log.warning("item_not_handed_back", action="hand_back", error=str(error))
        else:
            _log.info("item_handed_back", action="hand_back", attempt=claim.attempt)
        return AttemptEnd(EndKind.RETRY, str(why))

    def _pause_seconds(self, error: errors.StagefleetError, claim: Claim) -> float | None:
        """Return the pause before the next attempt, None if a retry is pointless."""
        settings, pauses = self._settings, error.retry_pauses_seconds
        if not error.retryable or (pauses and claim.attempt > len(pauses)):
            return None
        if pauses:
            pause = max(jittered(pauses[claim.attempt - 1]), pauses[0])
        else:
            backoff = Backoff(settings.backoff_seconds, settings.backoff_limit_seconds)
            pause = backoff.pause_seconds(claim.attempt)
            asked_seconds = _asked_seconds(error)
            if asked_seconds > pause:  # with jitter: all that waited for the same end would return together
                pause = asked_seconds + jittered(min(1.0, settings.backoff_seconds))
        return round(min(pause, settings.longest_pause_seconds), 3)

    def _known_run(self, run_id: str) -> _KnownRun | None:
        """Return what a run is to do; read and parsed once per process, as it never changes."""
        with self._runs_lock:
            known = self._runs.get(run_id)
            if known is not None:
                self._runs.move_to_end(run_id)
                return known
        spec = self._redis_retry(lambda: self._ledger.spec(run_id))
        if spec is None:
            return None
        known = _KnownRun.of(spec)
        with self._runs_lock:
            self._runs[run_id] = known
            while len(self._runs) > _RUNS_KEPT:
                self._runs.popitem(last=False)
        return known


@dataclass(frozen=True, slots=True)
class _KnownRun:
    """The spec of a run and its operation; None for one that the catalog does not have, or cannot read.

    Attributes:
        facts: Fields of its log records besides run, item, host and worker.
        registries: The registries of its storages.
    """

    spec: RunSpec
    operation: Operation | None
    facts: Mapping[str, str]
    registries: frozenset[str]

    @classmethod
    def of(cls, spec: RunSpec) -> _KnownRun:
        """Parse the options of a run."""
        try:
            operation = parse_operation(spec.operation, spec.options)
        except (KeyError, ValidationError, errors.UsageError):
            operation = None  # the attempt says what is wrong
        addresses = () if operation is None else operation.addresses
        registries = frozenset(address.host for address in addresses if not address.is_on_host)
        return cls(spec, operation, subject_of(spec).facts, registries)


def _open_span(known: _KnownRun, claim: Claim) -> AbstractContextManager[Span]:
    """Open the span of an attempt, below that of the run's submission."""

    def make_facts() -> Facts:
        return {
            **facts_of_span(known.spec, claim.run_id),
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "stagefleet.item": claim.item,
            "stagefleet.host": claim.host,
            "stagefleet.attempt": claim.attempt,
        }

    name = f"process {queue_of(known.spec.operation)}"
    return span(name, "consumer", make_facts, parent=known.spec.trace)


def _done(claim: Claim, item_result: ItemResult) -> Outcome:
    state = ItemState.SKIPPED if item_result.skipped else ItemState.SUCCEEDED
    return _outcome(claim, state, result=item_result.result, sent_bytes=item_result.bytes)


def _outcome(
    claim: Claim,
    state: ItemState,
    error: Exception | None = None,
    *,
    result: dict[str, Any] | None = None,
    sent_bytes: int = 0,
) -> Outcome:
    return Outcome(
        item=claim.item,
        state=state,
        result=result,
        error=None if error is None else ErrorInfo.of(error),
        seconds=round(claim.seconds, 3),
        bytes=sent_bytes,
        attempts=claim.attempt,
        host=claim.host,
    )


def _end_of(
    outcome: Outcome, recorded: FinishResult, retry_after_seconds: float | None, told: str
) -> AttemptEnd:
    """Build the end of an attempt that the ledger has recorded."""
    reason = "" if outcome.error is None else f"{outcome.error.type}: {outcome.error.message}"
    if recorded is FinishResult.WAITING:
        return AttemptEnd(EndKind.RETRY, reason, retry_after_seconds or 0.0)
    if outcome.state is ItemState.CANCELLED:
        return AttemptEnd(EndKind.CANCELLED, told)
    if outcome.state is ItemState.FAILED:
        return AttemptEnd(EndKind.FAILED, reason)
    return AttemptEnd(EndKind.DONE, f"{outcome.state}: {outcome.bytes:,} bytes in {outcome.seconds:.1f} s")


def _asked_seconds(error: errors.StagefleetError) -> float:
    """Return the pause that a server asked for, 0 for none."""
    return getattr(error, "retry_after_seconds", None) or 0.0


class ItemTask(Task):  # type: ignore[misc]  # Celery ships no types
    """Celery task of an operation. It acknowledges late, whatever the result: the ledger has the outcome."""

    Request = ItemRequest
    ignore_result = True
    acks_late = True
    throws = TOLD_BY_EXCEPTION
    typing = False  # `problem_of` has checked the arguments
    problem_of = staticmethod(problem_of_item)

    def __init__(self, name: str, operation: BoundItemFunction, executor: ItemExecutor) -> None:
        self.name = name
        self._operation = operation
        self._executor = executor

    def run(self, *, run: str, index: int, **_unknown: Any) -> str:
        """Execute item `index` of a run; return the result in one line, and raise any other end."""
        try:
            end = self._executor.execute(self._operation, run, index)
        except OUT_OF_REACH as error:  # the sweep publishes the item again
            _log.warning("item_claim_failed", action="claim", run=run, index=index, error=str(error))
            end = AttemptEnd(EndKind.RETRY, str(error))
        return end.tell()


def register(app: Celery, operation: str, function: BoundItemFunction, executor: ItemExecutor) -> None:
    """Register an operation with a worker's application, which was created with it among its queues."""
    name = task_name(operation)
    if name in app.tasks:
        raise ValueError(f"there is a task {name} already")
    app.register_task(ItemTask(name, function, executor))
