"""What both lock managers promise."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from stagefleet.errors import ItemCancelledError, LockLostError, LockTimeoutError
from stagefleet.locks import LockInfo
from tests.contract.lock_history import run_all
from tests.contract.lock_managers import LEASE_SECONDS, LockHarness, MemoryLockHarness, RedisLockHarness


@pytest.fixture(params=["memory", "redis"])
def harness(request: pytest.FixtureRequest) -> Iterator[LockHarness]:
    made: LockHarness
    if request.param == "memory":
        made = MemoryLockHarness()
    else:
        made = RedisLockHarness(request.getfixturevalue("redis_server").url)
    yield made
    made.close()


class Waiter:
    """A client that stands in line, in a thread, from its construction on."""

    def __init__(self, harness: LockHarness, name: str, *, shared: bool = False) -> None:
        self.has_it = threading.Event()
        self.may_go = threading.Event()
        self.saw: list[LockInfo] = []
        self._queued = threading.Event()
        self._locks, self._name, self._shared = harness.client(), name, shared
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._queued.wait(10)

    def _run(self) -> None:
        with self._locks.acquire(self._name, shared=self._shared, on_wait=self._see) as hold:
            self.fence = hold.fence
            self.has_it.set()
            self.may_go.wait(10)

    def _see(self, info: LockInfo) -> None:
        self.saw.append(info)
        self._queued.set()

    def finish(self) -> None:
        assert self.has_it.wait(10)
        self.may_go.set()
        self._thread.join(10)


def test_a_lock_held_alone_is_refused_to_others_and_the_refusal_names_its_holder(
    harness: LockHarness,
) -> None:
    with (
        harness.client().acquire("x", label="builder 7"),
        pytest.raises(LockTimeoutError, match=r"x .* builder 7"),
    ):
        harness.client().acquire("x", wait_seconds=0)


def test_locks_of_different_names_do_not_meet(harness: LockHarness) -> None:
    with harness.client().acquire("x"), harness.client().acquire("y", wait_seconds=0) as hold:
        hold.check()


def test_sharers_hold_a_lock_together_and_keep_others_out(harness: LockHarness) -> None:
    client, other = harness.client(), harness.client()
    first = client.acquire("x", shared=True)
    second = other.acquire("x", shared=True, wait_seconds=0)
    first.release()

    with pytest.raises(LockTimeoutError):
        client.acquire("x", wait_seconds=0)
    second.release()
    client.acquire("x", wait_seconds=0).release()


def test_a_lock_held_alone_is_refused_to_sharers(harness: LockHarness) -> None:
    with harness.client().acquire("x"), pytest.raises(LockTimeoutError):
        harness.client().acquire("x", shared=True, wait_seconds=0)


def test_a_released_lock_goes_to_who_waits_longest(harness: LockHarness) -> None:
    hold = harness.client().acquire("x")
    waiters = [Waiter(harness, "x") for _ in range(3)]

    hold.release()
    for waiter in waiters:
        waiter.finish()

    fences = [hold.fence, *(waiter.fence for waiter in waiters)]
    assert sorted(set(fences)) == fences


def test_sharers_do_not_overtake_one_who_waits_to_have_it_alone(harness: LockHarness) -> None:
    reading = harness.client().acquire("x", shared=True)
    writer = Waiter(harness, "x")

    with pytest.raises(LockTimeoutError):
        harness.client().acquire("x", shared=True, wait_seconds=0)

    reading.release()
    writer.finish()
    harness.client().acquire("x", shared=True, wait_seconds=0).release()


def test_sharers_that_wait_behind_one_another_go_together(harness: LockHarness) -> None:
    hold = harness.client().acquire("x")
    readers = [Waiter(harness, "x", shared=True) for _ in range(3)]

    hold.release()
    assert all(reader.has_it.wait(10) for reader in readers)

    for reader in readers:
        reader.finish()


def test_who_waits_is_told_once_who_holds_the_lock(harness: LockHarness) -> None:
    hold = harness.client().acquire("x", label="builder 7")
    waiter = Waiter(harness, "x")
    hold.release()
    waiter.finish()

    (seen,) = waiter.saw
    assert ["builder 7"] == [holder.label for holder in seen.holders]


def test_who_gives_up_leaves_the_line(harness: LockHarness) -> None:
    hold = harness.client().acquire("x", shared=True)
    with pytest.raises(LockTimeoutError):
        harness.client().acquire("x", wait_seconds=0.01)

    harness.client().acquire("x", shared=True, wait_seconds=0).release()

    hold.release()
    assert [] == harness.client().locks()


def test_a_wait_ends_with_what_its_check_raises(harness: LockHarness) -> None:
    def cancel() -> None:
        raise ItemCancelledError("no more")

    with harness.client().acquire("x"):
        with pytest.raises(ItemCancelledError):
            harness.client().acquire("x", check=cancel)
        (info,) = harness.client().locks()
    assert () == info.waiting


def test_free_locks_are_taken_together_and_let_go_together(harness: LockHarness) -> None:
    one, other = harness.client(), harness.client()
    with one.acquire_free({"x": False, "y": True}, label="builder 7") as held:
        assert ["x", "y"] == [hold.name for hold in held]
        assert held[0].fence < held[1].fence
        assert [False, True] == [info.holders[0].shared for info in one.locks()]
        with pytest.raises(LockTimeoutError, match="builder 7"):
            other.acquire("x", wait_seconds=0)
        other.acquire("y", shared=True, wait_seconds=0).release()
        with pytest.raises(LockTimeoutError):
            other.acquire("y", wait_seconds=0)
    with pytest.raises(LockLostError):
        held[0].check()
    assert [] == one.locks()


@pytest.mark.parametrize("shared", [False, True])
def test_none_is_taken_where_one_is_not_free(harness: LockHarness, shared: bool) -> None:  # noqa: FBT001 - a case
    one, other = harness.client(), harness.client()
    with one.acquire("y", shared=not shared):
        with other.acquire_free({"x": False, "y": shared}) as held:
            assert [] == list(held)
        assert ["y"] == [info.name for info in one.locks()]


def test_free_is_not_what_somebody_waits_for_alone(harness: LockHarness) -> None:
    with harness.client().acquire("x", shared=True):
        waiter = Waiter(harness, "x")
        with harness.client().acquire_free({"x": True}) as held:
            assert [] == list(held)
    waiter.finish()


def test_free_locks_taken_together_are_renewed_and_can_be_lost(harness: LockHarness) -> None:
    client = harness.client()
    with client.acquire_free({"x": False, "y": False}) as held:
        harness.advance(LEASE_SECONDS * 0.8)
        client._renewer.renew()
        harness.advance(LEASE_SECONDS * 0.8)
        client._renewer.renew()
        held[0].check()
        client.force_release("x")
        client._renewer.renew()
        with pytest.raises(LockLostError):
            held[0].check()
        held[1].check()


def test_a_lease_that_nobody_renews_ends_and_its_holder_learns_of_it(harness: LockHarness) -> None:
    client = harness.client()
    hold = client.acquire("x")
    harness.advance(LEASE_SECONDS + 1)

    successor = harness.client().acquire("x", wait_seconds=0)
    client._renewer.renew()

    with pytest.raises(LockLostError):
        hold.check()
    assert successor.fence > hold.fence
    hold.release()
    successor.check()
    assert [successor.fence] == [holder.fence for info in client.locks() for holder in info.holders]
    successor.release()


def test_a_renewed_lease_goes_on(harness: LockHarness) -> None:
    client = harness.client()
    with client.acquire("x") as hold:
        for _ in range(3):
            harness.advance(LEASE_SECONDS * 0.7)
            client._renewer.renew()
        with pytest.raises(LockTimeoutError):
            harness.client().acquire("x", wait_seconds=0)
        hold.check()


def test_each_sharer_has_a_lease_of_its_own(harness: LockHarness) -> None:
    client = harness.client()
    dead = client._request("x", "dead", "dead", shared=True)
    living = harness.client().acquire("x", shared=True)
    harness.advance(LEASE_SECONDS * 0.7)
    living._renewer.renew()
    harness.advance(LEASE_SECONDS * 0.7)

    (info,) = client.locks()

    assert dead
    assert [living.fence] == [holder.fence for holder in info.holders]
    living.release()


def test_who_dies_waiting_blocks_nobody_for_longer_than_a_lease(harness: LockHarness) -> None:
    reading = harness.client().acquire("x", shared=True)
    assert not harness.client()._request("x", "dead", "dead", shared=False)
    harness.advance(LEASE_SECONDS * 0.7)
    reading._renewer.renew()
    harness.advance(LEASE_SECONDS * 0.7)

    harness.client().acquire("x", shared=True, wait_seconds=0).release()
    reading.release()


def test_asking_again_with_the_same_ticket_gives_the_same_hold(harness: LockHarness) -> None:
    client = harness.client()
    fence = client._request("x", "mine", "me", shared=False)

    assert fence == client._request("x", "mine", "me", shared=False)
    (info,) = client.locks()
    assert 1 == len(info.holders)
    assert () == info.waiting


def test_asking_again_keeps_the_place_in_the_line(harness: LockHarness) -> None:
    client = harness.client()
    hold = client.acquire("x")
    for ticket in ("first", "second", "first"):
        assert not client._request("x", ticket, ticket, shared=False)
    hold.release()

    assert not client._request("x", "second", "second", shared=False)
    assert client._request("x", "first", "first", shared=False)


def test_a_lock_taken_by_force_is_lost_to_its_holder_and_free_for_others(harness: LockHarness) -> None:
    client = harness.client()
    hold = client.acquire("x")

    assert 1 == harness.client().force_release("x")
    client._renewer.renew()

    with pytest.raises(LockLostError):
        hold.check()
    harness.client().acquire("x", wait_seconds=0).release()


def test_one_holder_of_several_can_be_made_to_let_go(harness: LockHarness) -> None:
    client = harness.client()
    holds = [client.acquire("x", shared=True) for _ in range(2)]

    assert 1 == client.force_release("x", holds[0].ticket)

    (info,) = client.locks()
    assert [holds[1].ticket] == [holder.ticket for holder in info.holders]
    assert 0 == client.force_release("x", "nobody")
    holds[1].release()


def test_releasing_twice_harms_nobody(harness: LockHarness) -> None:
    hold = harness.client().acquire("x")
    hold.release()
    other = harness.client().acquire("x", wait_seconds=0)
    hold.release()

    other.check()
    with pytest.raises(LockTimeoutError):
        harness.client().acquire("x", wait_seconds=0)
    other.release()


def test_a_released_hold_is_no_hold(harness: LockHarness) -> None:
    with harness.client().acquire("x") as hold:
        pass

    with pytest.raises(LockLostError):
        hold.check()


def test_locks_lists_what_is_held_and_who_waits(harness: LockHarness) -> None:
    client = harness.client()
    held = client.acquire("b", label="one")
    alone = client.acquire("a", label="two", shared=True)
    waiter = Waiter(harness, "b", shared=True)

    first, second = client.locks()

    assert ("a", "b") == (first.name, second.name)
    assert [("two", True, alone.fence)] == [(each.label, each.shared, each.fence) for each in first.holders]
    assert [("one", False, held.fence)] == [(each.label, each.shared, each.fence) for each in second.holders]
    assert [(True, 0)] == [(each.shared, each.fence) for each in second.waiting]
    assert 0 < second.holders[0].seconds_left <= LEASE_SECONDS
    held.release()
    alone.release()
    waiter.finish()


def test_hundred_threads_count_without_losing_one(harness: LockHarness) -> None:
    clients = [harness.client() for _ in range(4)]
    count = 0

    def add(number: int) -> None:
        nonlocal count
        with clients[number % 4].acquire("x"):
            seen = count
            threading.Event().wait(0)  # lets another thread run
            count = seen + 1

    run_all(*[lambda number=number: add(number) for number in range(100)])

    assert 100 == count
