"""Calls to a Docker Engine that can be left: an engine that is silent tells nothing of a cancelled item."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from stagefleet.errors import ItemCancelledError
from stagefleet.registry.leash import SLICE_SECONDS, Leash

__all__ = ["Heed", "call_and_leave"]

_Result = TypeVar("_Result")

Heed = Callable[[], None]
"""Called between two words of an engine; raises when the call is to end."""


def call_and_leave(call: Callable[[Heed], _Result], leash: Leash) -> _Result:
    """Make a call in a thread of its own, and leave it when the leash ends.

    A call that was left ends when the engine next says something, or is silent for longer than its time-out.

    Args:
        call: Makes it, and calls what it is handed now and then.
        leash: Of the item that waits.

    Raises:
        LeaseLostError: As in `Leash.check`.
        ItemCancelledError: As in `Leash.check`.
    """
    left = threading.Event()
    answer: Future[_Result] = Future()

    def heed() -> None:
        leash.check()
        if left.is_set():
            raise ItemCancelledError("nobody waits for this any more")

    def run() -> None:
        try:
            answer.set_result(call(heed))
        except BaseException as error:  # noqa: BLE001 - it is raised where the call is waited for
            answer.set_exception(error)

    threading.Thread(target=run, name="engine-call", daemon=True).start()
    try:
        while True:
            try:
                return answer.result(timeout=SLICE_SECONDS)
            except FutureTimeoutError:
                if answer.done():  # the call's own
                    raise
            leash.check()
    finally:
        left.set()
