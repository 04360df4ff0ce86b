"""Waits of a request: its deadlines, and the pauses that hosts ask for."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from stagefleet import errors
from stagefleet.backoff import Backoff, jittered
from stagefleet.leases import NO_LEASE, SLICE_SECONDS, TOLD_SECONDS, Lease, elapsed_seconds, waiting
from stagefleet.logs import EventLogger
from stagefleet.settings import HttpSettings

# Time limits of one request, on the monotonic clock; its lease can end it earlier.

_CONNECT = "connecting"
_NAME_TIMES = 3


class Deadline:
    """Time limits for the phases of one request; each bounds the whole phase, not the gap between two bytes.

    A request connects, sends, and reads a header and a body. A server that sends a byte now and then does
    not extend a phase; each chunk of a large body is a phase of its own, and of a request's body while
    `is_streamed`.

    Args:
        connect_seconds: Limit for connecting: all addresses, proxy and TLS together. The name lookup before
            it may take three times as long: resolvers wait 5 s for a server that is down.
        phase_seconds: Limit for each other phase.
        ends_at: Latest time for the header to be complete, on the monotonic clock.
        send_by: Latest time for the request to leave, on `elapsed_seconds`.
        answer_seconds: Limit for the header of the answer, instead of `phase_seconds`.
    """

    __slots__ = (
        "_answer_seconds",
        "_asked_at",
        "_began_at",
        "_clock",
        "_connect_seconds",
        "_ends_at",
        "_host",
        "_lease",
        "_leave_by",
        "_phase",
        "_phase_ends_at",
        "_phase_seconds",
        "is_streamed",
    )

    def __init__(
        self,
        host: str,
        *,
        connect_seconds: float,
        phase_seconds: float,
        ends_at: float = math.inf,
        send_by: float = math.inf,
        answer_seconds: float | None = None,
        lease: Lease = NO_LEASE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._lease = lease
        self._clock = clock
        self._connect_seconds = connect_seconds
        self._phase_seconds = phase_seconds
        self._answer_seconds = phase_seconds if answer_seconds is None else answer_seconds
        self._ends_at = ends_at
        self._leave_by = send_by
        self._asked_at = clock()
        self._phase = _CONNECT
        self._began_at = self._asked_at
        self._phase_ends_at = min(self._asked_at + _NAME_TIMES * connect_seconds, ends_at)
        self.is_streamed = False

    def begin_connecting(self) -> None:
        """Begin the phase of connecting, after the name lookup."""
        self.begin(_CONNECT, self._connect_seconds)

    def begin(self, phase: str, seconds: float | None = None) -> None:
        """Begin another phase, named as a message ends: "... took longer than 60 s"."""
        self._phase = phase
        self._began_at = self._clock()
        limit = self._phase_seconds if seconds is None else seconds
        self._phase_ends_at = min(self._began_at + limit, self._ends_at)

    def begin_answer(self) -> None:
        """Begin to wait for the header of the response."""
        self.begin("its answer", self._answer_seconds)

    def begin_body(self, phase: str = "its body") -> None:
        """Begin to read the response's body, or a chunk of it; `ends_at` no longer applies."""
        self._ends_at = math.inf
        self.begin(phase)

    def check_send_by(self) -> None:
        """Raise `DeadlineMissedError` if the request may no longer leave; called just before it does."""
        late = elapsed_seconds() - self._leave_by
        if late > 0:
            raise errors.DeadlineMissedError(
                f"a request to {self._host} was not sent: what allows it was too old by {late:.3g} s"
            )

    def extend(self, seconds: float) -> None:
        """Extend the phase in return for received bytes."""
        self._phase_ends_at += seconds

    def left_seconds(self) -> float:
        """Return the time left in the phase; 0 or less if it is over."""
        return self._phase_ends_at - self._clock()

    def slice_seconds(self) -> float:
        """Return how long a wait may last before it checks the deadline again.

        Raises:
            TimeoutError: Connecting took too long; urllib3 adds the address.
            RegistryUnreachableError: Another phase took too long.
            StagefleetError: As `Lease.check` raises.
        """
        now = self._clock()
        if now - self._asked_at >= SLICE_SECONDS:
            self._asked_at = now
            self._lease.check()
        left = self._phase_ends_at - now
        if left <= 0:
            if self._phase == _CONNECT:
                raise TimeoutError("timed out")
            raise errors.RegistryUnreachableError(
                f"{self._host} does not answer in time (time-out: {self._phase} took longer than "
                f"{max(self._phase_ends_at - self._began_at, 0):.3g} s)",
                host=self._host,
            )
        return min(left, SLICE_SECONDS)


_CURRENT: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


class _Bounding:
    """Apply a deadline to this thread's sockets in the block; None keeps their own time-outs."""

    __slots__ = ("_deadline", "_token")

    def __init__(self, deadline: Deadline | None) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._token = _CURRENT.set(self._deadline)

    def __exit__(self, *_error: object) -> None:
        _CURRENT.reset(self._token)


bounding = _Bounding  # no generator: it costs three times the calls


current_deadline: Callable[[], Deadline | None] = _CURRENT.get
"""Return the deadline of this thread's current request; no function: sockets ask for it at each step."""


# Pauses that hosts ask for: bounded, shared by all calls, and reported to the run's observers.

_NAP_SECONDS = 1.0  # longest time until a wait notices that the item was cancelled

_LOGGER = logging.getLogger("stagefleet")
YEAR_SECONDS = 365 * 24 * 3600

