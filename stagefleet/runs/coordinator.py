"""The coordinator: reads the outcomes of a run as they come, and calls back once for each.

At least once across a crash: what was called back and not yet acknowledged is called back again by the
next coordinator, with the same run and item to recognise it by.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from stagefleet.errors import CoordinatorLostError, StagefleetError
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
_ACKNOWLEDGE_SECONDS = 0.05
"""The longest that a finished callback waits for its acknowledgement, and so a place in the window."""
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


def follow(
    ledger: Observer, run: str, after: str = "", *, patience: Patience | None = None
) -> Iterator[list[Outcome]]:
    """The outcomes of a run behind a position, as they come, to the run's end; [] each quiet second."""
    patience, quiet = Patience(OUTAGE_SECONDS) if patience is None else patience, 0
    while True:
        position, asked_at = after, time.monotonic()
        outcomes = patience(
            lambda: ledger.outcomes(run, position, limit=_OUTCOMES_A_READ, block_seconds=_BLOCK_SECONDS)  # noqa: B023 - called at once
        )
        if outcomes is None:
            return
        quiet = 0 if outcomes else quiet + 1
        if outcomes:
            after = outcomes[-1].position
        elif quiet % _QUIET_READS == 0:
            patience(ledger.ping)
        came_at_once = time.monotonic() - asked_at < _GATHER_SECONDS
        yield outcomes
        if came_at_once and len(outcomes) < _OUTCOMES_A_READ:
            time.sleep(_GATHER_SECONDS)


class _Coordinator:
    """One coordinator of a run with a callback."""

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
        self._epoch = patience(lambda: ledger.coordinate(run))
        self._unacknowledged: list[Outcome] = []
        self._acknowledged_at = time.monotonic()
        self._ended = threading.Event()

    def conduct(self, on_progress: OnOutcome | None, on_idle: Callable[[], None] | None) -> Run:
        renewer = threading.Thread(target=self._renew, name="coordinator-lease", daemon=True)
        renewer.start()
        raised: BaseException | None = None
        try:
            start = self._patiently(lambda: self._ledger.acknowledged(self._run))
            for outcomes in follow(self._ledger, self._run, start, patience=self._patiently):
                for outcome in outcomes:
                    if on_progress is not None:
                        on_progress(outcome)
                    if raised is None:
                        raised = self._call_back(outcome)
                if raised is None:
                    self._acknowledge()
                if not outcomes and on_idle is not None:
                    on_idle()
        except StagefleetError as error:
            if raised is None:
                raise
            raised.add_note(f"nobody waited for the end of run {self._run}: {error}")
        finally:
            self._ended.set()
            renewer.join()
        if raised is not None:
            raise raised
        return self._patiently(lambda: self._ledger.run(self._run))

    def _call_back(self, outcome: Outcome) -> BaseException | None:
        """Call back for an outcome; an error of any kind cancels the run and is returned.

        Raises:
            KeyboardInterrupt: A person who interrupts does not wait for what is under way.
        """
        if outcome.state is not ItemState.CANCELLED:
            try:
                self._on_outcome(outcome)
            except BaseException as error:  # the callback is the user's: whatever it raises stops the run
                problem = ErrorInfo.of(error)
                with contextlib.suppress(
                    StagefleetError
                ):  # then its lease ends, and the sweep cancels the run
                    self._patiently(lambda: self._ledger.cancel(self._run, error=problem))
                if isinstance(error, KeyboardInterrupt):
                    raise
                return error
        self._unacknowledged.append(outcome)
        if time.monotonic() - self._acknowledged_at > _ACKNOWLEDGE_SECONDS:
            self._acknowledge()
        return None

    def _acknowledge(self) -> None:
        outcomes, self._unacknowledged = self._unacknowledged, []
        self._acknowledged_at = time.monotonic()
        if not outcomes:
            return
        if self._patiently(lambda: self._ledger.acknowledge(self._run, self._epoch, outcomes)):
            return
        run = self._patiently(lambda: self._ledger.run(self._run))
        if not run.state.is_final:
            raise CoordinatorLostError(f"another coordinator took over run {self._run}")

    def _renew(self) -> None:
        def renew() -> None:
            self._ledger.acknowledge(self._run, self._epoch, [])

        keep_renewing(renew, self._ended, what="coordinator", seconds=self._renewal_seconds)
