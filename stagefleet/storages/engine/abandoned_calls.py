"""Calls to a Docker Engine that the caller can abandon: a silent engine must not delay a cancelled item."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from stagefleet.errors import ItemCancelledError
from stagefleet.registry.lease import SLICE_SECONDS, Lease

__all__ = ["Heed", "call_under_lease"]

_Result = TypeVar("_Result")

Heed = Callable[[], None]
"""Called between two events of an engine; raises to end the call."""


def call_under_lease(call: Callable[[Heed], _Result], lease: Lease) -> _Result:
    """Run a call in a thread, and abandon it when the lease ends.

    An abandoned call ends at the engine's next event, or after its time-out.

    Args:
        call: The call; it must call its argument now and then.
        lease: Lease on the item that waits.

    Raises:
        LeaseLostError: As in `Lease.check`.
        ItemCancelledError: As in `Lease.check`.
    """
    left = threading.Event()
    answer: Future[_Result] = Future()

    def heed() -> None:
        lease.check()
        if left.is_set():
            raise ItemCancelledError("nobody waits for this any more")

    def run() -> None:
        try:
            answer.set_result(call(heed))
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            answer.set_exception(error)

    threading.Thread(target=run, name="engine-call", daemon=True).start()
    try:
        while True:
            try:
                return answer.result(timeout=SLICE_SECONDS)
            except FutureTimeoutError:
                if answer.done():  # the error of the call itself
                    raise
            lease.check()
    finally:
        left.set()
