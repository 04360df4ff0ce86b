"""Notices about the waits of a run: for which host, and until when."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from stagefleet.bounds import join_first
from stagefleet.errors import NoWorkerError, RedisUnreachableError
from stagefleet.runs.ledger import HeartbeatLedger
from stagefleet.runs.messages import host_queue, queue_of
from stagefleet.runs.models import Run, RunSpec, RunState, Wait, WaitKind, WaitReason
from stagefleet.runs.versions import own_version
from stagefleet.settings import RunSettings

_QUIET_SECONDS = 3.0
"""How long a run has no outcome before its waits are reported."""
_AGAIN_SECONDS = 10.0
"""The minimum time before a wait of the same kind is reported again, whatever changes."""
_DAY_SECONDS = 24 * 3600


def describe_wait(wait: Wait, run: Run, *, clock: Callable[[], float] = time.time) -> str:
    """Describe a wait of a run in one line, with this host's time of day; `clock` returns seconds since 1970.

    An example is `12 items wait for r.test (429 Too Many Requests), next try at 14:03:10`.
    """
    at = _time_of_day(clock(), wait.until - run.now_at)
    match wait.kind:
        case WaitKind.RETRY:
            who = f"{wait.count:,} items wait" if wait.count != 1 else "1 item waits"
            return f"{who} {wait.reason}, next try at {at}"
        case WaitKind.PAUSE:
            return f"a worker waits {wait.reason}, until {at} at the latest"
        case WaitKind.CALLBACK:
            who = f"{wait.count:,} outcomes wait" if wait.count != 1 else "1 outcome waits"
            return f"{who if wait.count else 'the end of the run waits'} {wait.reason}, next call at {at}"


def _time_of_day(now: float, seconds: float) -> str:
    """Format the time of day in a number of seconds, with the date unless it is soon."""
    at = datetime.fromtimestamp(now + seconds).astimezone()
    return f"{at:%Y-%m-%d %H:%M:%S}" if seconds >= _DAY_SECONDS else f"{at:%H:%M:%S}"


@dataclass(frozen=True, slots=True)
class _Said:
    """A reported wait: its reason, its end on the ledger's clock, and the time of the report on ours."""

    reason: WaitReason
    until: float
    at: float


class WaitReporter:
    """Report each wait of a run without outcomes once, in one line; `clock` returns monotonic seconds."""

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._moved_at = clock()
        self._said: dict[WaitKind, _Said] = {}
        self._said_state: RunState | None = None

    def note_progress(self) -> None:
        """Record that the run has an outcome."""
        self._moved_at = self._clock()

    def report(self, run: Run) -> None:
        """Report new waits; called about once a second while the run has no outcome."""
        now = self._clock()
        if now - self._moved_at < _QUIET_SECONDS:
            return
        if run.state is not self._said_state:
            self._said_state = run.state
            if (told := _describe_state(run)) is not None:
                self._say(told)
        for wait in run.waits:
            said = self._said.get(wait.kind)
            is_news = said is None or wait.reason != said.reason or run.now_at >= said.until
            if is_news and (said is None or now - said.at >= _AGAIN_SECONDS):
                self._said[wait.kind] = _Said(wait.reason, wait.until, now)
                self._say(describe_wait(wait, run))


def _describe_state(run: Run) -> str | None:
    """Describe why a run starts no items; None if it does."""
    if run.state is RunState.PAUSED:
        return f"run {run.id} is paused: resume it with stagefleet runs resume {run.id}"
    if run.state is not RunState.SUBMITTING:
        return None
    if run.spec.group:
        return f"run {run.id} waits for the group before {run.spec.group} to end"
    return f"run {run.id} waits for the client that starts it to hand in all of its items"


# Detection of runs without workers: a warning soon, an error after a time limit.

_LONGEST_GAP_SECONDS = 10.0
"""The longest gap between checks; after a longer one (a Redis outage, a slow callback) the limit restarts."""
_OWN_WORKER_FACTOR = 5
"""The factor on the limit for a command's own worker, whose end the command would detect."""
_NAMED = 3


def queues_of_run(spec: RunSpec) -> tuple[str, ...]:
    """Return the queues of a run's items: those of its hosts, else that of the operation."""
    hosts = spec.options.get("hosts") or ()
    return tuple(host_queue(host) for host in hosts) or (queue_of(spec.operation),)


