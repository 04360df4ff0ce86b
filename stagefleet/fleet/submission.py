"""The submission of a run: find it by its key, or plan it and write it to the ledger."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache, partial
from itertools import islice
from time import sleep
from typing import Any, TypeVar

from stagefleet import errors
from stagefleet.backoff import jittered
from stagefleet.connections import Connections
from stagefleet.fleet.callbacks import OutcomeCallback, RemoteCallback, RunArguments, callback_fields
from stagefleet.fleet.follower import RunFollower, read_outcomes
from stagefleet.leases import RenewedLease, renewed
from stagefleet.names import join_host
from stagefleet.operations.base import Plan
from stagefleet.redis_client import OUTAGE_SECONDS, RedisRetry
from stagefleet.runs import models
from stagefleet.runs.ledger import Ledger
from stagefleet.runs.messages import facts_of_span, log_run_started
from stagefleet.traces import in_span, note

T = TypeVar("T")

_LOGGER = logging.getLogger("stagefleet")

_ITEMS_A_CALL = 2000
_POLL_SECONDS = 0.5
_MOST_BEGINNINGS = 10
"""How many times a run is written if Redis loses its beginning."""
_MAX_KEY_CHARACTERS = 200
_MOST_SUBMISSIONS = 5
"""How many times a run is submitted if Redis loses it after its start."""
_OWN = (models.SubmissionKind.NEW, models.SubmissionKind.CONTINUED)
"""The kinds of submissions of which this call starts the run."""


def check_key(key: str | None) -> None:
    """Reject unusable idempotency keys with `UsageError`."""
    if key is not None and not (0 < len(key) <= _MAX_KEY_CHARACTERS and key.isprintable()):
        raise errors.UsageError(f"an idempotency key has 1 to {_MAX_KEY_CHARACTERS} printable characters")


@in_span("submit run", "producer")
def submit(
    open_ledger: Callable[[], Ledger],
    spec: models.RunSpec,
    make_plan: Callable[[], Plan],
    *,
    again: models.Submission | None = None,
    request: str = "",
    replaces: str = "",
    redis_retry: RedisRetry | None = None,
    starts_early: Callable[[Plan], bool] = lambda _: True,
) -> models.Submission:
    """Write a run and start it, or find the one with the spec's key; this call or another has started it.

    The plan is made once at most, before anything is written, unless the key already has a run: a retried
    job gets its result even if the source has changed. A run on request is opened first, and fails if its
    plan is refused. What Redis loses is written again.

    Args:
        open_ledger: Returns the ledger; called after the plan if possible, since it may start services.
        again: This client's own earlier submission of the run, of which Redis has lost a part.
        request: The message that asks for the run; "" for a client that waits for the start.
        replaces: The ended run whose key this one takes; "" to continue that of the key.
        redis_retry: Retries while Redis is out of reach, once the run is open; before, nothing is lost.
        starts_early: Returns False if a run of such a plan starts when its list is complete, in any case.

    Raises:
        UsageError: The plan is rejected, or the key was used with other arguments.
        LeaseLostError: Another submitter with the same key took the run over.
        LedgerRewoundError: Redis keeps losing written data.
    """
    plan = None if request or (spec.key is not None and open_ledger().run_under(spec.key)) else make_plan()
    make_once = cache(make_plan) if plan is None else lambda: plan
    ledger = open_ledger()
    if plan is not None:
        spec = spec.model_copy(update={"starts_early": spec.starts_early and starts_early(plan)})
    open_run = partial(ledger.open, spec, request=request, replaces=replaces)
    for beginnings_left in reversed(range(_MOST_BEGINNINGS)):
        if (submission := _open(partial(open_run, again=again), ledger)).kind not in _OWN:
            break
        try:
            _write(ledger, submission, make_once, redis_retry or RedisRetry(OUTAGE_SECONDS))
            log_run_started(submission.run_id, spec, submission.total)
            break
        except BaseException as error:
            if not isinstance(error, errors.LedgerRewoundError) or not beginnings_left:
                _give_up(ledger, submission, spec, error, is_requested=bool(request))
                raise
            again = submission
    note(facts_of_span(spec, submission.run_id) | {"stagefleet.submission": submission.kind})
    return submission


@contextmanager
def cancelled_if_interrupted(ledger: Ledger, submission: models.Submission) -> Iterator[None]:
    """Cancel a run that this call has started, if an interrupt keeps the caller from knowing of it."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(errors.StagefleetError):
            if _has_started(ledger, submission):
                ledger.cancel(submission.run_id)
        raise