_HURRIED: ContextVar[tuple[str, float]] = ContextVar("_HURRIED", default=("", 0.0))


@contextmanager
def hurrying(host: str, seconds: float) -> Iterator[None]:
    """Limit the time that a host may make this thread's calls in the block wait."""
    token = _HURRIED.set((host, seconds))
    try:
        yield
    finally:
        _HURRIED.reset(token)


class Retries:
    """Retries of one call: counts its failures, and says how long to pause before it is repeated.

    The host may make the call wait for `longest_wait_seconds`, all attempts together; `hurrying` may lower
    that.
    """

    def __init__(self, http: HttpSettings, host: str, longest_wait_seconds: float) -> None:
        self.failures = 0
        self._http = http
        hurried, seconds = _HURRIED.get()
        self._left_seconds = min(seconds, longest_wait_seconds) if host == hurried else longest_wait_seconds

    def allows_wait(self, seconds: float) -> bool:
        """Spend seconds that the host asks for; False if the call has waited long enough for it."""
        if seconds > self._left_seconds:
            return False
        self._left_seconds -= seconds
        return True

    def next_pause_seconds(self, error: errors.StagefleetError, limit: int) -> float:
        """Count a failure and return the pause before the next attempt; raise the error if there is none."""
        asked: float | None = getattr(error, "retry_after_seconds", None)
        if self.failures >= limit or not self.allows_wait(asked or 0.0):
            raise error
        self.failures += 1
        wait = backoff_seconds(self._http, self.failures)
        return wait if asked is None else asked + jittered(min(1.0, wait), share=0)


def backoff_seconds(http: HttpSettings, failures: int) -> float:
    """Return the pause after so many failures: it doubles, with jitter, up to a limit."""
    return Backoff(http.backoff_seconds, http.backoff_limit_seconds).pause_seconds(failures)


class HostPauses:
    """Pauses that hosts asked of one call and that hold for all calls of this process; thread-safe."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def begin(self, host: str, seconds: float, text: str) -> None:
        """Record that a host asked for a pause, and its message."""
        now = time.monotonic()
        with self._lock:
            self._ends = {other: end for other, end in self._ends.items() if end[0] > now}
            is_new = host not in self._ends
            self._ends[host] = max(self._ends.get(host, (0.0, "")), (now + seconds, text))
        if is_new and seconds >= TOLD_SECONDS:
            _LOGGER.warning("%s asks to wait %s (%s)", host, span_text(seconds), text)

    def left(self, host: str) -> tuple[float, str]:
        """Return the seconds left of a host's pause, 0 for none, and its message."""
        until, text = self._ends.get(host, (0.0, ""))
        return max(0.0, until - time.monotonic()), text


def span_text(seconds: float) -> str:
    """Format a duration.

    >>> span_text(12.3), span_text(5400), span_text(1e10)
    ('12 s', '5400 s (1.5 hours)', 'more than a year')
    """
    if seconds > YEAR_SECONDS:
        return "more than a year"
    for name, length in (("days", 24 * 3600), ("hours", 3600)):
        if seconds >= length * 1.5:
            return f"{seconds:.0f} s ({seconds / length:.1f} {name})"
    return f"{seconds:.0f} s"


def pause(
    seconds: float,
    lease: Lease,
    host: str = "",
    text: str = "",
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait, unless the lease ends the wait; `host` asked for the pause, with the message `text`.

    Errors are as of `Lease.waiting` and `Lease.check`.
    """
    with waiting(lease, seconds, host, text):
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            lease.check()
            sleep(min(left, _NAP_SECONDS))
        lease.check()


# Notices about requests that are repeated.

_TELL_SECONDS = 2.0
"""The length of a wait before it is reported, as for Redis: a restart may be shorter."""
_AGAIN_SECONDS = 60.0

_log = EventLogger(__name__)


class RetryReporter:
    """Report the retries of calls: each at `info`, and a long wait for a host once a minute as a warning.

    Thread-safe.
    """

    def __init__(self, http: HttpSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff = Backoff(http.backoff_seconds, http.backoff_limit_seconds)
        self._clock = clock
        self._told_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def report(
        self,
        error: errors.RegistryError | errors.RegistryUnreachableError,
        host: str,
        *,
        began_at: float,
        pause_seconds: float,
        failures: int,
        limit: int,
    ) -> None:
        """Report that a call is repeated after a pause.

        Its first attempt began at `began_at`, on the clock; `failures` attempts failed, and it may take
        `limit` retries.
        """
        left = limit - failures + 1
        _log.info(
            "registry_retried",
            host=host,
            pause_seconds=round(pause_seconds, 1),
            attempts_left=left,
            reason=error.cause[1],
        )
        now = self._clock()
        if isinstance(error, errors.RateLimitedError) or now - began_at + pause_seconds < _TELL_SECONDS:
            return  # the pauses that a registry asks for are reported where they begin
        with self._lock:
            if now - self._told_at.get(host, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
                return
            self._told_at = {host: at for host, at in self._told_at.items() if now - at < _AGAIN_SECONDS}
            self._told_at[host] = now
        later = sum(self._backoff.limit_seconds(number) for number in range(failures + 1, limit + 1))
        attempts = "1 more attempt" if left == 1 else f"{left} more attempts"
        _LOGGER.warning("%s: %s, with pauses of %.2g s at most", error, attempts, pause_seconds + later)
