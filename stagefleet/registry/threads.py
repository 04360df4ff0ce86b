"""Threads that ask registries side by side, for one that waits for all of them and may leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from stagefleet.errors import ItemCancelledError
from stagefleet.registry.leash import Leash, current_leash, under, waiting

__all__ = ["LeashedThreads"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class _EndingLeash:
    """The leash of the thread that waits, and the end of what it waits for."""

    def __init__(self, leash: Leash) -> None:
        self._leash = leash
        self.has_ended = False

    def check(self) -> None:
        """See `Leash.check`."""
        if self.has_ended:
            raise ItemCancelledError("nobody waits for this any more")
        self._leash.check()

    def require(self, seconds: float) -> None:
        """See `Leash.require`."""
        self.check()
        self._leash.require(seconds)

    def waiting(self, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
        """See `WaitingLeash.waiting`."""
        return waiting(self._leash, seconds, host, text)


class LeashedThreads:
    """A pool of threads under the leash of the thread that makes it, to be used in a `with` block.

    At the end of the block, by an error or an interrupt too, what is not done ends within a second: its waits
    hear of it. A bare pool would let each thread sit out its pauses and its silent hosts first.

    Args:
        count: The most threads.
        name: What their names begin with.
    """

    def __init__(self, count: int, name: str) -> None:
        self._leash = _EndingLeash(current_leash())
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what is not done, and wait for its end."""
        self._leash.has_ended = True
        self._pool.shutdown(cancel_futures=True)

    def submit(
        self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Future[_Result]:
        """Have a function called by one of the threads."""
        return self._pool.submit(lambda: self._call(function, *args, **kwargs))

    def map(self, function: Callable[[Any], _Result], arguments: Iterable[Any]) -> Iterator[_Result]:
        """Have a function called with each argument; the results come in the order of the arguments."""
        return self._pool.map(lambda argument: self._call(function, argument), arguments)

    def _call(self, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        with under(self._leash):
            return function(*args, **kwargs)
