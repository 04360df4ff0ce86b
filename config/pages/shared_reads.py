"""Calls to Redis off Tornado's loop: in a bounded number of threads, and one for all who ask the same."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from stagefleet.errors import RedisUnreachableError, StagefleetError

FRESH_SECONDS = 1.0
"""How long an answer serves others who ask the same."""
_THREADS = 8
_MOST_CALLS = 200
"""The most calls that wait or run; one more is refused at once."""
_LONGEST_SECONDS = 30.0
"""How long a request waits for its call; redis-py itself gives up after less."""
_KEPT_ANSWERS = 256

_T = TypeVar("_T")


class BusyError(StagefleetError):
    """The server has too much to do: the request may be repeated later."""


@dataclass(slots=True)
class _Call:
    task: asyncio.Task[Any]
    ended_at: float | None = None


class SharedReads:
    """Run blocking functions for handlers; used on the loop alone."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "runs")
        self._calls: OrderedDict[Hashable, _Call] = OrderedDict()
        self._under_way = 0

    async def shared(
        self, question: Hashable, read: Callable[[], _T], *, is_whole: Callable[[_T], bool] = lambda _: True
    ) -> _T:
        """Return the answer to a question; the read is called once for all who ask within a second.

        An answer that is not whole serves those who have asked by then, and nobody later.

        Raises:
            BusyError: Too many calls wait.
            RedisUnreachableError: The call takes too long.
        """
        now = asyncio.get_running_loop().time()
        call = self._calls.get(question)
        if call is None or (call.ended_at is not None and now - call.ended_at >= FRESH_SECONDS):
            call = self._calls[question] = _Call(asyncio.create_task(self.run(read)))
            call.task.add_done_callback(lambda _: self._end(call, is_whole))
            self._forget_old()
        self._calls.move_to_end(question)
        answer: _T = await asyncio.shield(call.task)
        return answer

    async def run(self, function: Callable[[], _T]) -> _T:
        """Run a function in a thread, and return its answer; raises as `shared`."""
        if self._under_way >= _MOST_CALLS:
            raise BusyError("too many requests are under way: try again in some seconds")
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, function)
        self._under_way += 1
        future.add_done_callback(lambda _: self._count_down())
        try:
            return await asyncio.wait_for(asyncio.shield(future), _LONGEST_SECONDS)
        except TimeoutError:
            future.add_done_callback(_ignore)
            raise RedisUnreachableError(
                f"no answer within {_LONGEST_SECONDS:g} s: try again, and see stagefleet doctor"
            ) from None

    def close(self) -> None:
        """Start no call any more; those that run end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _count_down(self) -> None:
        self._under_way -= 1

    def _end(self, call: _Call, is_whole: Callable[[Any], bool]) -> None:
        call.ended_at = call.task.get_loop().time()
        _ignore(call.task)
        if not call.task.cancelled() and call.task.exception() is None and not is_whole(call.task.result()):
            call.ended_at -= FRESH_SECONDS

    def _forget_old(self) -> None:
        ended = [question for question, call in self._calls.items() if call.ended_at is not None]
        for question in ended[: max(0, len(self._calls) - _KEPT_ANSWERS)]:
            del self._calls[question]


def _ignore(future: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody waits for any more, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()
