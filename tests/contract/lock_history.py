"""What concurrent clients saw of locks, and whether a lock manager that keeps its promises can have shown it.

All times are of the machine's monotonic clock, which its processes share. A client notes the time *before* it
asks whether it still holds a lock: said yes, it held it then. Only what is certain is held against a manager.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from stagefleet.errors import LockLostError, LockTimeoutError
from stagefleet.locks import HeldLock, LockInfo, LockManager

__all__ = ["Recorder", "Tenure", "find_faults"]


@dataclass
class Tenure:
    """One client's way from asking for a lock to losing or leaving it.

    Attributes:
        asked_at: Before the first request.
        queued_at: When it knew that it stood in line; None if it never did.
        asked_again_at: When it asked again, while it waited.
        granted_at: When it knew that it had it; None if it never had.
        sure: When it certainly had it: the first and the last time.
        is_lost: Whether it was told that it lost it.
    """

    client: str
    name: str
    shared: bool
    asked_at: float
    queued_at: float | None = None
    asked_again_at: list[float] = field(default_factory=list)
    granted_at: float | None = None
    fence: int = 0
    sure: list[float] = field(default_factory=list)
    is_lost: bool = False

    def __str__(self) -> str:
        return f"{self.client} ({'shared' if self.shared else 'alone'}, fence {self.fence})"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def note_sure(self, moment: float) -> None:
        self.sure = [self.sure[0] if self.sure else moment, moment]


class Recorder:
    """Takes locks and writes down what it sees.

    Args:
        locks: The manager that is watched.
        client: Who this is.
    """

    def __init__(self, locks: LockManager, client: str) -> None:
        self._locks = locks
        self._client = client
        self.tenures: list[Tenure] = []

    @contextmanager
    def take_and_release(
        self,
        name: str,
        *,
        shared: bool = False,
        wait_seconds: float = 0,
        on_queued: Callable[[], object] = lambda: None,
    ) -> Iterator[Callable[[], bool]]:
        """Take a lock for a block, which is handed a function that tells whether it is still held.

        Raises:
            LockTimeoutError: It was not to be had.
        """
        tenure = Tenure(self._client, name, shared, time.monotonic())
        self.tenures.append(tenure)

        def note_queued(_info: LockInfo) -> None:
            tenure.queued_at = time.monotonic()
            on_queued()

        lock: HeldLock = self._locks.acquire(
            name,
            shared=shared,
            wait_seconds=wait_seconds,
            on_wait=note_queued,
            check=lambda: tenure.asked_again_at.append(time.monotonic()),
        )
        tenure.granted_at, tenure.fence = time.monotonic(), lock.fence

        with lock:
            _is_sure(tenure, lock)
            yield lambda: _is_sure(tenure, lock)
            _is_sure(tenure, lock)

    @contextmanager
    def take_and_release_if_free(self, wanted: Mapping[str, bool]) -> Iterator[Callable[[], bool]]:
        """Take several locks in one step for a block, or none; handed a function as in `take_and_release`."""
        asked_at = time.monotonic()
        with self._locks.acquire_free(wanted) as held:
            granted_at = time.monotonic()
            tenures = [
                Tenure(self._client, lock.name, wanted[lock.name], asked_at, None, [], granted_at, lock.fence)
                for lock in held
            ]
            self.tenures += tenures

            def is_held() -> bool:
                return bool(tenures) and min(map(_is_sure, tenures, held))  # asks each

            is_held()
            yield is_held
            is_held()


def _is_sure(tenure: Tenure, lock: HeldLock) -> bool:
    moment = time.monotonic()
    try:
        lock.check()
    except LockLostError:
        tenure.is_lost = True
        return False
    tenure.note_sure(moment)
    return True


def find_faults(tenures: Iterable[Tenure], *, lease_seconds: float) -> list[str]:
    """What no manager that keeps its promises can have shown; empty if all is well.

    Args:
        tenures: Of all clients.
        lease_seconds: How long one who is silent keeps its place in the line.
    """
    by_name = defaultdict(list)
    for tenure in tenures:
        by_name[tenure.name].append(tenure)
    faults: list[str] = []
    for several in by_name.values():
        granted = sorted(
            (tenure for tenure in several if tenure.granted_at is not None),
            key=_fence,
        )
        faults += _overlaps(granted)
        faults += _stale_fences(granted)
        faults += _overtakings(several, granted, lease_seconds)
    return faults


def _fence(tenure: Tenure) -> int:
    return tenure.fence


def _overlaps(granted: list[Tenure]) -> Iterator[str]:
    held = [tenure for tenure in granted if tenure.sure]
    for one, other in itertools.combinations(held, 2):
        if one.shared and other.shared:
            continue
        if max(one.sure[0], other.sure[0]) < min(one.sure[1], other.sure[1]):
            yield f"held at once: {one} and {other}"


def _stale_fences(granted: list[Tenure]) -> Iterator[str]:
    for one, other in itertools.combinations(granted, 2):
        assert other.granted_at is not None
        if one.fence == other.fence or other.granted_at < one.asked_at:
            yield f"a fence that does not grow: {other}, then {one}"


def _overtakings(several: list[Tenure], granted: list[Tenure], lease_seconds: float) -> Iterator[str]:
    for first in several:
        # Silent for a lease, a client has lost its place; half of one leaves room for the way to the server.
        moments = [first.queued_at or first.asked_at, *first.asked_again_at]
        patient = all(later - earlier < lease_seconds / 2 for earlier, later in itertools.pairwise(moments))
        if first.queued_at is None or not first.asked_again_at or not patient:
            continue
        for later in granted:
            if later is first or (later.shared and first.shared) or later.asked_at < first.queued_at:
                continue
            assert later.granted_at is not None
            if later.granted_at < first.asked_again_at[-1]:
                yield f"overtaken in the line: {first} by {later}"


def run_all(*functions: Callable[[], object], seconds: float = 30) -> None:
    """Run functions at once, each in a thread, and hand on the first error."""
    errors: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        try:
            function()
        except LockTimeoutError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=[function], daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a client hangs"
    if errors:
        raise errors[0]
