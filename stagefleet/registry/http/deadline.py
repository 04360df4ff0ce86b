"""Time limits of one request, on the monotonic clock; its lease can end it earlier."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from stagefleet.errors import DeadlineMissedError, RegistryUnreachableError
from stagefleet.leases import NO_LEASE, SLICE_SECONDS, Lease, elapsed_seconds

_CONNECT = "connecting"
_NAME_TIMES = 3


class Deadline:
    """Time limits for the phases of one request; each bounds the whole phase, not the gap between two bytes.

    A request connects, sends, and reads a header and a body. A server that sends a byte now and then does not
    extend a phase; each chunk of a large body is a phase of its own.

    Args:
        host: The requested host, for messages.
        connect_seconds: Limit for connecting: all addresses, proxy and TLS together. The name lookup before
            it may take three times as long: resolvers wait 5 s for a server that is down.
        phase_seconds: Limit for each other phase.
        ends_at: Latest time for the header to be complete, on the monotonic clock.
        send_by: Latest time for the request to leave, on `elapsed_seconds`.
        lease: Lease to check in each wait that lasts.
        clock: The monotonic clock, in seconds.

    Attributes:
        is_streamed: True if the request's body is sent in chunks, each with its own time limit.
    """

    __slots__ = (
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
        lease: Lease = NO_LEASE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._lease = lease
        self._clock = clock
        self._connect_seconds = connect_seconds
        self._phase_seconds = phase_seconds
        self._ends_at = ends_at
        self._leave_by = send_by
        self._asked_at = clock()
        self._phase = _CONNECT
        self._began_at = self._asked_at
        self._phase_ends_at = min(self._asked_at + _NAME_TIMES * connect_seconds, ends_at)
        self.is_streamed = False

    def begin_connecting(self) -> None:
        """Begin the phase of connecting, after the name lookup."""
        self._began_at = self._clock()
        self._phase_ends_at = min(self._began_at + self._connect_seconds, self._ends_at)

    def begin(self, phase: str) -> None:
        """Begin another phase, named as a message ends: "... took longer than 60 s"."""
        self._phase = phase
        self._began_at = self._clock()
        self._phase_ends_at = min(self._began_at + self._phase_seconds, self._ends_at)

    def begin_body(self, phase: str = "its body") -> None:
        """Begin to read the response's body, or a chunk of it; `ends_at` no longer applies."""
        self._ends_at = math.inf
        self.begin(phase)

    def check_send_by(self) -> None:
        """Return if the request may still leave; called immediately before it does.

        Raises:
            DeadlineMissedError: It may not.
        """
        late = elapsed_seconds() - self._leave_by
        if late > 0:
            raise DeadlineMissedError(
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
            LeaseLostError: As `Lease.check` raises.
            ItemCancelledError: As `Lease.check` raises.
        """
        now = self._clock()
        if now - self._asked_at >= SLICE_SECONDS:
            self._asked_at = now
            self._lease.check()
        left = self._phase_ends_at - now
        if left <= 0:
            if self._phase == _CONNECT:
                raise TimeoutError("timed out")
            raise RegistryUnreachableError(
                f"{self._host} does not answer in time (time-out: {self._phase} took longer than "
                f"{max(self._phase_ends_at - self._began_at, 0):.3g} s)",
                host=self._host,
            )
        return min(left, SLICE_SECONDS)


_CURRENT: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def bounding(deadline: Deadline | None) -> Iterator[None]:
    """Apply a deadline to this thread's sockets in the block; None keeps their own time-outs."""
    token = _CURRENT.set(deadline)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_deadline() -> Deadline | None:
    """Return the deadline of this thread's current request."""
    return _CURRENT.get()