def _has_started(ledger: Ledger, submission: models.Submission) -> bool:
    """Return True if this call has started the run."""
    going_on = {models.RunState.RUNNING, models.RunState.PAUSED}
    return submission.kind in _OWN and ledger.run(submission.run_id).state in going_on


def _give_up(
    ledger: Ledger,
    submission: models.Submission,
    spec: models.RunSpec,
    error: BaseException,
    *,
    is_requested: bool,
) -> None:
    """Cancel a run that could not be written, or fail it if its request was refused.

    So it does with a run that an interrupt keeps the caller from knowing of, and with one that has started
    early and is interrupted or refused. Any other with a key is left as it is, also if another client has it
    or Redis is out of reach: once the submitter's lease has expired, the next attempt completes it.
    """
    is_refusal = isinstance(error, errors.StagefleetError) and not isinstance(
        error, errors.RedisUnreachableError
    )
    with suppress(errors.StagefleetError):
        is_interrupted = isinstance(error, KeyboardInterrupt) and _has_started(ledger, submission)
        is_refused = is_refusal and not isinstance(error, errors.LeaseLostError)
        is_stopped = spec.starts_early and (is_refused or isinstance(error, KeyboardInterrupt))
        if spec.key is None or is_interrupted or is_stopped:
            ledger.cancel(submission.run_id)
        elif is_requested and is_refusal:  # neither an outage, nor a bug, nor the end of the process
            ledger.fail(submission, models.ErrorInfo.of(error))


def tell_old_result(ledger: Ledger, submission: models.Submission, notice: Callable[[str], None]) -> None:
    """Say that nothing is done now if the key's run had succeeded before."""
    if submission.kind is not models.SubmissionKind.SUCCEEDED:
        return
    run = ledger.run(submission.run_id)
    ended = datetime.fromtimestamp(run.finished_at or run.created_at, UTC).isoformat(timespec="seconds")
    notice(f"nothing was done now: run {run.id} of {ended} succeeded under this key, and its result is shown")


class RunSubmitter:
    """Submit runs, and follow them if their clients wait."""

    def __init__(
        self, connections: Connections, follower: RunFollower, notice: Callable[[str], None]
    ) -> None:
        self._connections = connections
        self._follower = follower
        self._notice = notice

    def submit(
        self,
        spec: models.RunSpec,
        make_plan: Callable[[], Plan],
        on_outcome: OutcomeCallback,
        arguments: RunArguments,
    ) -> models.Run:
        """Submit a run, and follow it unless detached; submit it again if Redis forgets it."""
        detach, request = arguments.get("detach", False), arguments.get("request", "")
        if arguments.get("enqueue"):
            return self._enqueue(spec, request)
        if isinstance(on_outcome, RemoteCallback):
            on_outcome = None
        elif on_outcome is not None and detach:
            raise errors.UsageError(
                "a detached run cannot call back into this process: hand in a RemoteCallback, or leave out "
                "on_outcome or detach"
            )
        self._connections.begin_start()  # while the plan is made
        redis_retry = self._follower.redis_retry()
        submission = None
        for submissions_left in reversed(range(_MOST_SUBMISSIONS)):
            submission = submit(
                lambda: self._connections.ledger,
                spec,
                make_plan,
                again=submission,
                request=request,
                redis_retry=redis_retry,
                starts_early=self._starts_early,
            )
            try:
                tell_old_result(self._connections.ledger, submission, self._notice)
                if detach:
                    with cancelled_if_interrupted(self._connections.ledger, submission):
                        return self._follower.started(submission.run_id)
                return self._follower.coordinate(submission.run_id, submission.kind, on_outcome)
            except (errors.LedgerRewoundError, errors.RunNotFoundError):
                if not submissions_left or not self._follower.is_forgotten(submission.run_id):
                    raise
                self._notice(f"Redis has forgotten run {submission.run_id}, as after a failover: begun again")
        raise AssertionError  # the last submission returns or raises

    def _starts_early(self, plan: Plan) -> bool:
        """Return True if the settings say so, or if it is worth it and all live workers know such runs."""
        connections = self._connections
        if connections.settings.runs.start_early == "always":
            return True
        if len(plan) <= _ITEMS_A_CALL:
            return False
        if connections.starts_worker:
            return True
        workers = connections.ledger.heartbeats.workers()
        return bool(workers) and all(worker.version.knows_early_starts for worker in workers)

    def _enqueue(self, spec: models.RunSpec, request: str) -> models.Run:
        """Open a run and leave its plan to the worker that takes the request, or find the run of its key."""
        if not request or spec.key is None:
            raise errors.UsageError("a worker plans a run on request alone: hand in the request, and a key")
        ledger = self._connections.ledger
        return ledger.run(ledger.open(spec, request=request, enqueue=True).run_id)


