"""Threads of a process for registry calls that go side by side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

from stagefleet.leases import ChildLease, Lease, under_lease

Call = Callable[[Lease], object]
"""Work that is done under a lease of its own, which it is given and its requests check."""


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

        Raises:
            BaseException: The first error of a call, once no other call is under way.
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
