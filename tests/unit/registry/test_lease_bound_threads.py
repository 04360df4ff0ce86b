"""Threads side by side, which end with the thread that waits for them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from stagefleet.errors import ItemCancelledError
from stagefleet.leases import current_lease, under_lease
from stagefleet.registry.http.waits import pause
from stagefleet.threads import LeaseBoundThreads


class Lease:
    """Notes the waits that it is told of; a test may end it."""

    def __init__(self):
        self.told = []
        self.has_ended = False

    def check(self):
        if self.has_ended:
            raise ItemCancelledError("cancelled")

    def require(self, seconds):
        del seconds

    def note_bytes(self, moved, expected=0):
        pass

    def note_progress(self, seconds, text):
        pass

    def check_run(self):
        self.check()

    def waiting(self, seconds, host, text):
        self.told.append((seconds, host, text))
        return threading.Lock()  # any context


def pausing(begun):
    """Pauses for an hour, as where a registry asks for that; returns how it ended."""

    def work(_number):
        begun.release()
        pause(3600, current_lease(), "r.test", "429")

    return work


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a thread's")], ids=["interrupt", "error"])
def test_who_leaves_waits_for_no_pause_of_its_threads(error):
    """R7: an interrupt, and the error of one thread, end the waits of all."""
    begun, asked = threading.Semaphore(0), list[Any]()

    def leave():
        with LeaseBoundThreads(4, "test") as pool:
            asked.extend(pool.submit(pausing(begun), number) for number in range(10))
            for _ in range(4):
                assert begun.acquire(timeout=20)
            raise error

    with pytest.raises(type(error)):
        leave()
    ends = [None if future.cancelled() else future.exception(20) for future in asked]
    assert 4 == sum(isinstance(end, ItemCancelledError) for end in ends)
    assert 6 == sum(end is None for end in ends)


def test_they_work_under_the_lease_of_whoever_waits():
    """R7: a cancelled item ends them, and hears of their waits."""
    begun, lease = threading.Semaphore(0), Lease()
    with under_lease(lease), LeaseBoundThreads(2, "test") as pool:
        asked = [pool.submit(pausing(begun), number) for number in range(2)]
        for _ in range(2):
            assert begun.acquire(timeout=20)
        lease.has_ended = True
        assert all(isinstance(future.exception(20), ItemCancelledError) for future in asked)
    assert [(3600, "r.test", "429")] * 2 == lease.told


def test_results_come_in_the_order_of_the_arguments():
    with LeaseBoundThreads(3, "test") as pool:
        assert [0, 1, 4, 9] == list(pool.map(lambda number: number * number, range(4)))
        assert 5 == pool.submit(max, 3, 5).result()