def _open(open_run: Callable[[], models.Submission], ledger: Ledger) -> models.Submission:
    """Open the run; wait while another client is submitting it.

    The wait ends with the other's submission, or its lease: then this client submits the run.
    """
    told = False
    while True:
        submission = open_run()
        if submission.kind is not models.SubmissionKind.ATTACHED:
            return submission
        with suppress(errors.RunNotFoundError):  # Redis has lost it since
            if ledger.run(submission.run_id).state is not models.RunState.SUBMITTING:
                return submission
        if not told:
            told = True
            _LOGGER.warning(
                "another client is starting run %s under this key: waiting until it has, or is gone",
                submission.run_id,
            )
        sleep(jittered(_POLL_SECONDS))


def _write(
    ledger: Ledger, submission: models.Submission, make_plan: Callable[[], Plan], redis_retry: RedisRetry
) -> None:
    """Append the items, those that a previous run left or those of the plan, and start the run."""
    plan = None
    if submission.kind is models.SubmissionKind.CONTINUED and submission.previous is not None:
        with suppress(errors.RunNotFoundError):  # it has expired meanwhile
            plan = leftover_plan(ledger, submission.previous)
    with _renewed(ledger, submission):
        plan = make_plan() if plan is None else plan
        if submission.total:  # it has started early, and its submitter vanished or Redis has lost a part
            plan = _rest_of(plan, ledger, submission.run_id)
    append_plan(ledger, submission, plan, redis_retry)
    redis_retry(lambda: ledger.start(submission))


def _rest_of(plan: Plan, ledger: Ledger, run_id: str) -> Plan:
    """Return what of a plan its run does not have yet; in this order, as items end meanwhile."""
    names = {item for _, item in ledger.leftovers(run_id)}
    names.update(join_host(outcome.item, outcome.host) for outcome in read_outcomes(ledger, run_id))
    items, skipped = ([name for name in part if name not in names] for part in (plan.items, plan.skipped))
    return Plan(items, skipped)


def leftover_plan(ledger: Ledger, run_id: str) -> Plan:
    """Plan the items that a finished run left, see `SubmitterLedger.leftovers`."""
    return Plan(tuple(item for _, item in ledger.leftovers(run_id)))


def _renewed(ledger: Ledger, submission: models.Submission) -> AbstractContextManager[RenewedLease]:
    """Renew the submitter's lease in the block, without an append of its own."""

    def renew() -> bool:
        try:
            ledger.append(submission, ())
        except (errors.LeaseLostError, errors.LedgerRewoundError):
            return False  # the next append raises it
        return True

    return renewed("submission", RenewedLease(submission.lease_seconds, time.monotonic()), renew)


def append_plan(ledger: Ledger, submission: models.Submission, plan: Plan, redis_retry: RedisRetry) -> None:
    """Append the items of a plan to an open run; `LedgerRewoundError` if Redis has lost a part of it."""
    skipped = (models.Outcome.without_task(item, models.ItemState.SKIPPED) for item in plan.skipped)
    for decided in _chunks(skipped):
        _append(ledger, submission, (), decided, redis_retry)
    for items in _chunks(plan.items):
        _append(ledger, submission, items, (), redis_retry)


def _append(
    ledger: Ledger,
    submission: models.Submission,
    items: Sequence[str],
    decided: Sequence[models.Outcome],
    redis_retry: RedisRetry,
) -> None:
    nonce = secrets.token_hex(8)  # one for all attempts: items added without an answer are not added again
    redis_retry(lambda: ledger.append(submission, items, decided, nonce=nonce))


def _chunks(values: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, _ITEMS_A_CALL)):
        yield chunk


# A retry of a finished run.


def spec_of_retry(
    old: models.Run, on_outcome: OutcomeCallback, *, parallel: int | None
) -> models.RunSpec | None:
    """Return what a retry of a finished run is to do, see `Fleet.retry`; None if all of it succeeded."""
    if not old.state.is_final:
        raise errors.UsageError(f"run {old.id} is still {old.state}: watch it, or cancel it first")
    if old.state is models.RunState.FAILED and not old.total:
        raise errors.UsageError(f"run {old.id} was never planned: send its request again")
    if old.state is models.RunState.SUCCEEDED:
        return None
    changed: dict[str, Any] = {
        "key": None,
        "fingerprint": "",
        "parent": old.id,
        "group": "",
        "refusal": "",
        "next": None,
        "follows": False,
    }
    if parallel is not None:
        changed["parallel"] = max(1, parallel)
    if on_outcome is not None or old.spec.callback is models.Callback.CLIENT:
        changed |= callback_fields(on_outcome)
    return old.spec.model_copy(update=changed)
