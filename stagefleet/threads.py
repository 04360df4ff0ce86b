"""Threads of a process for calls that go side by side, for a caller that waits for all of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, ParamSpec, Self, TypeVar

from stagefleet.leases import ChildLease, Lease, current_lease, under_lease

Call = Callable[[Lease], object]
"""Work that is done under a lease of its own, which it is given and its requests check."""
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class RequestThreads:
    """Threads of this process for the requests of one item that do not wait for one another; thread-safe.

    All items share them, so that a process has a bounded number of requests under way. Nobody depends on
    them: the thread that needs work done does what no other has begun, so work may wait for work.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="requests")

    def close(self) -> None:
        """Start no more calls; those under way end with the ones who wait for them."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def run(self, calls: Sequence[Call], lease: Lease) -> None:
        """Make calls side by side, each under a lease that ends with the first error; wait for all.

        The first error of a call is raised, once no other call is under way.
        """
        batch = _Batch(calls, lease)
        helpers: list[Future[None]] = []
        try:
            helpers.extend(self.start(batch.run) for _ in range(min(self._count, len(calls) - 1)))
            batch.run()
            _await_all(helpers)
        except BaseException as error:  # an interrupt of this thread
            batch.fail(error)
            _await_all(helpers)
            raise
        if batch.error is not None:
            raise batch.error

    def start(self, function: Callable[[], None]) -> Future[None]:
        """Call a function once a thread is free, with the context variables of this thread."""
        try:
            return self._pool.submit(copy_context().run, function)
        except RuntimeError:  # they are closed: a process that ends waits for no new thread
            none = Future[None]()
            none.cancel()
            return none


def _await_all(helpers: Sequence[Future[None]]) -> None:
    for helper in helpers:
        if not helper.cancel():  # else no thread was free
            helper.exception()


class _Batch:
    """Calls of one `RequestThreads.run`."""

    def __init__(self, calls: Sequence[Call], lease: Lease) -> None:
        self.error: BaseException | None = None
        self._calls = deque(calls)
        self._lease = ChildLease(lease)
        self._lock = threading.Lock()

    def run(self) -> None:
        """Make the calls that no thread has begun, one after another."""
        with under_lease(self._lease):
            while (call := self._next()) is not None:
                try:
                    call(self._lease)
                except BaseException as error:  # noqa: BLE001 - raised by `run`, in the thread of the caller
                    self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Begin no more calls, and end the lease of those under way."""
        with self._lock:
            self.error = self.error or error
            self._calls.clear()
        self._lease.end()

    def _next(self) -> Call | None:
        with self._lock:
            return self._calls.popleft() if self._calls else None


class LeaseBoundThreads:
    """Thread pool under the lease of the thread that creates it, for use in a `with` block.

    At the end of the block, also by an error or an interrupt, unfinished calls end within a second: their
    waits check the pool's end. A bare pool would first finish all pauses and time-outs of each thread.
    """

    def __init__(self, count: int, name: str) -> None:
        self._lease = ChildLease(current_lease())
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End unfinished calls, and wait for their end."""
        self._lease.end()
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
