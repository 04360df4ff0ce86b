"""Coordinator of a run: reads its outcomes as they arrive, and makes one callback for each.

Callbacks are made at least once across a crash: the next coordinator repeats those not yet acknowledged, with
the same run and item to recognise them by.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from stagefleet import errors
from stagefleet.leases import RenewedLease, renewed
from stagefleet.redis_client import OUTAGE_SECONDS, RedisRetry
from stagefleet.runs.ledger import Ledger
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, Run, RunState

OnOutcome = Callable[[Outcome], None]

_LOGGER = logging.getLogger("stagefleet")

_OUTCOMES_A_READ = 256
_BLOCK_SECONDS = 1.0
_GATHER_SECONDS = 0.01
"""Outcomes in quicker succession are read in batches: each read costs as much as an item."""
_TOLD_KEPT = 10_000
"""Size of the memory of reported outcomes: more than arrive during a failover."""
_MOST_RETURNS = 20
"""Most successive returns to an earlier position without a new outcome."""
_ACKNOWLEDGE_SECONDS = 0.05
"""Longest delay from a callback to its acknowledgement, while its item keeps a place in the window."""
_QUIET_READS = 5
"""Number of reads without an outcome after which the coordinator checks that the ledger takes writes."""


def watch(
    ledger: Ledger,
    run_id: str,
    *,
    on_outcome: OnOutcome | None = None,
    on_progress: OnOutcome | None = None,
    on_idle: Callable[[], None] | None = None,
    renewal_seconds: float = 10.0,
    redis_retry: RedisRetry | None = None,
) -> Run:
    """Follow a run to its end.

    Args:
        on_outcome: The run's callback, called once for each outcome; the run's window waits for its return.
        Any error of it cancels the run, and is raised here after the items under way have ended (a
        KeyboardInterrupt at once). None only watches.
        on_progress: Called with each outcome, cancelled ones included, before `on_outcome`.
        on_idle: Called after each second without an outcome; its errors end the watching.
        renewal_seconds: Interval of renewing the coordinator's lease during a long callback.
        redis_retry: Waits while the ledger is unreachable; a minute if None.

    Raises:
        RunNotFoundError: The run does not exist.
        RedisUnreachableError: The ledger stayed unreachable.
        CoordinatorLostError: Another coordinator took over this run.
    """
    redis_retry = RedisRetry(OUTAGE_SECONDS) if redis_retry is None else redis_retry
    if on_outcome is None:
        for outcomes in follow(ledger, run_id, redis_retry=redis_retry):
            for outcome in outcomes:
                if on_progress is not None:
                    on_progress(outcome)
            if not outcomes and on_idle is not None:
                on_idle()
        return redis_retry(lambda: ledger.run(run_id))
    return _Coordinator(ledger, run_id, on_outcome, renewal_seconds, redis_retry).run(on_progress, on_idle)


def follow(ledger: Ledger, run_id: str, *, redis_retry: RedisRetry | None = None) -> Iterator[list[Outcome]]:
    """Yield the outcomes of a run as they arrive, each once, to the run's end; [] after each quiet second.

    Raises as `watch` does.
    """
    redis_retry = RedisRetry(OUTAGE_SECONDS) if redis_retry is None else redis_retry
    reader = OutcomeReader(ledger, run_id, find_start=None, redis_retry=redis_retry)
    for outcomes in reader.batches():
        yield [outcome for outcome in outcomes if reader.is_new(outcome)]


class OutcomeReader:
    """Reader of a run's outcomes, in the order of completion.

    If the ledger has lost outcomes that were read, it starts again at a position that the ledger has. Then
    outcomes arrive a second time; `is_new` tells them from new ones.

    Args:
        find_start: Returns the position to start after, at first and after each return; None for that of
            the newest reported outcome that the ledger still has.
    """

    def __init__(
        self, ledger: Ledger, run_id: str, find_start: Callable[[], str] | None, *, redis_retry: RedisRetry
    ) -> None:
        self._ledger = ledger
        self._run = run_id
        self._find_start = self._newest_standing if find_start is None else find_start
        self._redis_retry = redis_retry
        self._position: str | None = None
        self._returns = 0
        self._told: OrderedDict[str, tuple[str, str | None]] = OrderedDict()

    def batches(self) -> Iterator[list[Outcome]]:
        """Yield outcomes as they arrive, to the run's end; [] after each quiet second."""
        quiet = 0
        while True:
            asked_at = time.monotonic()
            try:
                outcomes = self._read()
            except errors.LedgerRewoundError:
                self._returns += 1
                if self._returns > _MOST_RETURNS:
                    raise
                self.go_back()
                continue
            if outcomes is None:
                return
            quiet = 0 if outcomes else quiet + 1
            if outcomes:
                self._position, self._returns = outcomes[-1].position, 0
            elif quiet % _QUIET_READS == 0:
                self._redis_retry(self._ledger.heartbeats.ping)
            came_at_once = time.monotonic() - asked_at < _GATHER_SECONDS
            yield outcomes
            if came_at_once and len(outcomes) < _OUTCOMES_A_READ:
                time.sleep(_GATHER_SECONDS)

    def _read(self) -> list[Outcome] | None:
        position = self._position if self._position is not None else self._find_start()
        self._position = position
        return self._redis_retry(
            lambda: self._ledger.outcomes(
                self._run, position, limit=_OUTCOMES_A_READ, block_seconds=_BLOCK_SECONDS
            )
        )

    def go_back(self) -> None:
        """Start again at the position that `find_start` returns."""
        self._position = None

    @property
    def goes_back(self) -> bool:
        """True if the next outcomes are those after the start."""
        return self._position is None

    def is_new(self, outcome: Outcome) -> bool:
        """Return True if an outcome arrives for the first time, and remember it."""
        name = (outcome.item, outcome.host)
        if self._told.get(outcome.position) == name:
            return False
        self._told[outcome.position] = name
        while len(self._told) > _TOLD_KEPT:
            self._told.popitem(last=False)
        return True

    def _newest_standing(self) -> str:
        """Return the position of the newest outcome that the ledger still has; forget later ones."""
        told = list(self._told)
        standing, lost = 0, len(told)
        while standing < lost:  # a stream only grows: the ledger has a prefix of the reported outcomes
            middle = (standing + lost) // 2
            if self._stands(told[middle]):
                standing = middle + 1
            else:
                lost = middle
        for position in told[standing:]:
            del self._told[position]
        return told[standing - 1] if standing else ""

    def _stands(self, position: str) -> bool:
        try:
            self._redis_retry(lambda: self._ledger.outcomes(self._run, position, limit=1, block_seconds=0))
        except errors.LedgerRewoundError:
            return False
        return True


