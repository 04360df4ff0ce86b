import math
import threading
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest
import redis

from stagefleet.attempt import ItemLeaseRenewer
from stagefleet.errors import (
    ItemCancelledError,
    LeaseLostError,
    RedisConfigurationError,
    RedisUnreachableError,
    SettingsError,
)
from stagefleet.leases import NO_LEASE, ChildLease, note_bytes
from stagefleet.locks.stage_locks import StageLock
from stagefleet.runs.ledger import Claim, RenewalResult
from stagefleet.settings import RunSettings
from tests.services.processes import wait_until


class Bench:
    """A workbench that answers renewals as told."""

    def __init__(self, answer=RenewalResult.RUN):
        self.answer = answer
        self.asked = threading.Event()
        self.renewals = 0

    def renew(self, claims):
        self.renewals += 1
        self.asked.set()
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer for _ in claims]


def claim(seconds=30.0, lease_seconds=30.0):
    """A claim with some seconds left of its lease."""
    until = time.monotonic() + seconds
    return Claim("run", 0, "item", fence=1, attempt=1, claimed_at=until - lease_seconds, lease_until=until)


def renewer(bench, **settings):
    return ItemLeaseRenewer(bench, RunSettings(**settings))


def test_a_fresh_lease_lets_work_go_on():
    with renewer(Bench()).renewing(claim()) as lease:
        lease.check()
        lease.require(15)


def test_a_lease_is_lost_before_it_ends_without_any_answer():
    with renewer(Bench()).renewing(claim(seconds=0.5)) as lease, pytest.raises(LeaseLostError):
        lease.check()


def test_a_write_that_the_lease_would_not_outlast_renews_it_first():
    bench = Bench()

    with renewer(bench).renewing(claim(seconds=10)) as lease:
        lease.require(15)

    assert bench.renewals == 1


def test_a_write_does_not_start_when_the_lease_cannot_be_renewed():
    bench = Bench(RedisUnreachableError("away"))

    with renewer(bench).renewing(claim(seconds=10)) as lease, pytest.raises(LeaseLostError, match="away"):
        lease.require(15)


def test_a_write_longer_than_any_lease_fails_for_good_with_the_settings_to_change():
    with (
        renewer(Bench()).renewing(claim()) as lease,
        pytest.raises(SettingsError, match=r"runs\.lease_seconds"),
    ):
        lease.require(60)


def test_a_lease_shorter_than_the_workers_renewals_is_renewed_in_time():
    """R35: a run's lease is its submitter's setting: the worker renews by it, not by its own alone."""
    bench = Bench()
    keeps = renewer(bench, lease_seconds=3600, renewal_seconds=1200)

    with keeps.renewing(claim(seconds=3600, lease_seconds=3600)), keeps.renewing(claim(0.3, 0.3)) as short:
        for _ in range(3):
            bench.asked.clear()
            assert bench.asked.wait(5)
            short.check()
    keeps.close()


def test_a_lease_that_is_due_after_the_others_wakes_nobody(monkeypatch):
    """Issue 10: for each item a worker woke the thread that renews leases."""
    keeps, woken = renewer(Bench(), lease_seconds=3600, renewal_seconds=1200), []
    with keeps.renewing(claim(seconds=300, lease_seconds=300)):
        wait_until(lambda: keeps._wakes_at < math.inf, "the thread waits for the first one")
        monkeypatch.setattr(keeps._changed, "notify_all", lambda: woken.append(True))
        with keeps.renewing(claim(seconds=3600, lease_seconds=3600)):
            assert [] == woken
        with keeps.renewing(claim(seconds=30, lease_seconds=30)):
            assert [True] == woken
    monkeypatch.undo()
    keeps.close()


def test_a_lease_can_be_discarded_within_a_step_of_the_renewals():
    """Finalizers run wherever memory is allocated, and may end a block that holds a lease of the renewer."""
    keeps = renewer(Bench())
    with keeps.renewing(claim()) as lease:
        done = threading.Thread(target=lambda: discard_within(keeps, lease), daemon=True)
        done.start()
        done.join(5)
        assert not done.is_alive()
    keeps.close()


def discard_within(keeps, lease):
    with keeps._changed:
        keeps.discard([lease])


def test_a_short_lease_is_not_lost_when_it_begins():
    """R35: what is set aside before a lease's end is a part of the lease."""
    with renewer(Bench()).renewing(claim(0.9, 0.9)) as lease:
        lease.check()
        lease.require(0.5)


