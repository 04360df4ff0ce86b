"""When one request has to be over, whatever drips: on the monotonic clock, and before that by its leash."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from stagefleet.clock import elapsed_seconds
from stagefleet.errors import DeadlineMissedError, RegistryUnreachableError
from stagefleet.registry.leash import SLICE_SECONDS, UNLEASHED, Leash

__all__ = ["Deadline", "bounding", "current_deadline"]

_CONNECT = "connecting"
_NAME_TIMES = 3


class Deadline:
    """The ends of one request's phases: each is bounded as a whole, not from one byte to the next.

    A request connects, sends, and gets a header and a body. A server that sends a byte now and then starts no
    phase anew; a large body is a phase for each piece.

    Args:
        host: Who is asked, for messages.
        connect_seconds: How long connecting may take: all addresses, proxy and TLS together. Looking up the
            name before that may take three times as long: resolvers wait 5 s for a server that is away.
        phase_seconds: How long each other phase may take.
        ends_at: When the header has to be there at the latest, on the monotonic clock.
        leave_by: Until when the request may leave, on `elapsed_seconds`.
        leash: Ends each wait that lasts.
        clock: The monotonic clock, in seconds.

    Attributes:
        is_streamed: Whether the request's body is sent piece by piece, with time for each.
    """

    __slots__ = (
        "_asked_at",
        "_began_at",
        "_clock",
        "_connect_seconds",
        "_ends_at",
        "_host",
        "_leash",
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
        leave_by: float = math.inf,
        leash: Leash = UNLEASHED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._leash = leash
        self._clock = clock
        self._connect_seconds = connect_seconds
        self._phase_seconds = phase_seconds
        self._ends_at = ends_at
        self._leave_by = leave_by
        self._asked_at = clock()
        self._phase = _CONNECT
        self._began_at = self._asked_at
        self._phase_ends_at = min(self._asked_at + _NAME_TIMES * connect_seconds, ends_at)
        self.is_streamed = False

    def begin_connecting(self) -> None:
        """Begin to connect: the name has been looked up."""
        self._began_at = self._clock()
        self._phase_ends_at = min(self._began_at + self._connect_seconds, self._ends_at)

    def begin(self, phase: str) -> None:
        """Begin another phase, named as a message ends: "... took longer than 60 s"."""
        self._phase = phase
        self._began_at = self._clock()
        self._phase_ends_at = min(self._began_at + self._phase_seconds, self._ends_at)

    def begin_body(self, phase: str = "its body") -> None:
        """Begin to read the answer's body, or a piece of it; what had to be there is there by now."""
        self._ends_at = math.inf
        self.begin(phase)

    def see_leave(self) -> None:
        """Return if the request may still leave; called just before it does, whatever went on until then.

        Raises:
            DeadlineMissedError: It may not.
        """
        late = elapsed_seconds() - self._leave_by
        if late > 0:
            raise DeadlineMissedError(
                f"a request to {self._host} was not sent: what allows it was too old by {late:.3g} s"
            )

    def extend(self, seconds: float) -> None:
        """Give the phase more time, for what has come."""
        self._phase_ends_at += seconds

    def left_seconds(self) -> float:
        """How much is left of the phase; 0 or less if it is over."""
        return self._phase_ends_at - self._clock()

    def slice_seconds(self) -> float:
        """How long a wait may go on now before it asks again.

        Raises:
            TimeoutError: Connecting took too long: urllib3 says to whom.
            RegistryUnreachableError: Another phase took too long.
            LeaseLostError: As the leash says.
            ItemCancelledError: As the leash says.
        """
        now = self._clock()
        if now - self._asked_at >= SLICE_SECONDS:
            self._asked_at = now
            self._leash.check()
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
    """Bound by a deadline what this thread's sockets do meanwhile; None leaves it to their own time-outs."""
    token = _CURRENT.set(deadline)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_deadline() -> Deadline | None:
    """The deadline of the request that this thread is at."""
    return _CURRENT.get()