class _Coordinator:
    """Coordinator of a run with a callback.

    If the ledger loses data of the run, it becomes the coordinator again and continues from the ledger's
    state: lost outcomes arrive and are called back again, all others are not.
    """

    def __init__(
        self,
        ledger: Ledger,
        run_id: str,
        on_outcome: OnOutcome,
        renewal_seconds: float,
        redis_retry: RedisRetry,
    ) -> None:
        self._ledger = ledger
        self._run = run_id
        self._on_outcome = on_outcome
        self._renewal_seconds = renewal_seconds
        self._redis_retry = redis_retry
        self._reader = OutcomeReader(ledger, run_id, self._take_up, redis_retry=redis_retry)
        self._taking_up = threading.Lock()
        self._epoch = 0
        self._acknowledged = ""
        self._unacknowledged: list[Outcome] = []
        self._acknowledged_at = time.monotonic()
        self._raised: BaseException | None = None

    def run(self, on_progress: OnOutcome | None, on_idle: Callable[[], None] | None) -> Run:
        lease_seconds = self._redis_retry(lambda: self._ledger.run(self._run)).lease_seconds
        try:
            with contextlib.ExitStack() as renewal:
                for number, outcomes in enumerate(self._reader.batches()):
                    if number == 0:  # it is the coordinator by now
                        lease = RenewedLease(lease_seconds, time.monotonic())
                        seconds = self._renewal_seconds
                        renewal.enter_context(
                            renewed("coordinator", lease, self._renew, interval_seconds=seconds)
                        )
                    self._take_all(outcomes, on_progress)
                    if not outcomes and on_idle is not None:
                        on_idle()
        except errors.StagefleetError as error:
            if self._raised is None:
                raise
            self._raised.add_note(f"nobody waited for the end of run {self._run}: {error}")
        if self._raised is not None:
            raise self._raised
        return self._redis_retry(lambda: self._ledger.run(self._run))

    def _take_all(self, outcomes: Sequence[Outcome], on_progress: OnOutcome | None) -> None:
        for outcome in outcomes:
            self._take(outcome, on_progress)
            if self._reader.goes_back:
                break
        self._acknowledge()

    def _take_up(self) -> str:
        """Become the coordinator; return the position to read on from."""
        self._unacknowledged = []
        with self._taking_up:
            self._epoch = self._redis_retry(lambda: self._ledger.coordinate(self._run))
            self._acknowledged = self._redis_retry(lambda: self._ledger.acknowledged(self._run))
        return self._acknowledged

    def _take(self, outcome: Outcome, on_progress: OnOutcome | None) -> None:
        """Report an outcome and make its callback, unless done before, and acknowledge it in time."""
        is_new = self._reader.is_new(outcome)
        if is_new and on_progress is not None:
            on_progress(outcome)
        if self._raised is not None:
            return
        if is_new:
            self._raised = self._call_back(outcome)
        if self._raised is None:
            self._unacknowledged.append(outcome)
            if time.monotonic() - self._acknowledged_at > _ACKNOWLEDGE_SECONDS:
                self._acknowledge()

    def _call_back(self, outcome: Outcome) -> BaseException | None:
        """Make a callback; any error cancels the run and is returned, but an interrupt is raised."""
        if outcome.state is ItemState.CANCELLED:
            return None
        try:
            self._on_outcome(outcome)
        except BaseException as error:  # the callback is the user's: any error stops the run
            self._cancel(error)
            if isinstance(error, KeyboardInterrupt):
                raise
            return error
        return None

    def _cancel(self, error: BaseException) -> None:
        problem = ErrorInfo.of(error)
        with contextlib.suppress(errors.StagefleetError):  # then the lease ends, and the sweep cancels it
            self._redis_retry(lambda: self._ledger.cancel(self._run, error=problem))

    def _acknowledge(self) -> None:
        """Acknowledge the callbacks made so far, or at least renew the lease.

        If a callback has stopped the run, cancel it again instead: the ledger may have lost that.

        Raises:
            CoordinatorLostError: Another coordinator took over the run.
        """
        outcomes, self._unacknowledged = self._unacknowledged, []
        self._acknowledged_at = time.monotonic()
        if self._raised is not None:
            self._cancel(self._raised)
            return
        for _ in range(2):  # twice: the first may fail because of a run's end that the ledger then loses
            epoch = self._epoch
            try:
                is_taken = self._redis_retry(
                    lambda: self._ledger.acknowledge(self._run, epoch, outcomes, before=self._acknowledged)  # noqa: B023 - called at once
                )
            except errors.LedgerRewoundError:
                self._reader.go_back()
                return
            if is_taken:
                self._acknowledged = outcomes[-1].position if outcomes else self._acknowledged
                return
            if self._redis_retry(lambda: self._ledger.run(self._run)).state.is_final:
                return
            if epoch != self._epoch:  # the renewal has taken over the run again meanwhile
                self._reader.go_back()
                return
        raise errors.CoordinatorLostError(f"another coordinator took over run {self._run}")

    def _renew(self) -> bool:
        """Renew the lease during a long callback; who has lost it learns so from an acknowledgement."""
        try:
            self._ledger.acknowledge(self._run, self._epoch, [], before=self._acknowledged)
        except errors.LedgerRewoundError:
            with self._taking_up:
                self._epoch = self._ledger.coordinate(self._run)
        return True


def start_next(ledger: Ledger, ended: Run) -> None:
    """Start the run that waits for this one, or cancel it if this one did not end as it has to; repeatable.

    One that Redis has lost a part of is cancelled, too: nobody writes it again, and others wait for it.
    """
    following = ended.spec.next
    if following is None:
        return
    has_succeeded, is_cancelled = ended.state is RunState.SUCCEEDED, ended.state is RunState.CANCELLED
    try:
        if has_succeeded or not (is_cancelled or following.if_succeeded):
            ledger.start(following.submission)
        else:
            ledger.cancel(following.run_id)
    except errors.LedgerRewoundError as error:
        _LOGGER.warning("run %s cannot start run %s: %s", ended.id, following.run_id, error)
        with contextlib.suppress(errors.RunNotFoundError):
            ledger.cancel(following.run_id, error=ErrorInfo.of(error))
    except (errors.LeaseLostError, errors.RunNotFoundError) as error:
        _LOGGER.warning("run %s cannot start run %s: %s", ended.id, following.run_id, error)