class NoWorkerWatchdog:
    """Check for workers while a run has no outcomes.

    A run is alone while it is not paused, no worker listens to any of its queues, no item has a valid lease,
    and nothing about it changes. The user is warned once, with the advice; the limit counts from then.

    Args:
        starts_worker: True if this process has started a worker of its own, and would detect its end.
        clock: Returns monotonic seconds.
    """

    def __init__(
        self,
        ledger: HeartbeatLedger,
        spec: RunSpec,
        settings: RunSettings,
        say: Callable[[str], None],
        *,
        advice: str,
        starts_worker: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._item_queues = self._queues = queues_of_run(spec)
        self._is_called_back = spec.is_called_back
        self._notice_seconds = settings.no_worker_notice_seconds
        self._limit_seconds = settings.no_worker_limit_seconds * (_OWN_WORKER_FACTOR if starts_worker else 1)
        self._starts_worker = starts_worker
        self._say = say
        self._advice = advice
        self._clock = clock
        self._alone_since = self._looked_at = clock()
        self._said_at: float | None = None
        self._standing: tuple[int, ...] = ()
        self._foreign: set[str] = set()

    def note_progress(self) -> None:
        """Record that the run has an outcome, and so a worker."""
        self._begin_anew(self._clock())

    def check(self, run: Run | None = None) -> None:
        """Check once, with the run's state if known; called about once a second while the run has no outcome.

        Raises:
            NoWorkerError: No worker has worked on it for too long.
        """
        now = self._clock()
        gap, self._looked_at = now - self._looked_at, now
        if run is not None:
            self._queues = self._item_queues if self._has_items_to_do(run) else (queue_of("coordinate"),)
        if gap > _LONGEST_GAP_SECONDS or self._is_worked_on(run) or self._is_called_for():
            self._begin_anew(now)
            return
        alone_seconds = now - self._alone_since
        if self._said_at is None:
            if alone_seconds >= self._notice_seconds:
                self._said_at = now
                self._say(self._notice())
        elif now - self._said_at >= self._limit_seconds - self._notice_seconds:
            raise NoWorkerError(
                f"no worker{self._of_this_version()} has listened to {self._named()} for "
                f"{alone_seconds:.0f} s, so the run is cancelled: {self._advice}"
            )

    def _begin_anew(self, now: float) -> None:
        self._alone_since = self._looked_at = now
        self._said_at = None

    def _has_items_to_do(self, run: Run) -> bool:
        """Return True if the run waits for its items, False if it waits for callbacks of the fleet."""
        return not self._is_called_back or bool(run.published or run.claimed or run.waiting)

    def _is_worked_on(self, run: Run | None) -> bool:
        """Return True if a worker holds an item, the run has changed since the last check, or is paused."""
        if run is None:
            return False
        before = self._standing
        self._standing = (run.done, run.claimed, run.published, run.waiting, run.bytes)
        has_changed = bool(before) and before != self._standing
        return has_changed or run.leased_until > run.now_at or run.state is RunState.PAUSED

    def _is_called_for(self) -> bool:
        try:
            workers = self._ledger.workers()
        except RedisUnreachableError:
            # The workers are unknown, so none is missing; the reader of outcomes has its own time limit.
            return True
        listening = [worker for worker in workers if not set(self._queues).isdisjoint(worker.queues)]
        self._foreign = {str(worker.version) for worker in listening if not worker.version.is_compatible}
        return any(worker.version.is_compatible for worker in listening)

    def _named(self) -> str:
        shown = join_first(list(map(repr, self._queues)), _NAMED)
        return f"the queue {shown}" if len(self._queues) == 1 else f"any of the queues {shown}"

    def _notice(self) -> str:
        if self._starts_worker:
            return "the worker that this command has started is not ready yet"
        end = "" if math.isinf(self._limit_seconds) else f" (giving up after {self._limit_seconds:.0f} s)"
        return f"no worker{self._of_this_version()} listens to {self._named()}: {self._advice}{end}"

    def _of_this_version(self) -> str:
        """Describe the versions, if workers of an incompatible release listen."""
        if not self._foreign:
            return ""
        return (
            f" that {own_version()} can work with (there are workers of {', '.join(sorted(self._foreign))})"
        )
