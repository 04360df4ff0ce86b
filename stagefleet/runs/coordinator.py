"""The coordinator: reads the outcomes of a run as they come, and calls back once for each.

At least once across a crash: what was called back and not yet acknowledged is called back again by the
next coordinator, with the same run and item to recognise it by.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from stagefleet.errors import CoordinatorLostError, LedgerRewoundError, StagefleetError
from stagefleet.patience import OUTAGE_SECONDS, Patience
from stagefleet.renewal import keep_renewing
from stagefleet.runs.ledger import Observer
from stagefleet.runs.model import ErrorInfo, ItemState, Outcome, Run

__all__ = ["OnOutcome", "follow", "watch"]

OnOutcome = Callable[[Outcome], None]

_OUTCOMES_A_READ = 256
_BLOCK_SECONDS = 1.0
_GATHER_SECONDS = 0.01
"""Outcomes that follow one another faster are read some at a time: each read costs what an item costs."""
_TOLD_KEPT = 10_000
"""Outcomes that are known to have been told: more than come in the time that a failover takes."""
_MOST_RETURNS = 20
"""Returns to an earlier position, one after another, that bring no outcome."""
_ACKNOWLEDGE_SECONDS = 0.05
"""The longest that a finished callback waits for its acknowledgement, and so a place in the window."""
_RENEWALS_A_LEASE = 3
_QUIET_READS = 5
"""After so many reads without an outcome the ledger is asked whether it takes writes."""


def watch(
    ledger: Observer,
    run: str,
    *,
    on_outcome: OnOutcome | None = None,
    on_progress: OnOutcome | None = None,
    on_idle: Callable[[], None] | None = None,
    renewal_seconds: float = 10.0,
    patience: Patience | None = None,
) -> Run:
    """Follow a run to its end.

    Args:
        ledger: Where the run is.
        run: The run's id.
        on_outcome: The run's callback, once for each outcome; the run's window waits for its return. What it
            raises, of whatever kind, cancels the run, and is raised here once what was under way has ended (a
            KeyboardInterrupt at once). None only watches.
        on_progress: Told of each outcome, cancelled ones included, before `on_outcome`.
        on_idle: Called at each second without an outcome; what it raises ends the watching.
        renewal_seconds: How often the coordinator's lease is renewed while a callback takes its time.
        patience: Waits while the ledger is out of reach; a minute if None.

    Returns:
        The run as it ended.

    Raises:
        RunNotFoundError: No such run.
        RedisUnreachableError: The ledger stayed out of reach.
        CoordinatorLostError: Another coordinator took this run over.
    """
    patience = Patience(OUTAGE_SECONDS) if patience is None else patience
    if on_outcome is None:
        for outcomes in follow(ledger, run, patience=patience):
            for outcome in outcomes:
                if on_progress is not None:
                    on_progress(outcome)
            if not outcomes and on_idle is not None:
                on_idle()
        return patience(lambda: ledger.run(run))
    return _Coordinator(ledger, run, on_outcome, renewal_seconds, patience).conduct(on_progress, on_idle)


def follow(ledger: Observer, run: str, *, patience: Patience | None = None) -> Iterator[list[Outcome]]:
    """Give the outcomes of a run as they come, each once, to the run's end; [] each quiet second.

    Raises:
        RunNotFoundError: No such run, or not any more.
        RedisUnreachableError: The ledger stayed out of reach.
    """
    reader = OutcomeReader(
        ledger,
        run,
        lambda: reader.newest_standing(),  # noqa: PLW0108 - it is not there yet
        patience=Patience(OUTAGE_SECONDS) if patience is None else patience,
    )
    for outcomes in reader.batches():
        yield [outcome for outcome in outcomes if reader.is_new(outcome)]


class OutcomeReader:
    """Reads the outcomes of one run in the order of completion.

    Where the ledger has forgotten what was read, it begins again at a position that the ledger has. Outcomes
    come a second time then; `is_new` tells them from those that come for the first time.

    Args:
        ledger: Where the run is.
        run: Its id.
        find_start: Gives the position to begin behind, at first and whenever the reader goes back.
        patience: Waits while the ledger is out of reach.
    """

    def __init__(
        self, ledger: Observer, run: str, find_start: Callable[[], str], *, patience: Patience
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._find_start = find_start
        self._patiently = patience
        self._position: str | None = None
        self._returns = 0
        self._told: OrderedDict[str, tuple[str, str | None]] = OrderedDict()

    def batches(self) -> Iterator[list[Outcome]]:
        """Give outcomes as they come, to the run's end; [] each quiet second.

        Raises:
            RunNotFoundError: No such run, or not any more.
            RedisUnreachableError: The ledger stayed out of reach.
            LedgerRewoundError: It goes on forgetting what was read.
        """
        quiet = 0
        while True:
            asked_at = time.monotonic()
            try:
                outcomes = self._read()
            except LedgerRewoundError:
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
                self._patiently(self._ledger.ping)
            came_at_once = time.monotonic() - asked_at < _GATHER_SECONDS
            yield outcomes
            if came_at_once and len(outcomes) < _OUTCOMES_A_READ:
                time.sleep(_GATHER_SECONDS)

    def _read(self) -> list[Outcome] | None:
        position = self._position if self._position is not None else self._find_start()
        self._position = position
        return self._patiently(
            lambda: self._ledger.outcomes(
                self._run, position, limit=_OUTCOMES_A_READ, block_seconds=_BLOCK_SECONDS
            )
        )

    def go_back(self) -> None:
        """Begin again at the start, which is looked for anew."""
        self._position = None

    @property
    def goes_back(self) -> bool:
        """Whether the next outcomes are those behind the start."""
        return self._position is None

    def is_new(self, outcome: Outcome) -> bool:
        """Tell whether an outcome comes for the first time, and take it for told."""
        name = (outcome.item, outcome.host)
        if self._told.get(outcome.position) == name:
            return False
        self._told[outcome.position] = name
        while len(self._told) > _TOLD_KEPT:
            self._told.popitem(last=False)
        return True

    def newest_standing(self) -> str:
        """Find the newest told outcome that the ledger still has, and take those behind it for untold.

        Returns:
            Its position, "" for none.
        """
        told = list(self._told)
        standing, lost = 0, len(told)
        while standing < lost:  # a stream only grows: what stands is a beginning of what was told
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
            self._patiently(lambda: self._ledger.outcomes(self._run, position, limit=1, block_seconds=0))
        except LedgerRewoundError:
            return False
        return True


class _Coordinator:
    """One coordinator of a run with a callback.

    Where the ledger forgets something of the run, it becomes the coordinator again and goes on from what the
    ledger has: what was forgotten comes again and is called back again, what still stands is not.
    """

    def __init__(
        self,
        ledger: Observer,
        run: str,
        on_outcome: OnOutcome,
        renewal_seconds: float,
        patience: Patience,
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._on_outcome = on_outcome
        self._renewal_seconds = renewal_seconds
        self._patiently = patience
        self._reader = OutcomeReader(ledger, run, self._take_up, patience=patience)
        self._taking_up = threading.Lock()
        self._epoch = 0
        self._acknowledged = ""
        self._unacknowledged: list[Outcome] = []
        self._acknowledged_at = time.monotonic()
        self._raised: BaseException | None = None
        self._ended = threading.Event()

    def conduct(self, on_progress: OnOutcome | None, on_idle: Callable[[], None] | None) -> Run:
        lease_seconds = self._patiently(lambda: self._ledger.run(self._run)).lease_seconds
        self._renewal_seconds = min(self._renewal_seconds, lease_seconds / _RENEWALS_A_LEASE)
        renewer = threading.Thread(target=self._renew, name="coordinator-lease", daemon=True)
        try:
            for outcomes in self._reader.batches():
                if renewer.ident is None:
                    renewer.start()
                for outcome in outcomes:
                    self._take(outcome, on_progress)
                    if self._reader.goes_back:
                        break
                self._acknowledge()
                if not outcomes and on_idle is not None:
                    on_idle()
        except StagefleetError as error:
            if self._raised is None:
                raise
            self._raised.add_note(f"nobody waited for the end of run {self._run}: {error}")
        finally:
            self._ended.set()
            if renewer.ident is not None:
                renewer.join()
        if self._raised is not None:
            raise self._raised
        return self._patiently(lambda: self._ledger.run(self._run))

    def _take_up(self) -> str:
        """Become the coordinator; gives the position from which to read on."""
        self._unacknowledged = []
        with self._taking_up:
            self._epoch = self._patiently(lambda: self._ledger.coordinate(self._run))
            self._acknowledged = self._patiently(lambda: self._ledger.acknowledged(self._run))
        return self._acknowledged

    def _take(self, outcome: Outcome, on_progress: OnOutcome | None) -> None:
        """Tell of an outcome and call back for it, unless that has been done, and acknowledge it in time."""
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
        """Call back for an outcome; an error of any kind cancels the run and is returned.

        Raises:
            KeyboardInterrupt: A person who interrupts does not wait for what is under way.
        """
        if outcome.state is ItemState.CANCELLED:
            return None
        try:
            self._on_outcome(outcome)
        except BaseException as error:  # the callback is the user's: whatever it raises stops the run
            self._cancel(error)
            if isinstance(error, KeyboardInterrupt):
                raise
            return error
        return None

    def _cancel(self, error: BaseException) -> None:
        problem = ErrorInfo.of(error)
        with contextlib.suppress(StagefleetError):  # then its lease ends, and the sweep cancels the run
            self._patiently(lambda: self._ledger.cancel(self._run, error=problem))

    def _acknowledge(self) -> None:
        """Acknowledge what was called back, or at least keep the lease.

        A run that a callback has stopped is cancelled again instead: the ledger may have forgotten that.

        Raises:
            CoordinatorLostError: Another coordinator took the run over.
        """
        outcomes, self._unacknowledged = self._unacknowledged, []
        self._acknowledged_at = time.monotonic()
        if self._raised is not None:
            self._cancel(self._raised)
            return
        for _ in range(2):  # a second time, as the ledger may forget the end of a run that was the reason
            epoch = self._epoch
            try:
                is_taken = self._patiently(
                    lambda: self._ledger.acknowledge(self._run, epoch, outcomes, before=self._acknowledged)  # noqa: B023 - called at once
                )
            except LedgerRewoundError:
                self._reader.go_back()
                return
            if is_taken:
                self._acknowledged = outcomes[-1].position if outcomes else self._acknowledged
                return
            if self._patiently(lambda: self._ledger.run(self._run)).state.is_final:
                return
            if epoch != self._epoch:  # the renewal has taken the run up again meanwhile
                self._reader.go_back()
                return
        raise CoordinatorLostError(f"another coordinator took over run {self._run}")

    def _renew(self) -> None:
        """Keep the lease while a callback takes its time."""

        def renew() -> None:
            try:
                self._ledger.acknowledge(self._run, self._epoch, [], before=self._acknowledged)
            except LedgerRewoundError:
                with self._taking_up:
                    self._epoch = self._ledger.coordinate(self._run)

        keep_renewing(renew, self._ended, what="coordinator", seconds=self._renewal_seconds)
