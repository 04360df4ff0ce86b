"""Parallel registry calls in threads, for a caller that waits for all of them and may leave early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from stagefleet.errors import ItemCancelledError
from stagefleet.registry.lease import Lease, current_lease, under_lease, waiting

__all__ = ["LeaseBoundThreads"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class _PoolLease:
    """The lease of the waiting thread; it also ends when the pool closes."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.has_ended = False

    def check(self) -> None:
        if self.has_ended:
            raise ItemCancelledError("nobody waits for this any more")
        self._lease.check()

    def require(self, seconds: float) -> None:
        self.check()
        self._lease.require(seconds)

    def waiting(self, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
        return waiting(self._lease, seconds, host, text)


class LeaseBoundThreads:
    """Thread pool under the lease of the thread that creates it, for use in a `with` block.

    At the end of the block, also by an error or an interrupt, unfinished calls end within a second: their
    waits check the pool's end. A bare pool would first finish all pauses and time-outs of each thread.

    Args:
        count: Most threads.
        name: Prefix of their names.
    """

    def __init__(self, count: int, name: str) -> None:
        self._lease = _PoolLease(current_lease())
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End unfinished calls, and wait for their end."""
        self._lease.has_ended = True
        self._pool.shutdown(cancel_futures=True)

    def submit(
        self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Future[_Result]:
        """Call a function in one of the threads."""
        return self._pool.submit(lambda: self._call(function, *args, **kwargs))

    def map(self, function: Callable[[Any], _Result], arguments: Iterable[Any]) -> Iterator[_Result]:
        """Call a function with each argument in the threads; yield results in the arguments' order."""
        return self._pool.map(lambda argument: self._call(function, argument), arguments)

    def _call(self, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        with under_lease(self._lease):
            return function(*args, **kwargs)