def test_a_renewal_that_failed_is_tried_again_soon():
    """R2: the first renewal after an outage does not wait for its turn, so that no sweep comes before it."""
    bench = Bench(RedisUnreachableError("away"))
    keeps = renewer(bench, lease_seconds=3600, renewal_seconds=1200)
    due = time.monotonic() - 1300

    with keeps.renewing(Claim("run", 0, "item", 1, 1, claimed_at=due, lease_until=due + 3600)) as lease:
        assert bench.asked.wait(5)
        bench.answer = RenewalResult.RUN
        bench.asked.clear()
        assert bench.asked.wait(5)
        lease.check()
    keeps.close()


def test_a_renewed_lease_is_as_long_as_its_run_says_not_as_this_worker_would_make_it():
    keeps = renewer(Bench(), lease_seconds=30)

    with keeps.renewing(claim(seconds=5, lease_seconds=5)) as lease:
        keeps.renew([lease])
        with pytest.raises(SettingsError, match="a lease of 5 s"):
            lease.require(10)


def test_the_answer_to_a_renewal_carries_the_cancellation():
    bench = Bench(RenewalResult.CANCEL)

    with renewer(bench, renewal_seconds=0.01).renewing(claim()) as lease:
        assert bench.asked.wait(5)
        with pytest.raises(ItemCancelledError):
            lease.require(60)  # asks anew, should the thread's answer not have arrived yet
        assert lease.is_cancelled


def test_a_lease_that_was_lost_stays_lost():
    bench = Bench(RenewalResult.LOST)
    keeps = renewer(bench)

    with keeps.renewing(claim()) as lease:
        keeps.renew([lease])
        bench.answer = RenewalResult.RUN
        keeps.renew([lease])
        with pytest.raises(LeaseLostError):
            lease.check()


def test_a_worker_that_has_to_stop_stops_every_item():
    keeps = renewer(Bench())

    with keeps.renewing(claim()) as lease:
        keeps.stop_all()
        with pytest.raises(ItemCancelledError):
            lease.check()
        assert not lease.is_cancelled


def test_an_outage_does_not_end_the_renewals():
    bench = Bench(RedisUnreachableError("away"))
    keeps = renewer(bench, renewal_seconds=0.01)

    with keeps.renewing(claim()) as lease:
        assert bench.asked.wait(5)
        bench.answer = RenewalResult.RUN
        bench.asked.clear()
        assert bench.asked.wait(5)
        lease.check()
    keeps.close()
    assert keeps.held == []


@pytest.mark.parametrize(
    "error",
    [
        RedisUnreachableError("away"),
        RedisConfigurationError("no such user"),
        redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        ValueError("zip() argument 2 is shorter than argument 1"),
    ],
)
def test_no_answer_ends_the_renewals(error):
    """R8: whatever Redis answers to one renewal, the next one comes, and soon."""
    bench = Bench(error)
    keeps = renewer(bench, lease_seconds=3600, renewal_seconds=1200)
    due = time.monotonic() - 1300

    with keeps.renewing(Claim("run", 0, "item", 1, 1, claimed_at=due, lease_until=due + 3600)) as lease:
        assert bench.asked.wait(5)
        bench.answer = RenewalResult.RUN
        bench.asked.clear()
        assert bench.asked.wait(5)
        lease.check()
    keeps.close()


@pytest.mark.parametrize("error", [RedisUnreachableError("away"), RedisConfigurationError("no such user")])
def test_a_write_does_not_start_on_a_lease_that_redis_does_not_renew(error):
    """R8: a write starts on no lease that cannot be renewed, whatever the reason: the item is another's."""
    with renewer(Bench(error)).renewing(claim(seconds=10)) as lease, pytest.raises(LeaseLostError):
        lease.require(15)


def test_bytes_of_large_content_are_told_by_item_the_largest_first():
    renewer = ItemLeaseRenewer(Bench(), RunSettings())  # type: ignore[arg-type]  # it renews alone
    with ExitStack() as stack:
        small, *large = (stack.enter_context(renewer.renewing(numbered(index))) for index in range(20))
        for number, lease in enumerate(large, start=1):
            child = ChildLease(StageLock(lease, (), has_waited=False))  # as the reader of a blob has it
            note_bytes(child, 0, number * 100)
            note_bytes(child, number)
        note_bytes(NO_LEASE, 1, 1)  # outside of a run nobody is told
        told = renewer.transfers()
        assert [(19, 1900), (18, 1800)] == [(item.moved, item.expected) for item in told[:2]]
        assert (16, False) == (len(told), small.transfer in told)
        assert {("run", 19)} == {(item.run_id, item.index) for item in told[:1]}
    assert () == renewer.transfers(), "what has ended moves nothing"
    renewer.close()


def numbered(index):
    return replace(claim(), index=index)
