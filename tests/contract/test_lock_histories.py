"""Locks against the checker: it finds nothing in what the two managers show, and the fault in broken ones."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from stagefleet.errors import LockLostError, LockTimeoutError, RedisUnreachableError
from stagefleet.locks import HeldLock, MemoryLocks, RedisLocks
from stagefleet.settings import LockSettings
from tests.contract.lock_history import Recorder, Tenure, find_faults, run_all
from tests.contract.lock_managers import LEASE_SECONDS, LockHarness, MemoryLockHarness, RedisLockHarness
from tests.services.proxy import TcpProxy

NAMES = ("x", "y")


def take_or_leave(recorder: Recorder, name: str, **how: Any) -> None:
    try:
        with recorder.take_and_release(name, **how):
            pass
    except LockTimeoutError:
        pass


def play(harness: LockHarness) -> list[Tenure]:
    """The same short story for every manager; each broken one gives itself away in it."""
    one, two, three = (Recorder(harness.client(), client) for client in ("one", "two", "three"))
    with one.take_and_release("x") as is_held:
        take_or_leave(two, "x")
        is_held()
    take_or_leave(two, "x")
    with one.take_and_release("y", shared=True) as is_held:
        queued = threading.Event()
        wait = partial(take_or_leave, two, "y", wait_seconds=5, on_queued=queued.set)
        writer = threading.Thread(target=wait, daemon=True)
        writer.start()
        is_queued = queued.wait(1)
        while is_queued and not two.tenures[-1].asked_again_at[1:]:  # asking again it is in line
            take_or_leave(three, "y", shared=True)
            threading.Event().wait(0.01)
    writer.join(10)
    client = harness.client()
    slow, late = Recorder(client, "slow"), Recorder(harness.client(), "late")
    with slow.take_and_release("z") as is_held:
        harness.advance(LEASE_SECONDS + 1)
        with late.take_and_release("z"):
            client._renewer.renew()
            is_held()
    return [tenure for recorder in (one, two, three, slow, late) for tenure in recorder.tenures]


class Generous(MemoryLocks):
    """Gives everything to everybody."""

    def _request(self, name: str, ticket: str, label: str, *, shared: bool) -> int:
        return super()._request(f"{name} {ticket}", ticket, label, shared=shared)


class Rude(MemoryLocks):
    """Lets sharers past those who wait."""

    def _request(self, name: str, ticket: str, label: str, *, shared: bool) -> int:
        with self._changed:
            waiting = [entry for entry in self._tickets.get(name, ()) if not entry.fence]
            if shared:
                self._tickets[name] = [entry for entry in self._tickets.get(name, ()) if entry.fence]
            fence = super()._request(name, ticket, label, shared=shared)
            if shared:
                self._tickets[name] += waiting
            return fence


class Forgetful(MemoryLocks):
    """Begins its fences anew."""

    def _request(self, name: str, ticket: str, label: str, *, shared: bool) -> int:
        self._number = 0
        return super()._request(name, ticket, label, shared=shared)


class Silent(MemoryLocks):
    """Tells nobody that its lease is over."""

    def _renew(self, holds: Any) -> list[bool]:
        super()._renew(holds)
        return [True for _ in holds]


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (Generous, "held at once"),
        (Rude, "overtaken in the line"),
        (Forgetful, "a fence that does not grow"),
        (Silent, "held at once"),
    ],
)
def test_the_checker_sees_what_a_broken_manager_does(broken: Callable[..., MemoryLocks], fault: str) -> None:
    harness = MemoryLockHarness(broken)

    faults = find_faults(play(harness), lease_seconds=LEASE_SECONDS)

    harness.close()
    assert any(found.startswith(fault) for found in faults), faults


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_the_same_story_is_without_fault_with_ours(kind: str, request: pytest.FixtureRequest) -> None:
    harness: LockHarness
    harness = (
        MemoryLockHarness()
        if kind == "memory"
        else RedisLockHarness(request.getfixturevalue("redis_server").url)
    )

    tenures = play(harness)

    harness.close()
    assert [] == find_faults(tenures, lease_seconds=LEASE_SECONDS)
    assert any(tenure.queued_at and tenure.asked_again_at for tenure in tenures), (
        "nobody waited: it proves nothing"
    )


def test_a_lease_is_lost_before_its_end_without_any_answer() -> None:
    locks = MemoryLocks(LockSettings(lease_seconds=10))
    fresh = locks.acquire("x")
    nearly_over = HeldLock(locks._renewer, "y", "t", 1, seconds=10, asked_at=fresh.asked_at - 10)

    fresh.check()
    with pytest.raises(LockLostError):
        nearly_over.check()
    fresh.release()
    locks.close()


@pytest.fixture
def links(redis_server: Any) -> Iterator[list[TcpProxy]]:
    made = [TcpProxy(redis_server.host).start() for _ in range(3)]
    yield made
    for link in made:
        link.stop()


def test_no_fault_is_seen_while_links_are_cut_and_scripts_are_flushed(
    redis_server: Any, links: list[TcpProxy]
) -> None:
    settings = LockSettings(lease_seconds=3, renewal_seconds=0.5, wait_seconds=10)
    harnesses = [RedisLockHarness(f"redis://{link.host}/0") for link in links]
    clients = [
        RedisLocks(harness.redis, prefix="chaos:", settings=settings)
        for harness in harnesses
        for _ in range(2)
    ]
    recorders = [Recorder(client, f"client {number}") for number, client in enumerate(clients)]

    def wander(recorder: Recorder, seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(40):
            both = {name: draw.random() < 0.5 for name in draw.sample(NAMES, 2)}
            one = recorder.take_and_release(draw.choice(NAMES), shared=draw.random() < 0.5, wait_seconds=5)
            try:
                with one if draw.random() < 0.7 else recorder.take_and_release_if_free(both) as held:
                    for _ in range(draw.randrange(4)):
                        threading.Event().wait(0.002)
                        held()
            except (LockTimeoutError, RedisUnreachableError):
                pass

    def disturb() -> None:
        draw = random.Random(7)
        for _ in range(12):
            threading.Event().wait(0.1)
            draw.choice(links).cut()
            harnesses[0].redis.script_flush()

    wanderers = [partial(wander, recorder, seed) for seed, recorder in enumerate(recorders)]
    run_all(*wanderers, disturb)
    for client in clients:
        client.close()
    for harness in harnesses:
        harness.close()

    tenures = [tenure for recorder in recorders for tenure in recorder.tenures]
    assert [] == find_faults(tenures, lease_seconds=settings.lease_seconds)
    assert sum(bool(tenure.sure) for tenure in tenures) > 150
    assert any(tenure.queued_at for tenure in tenures)
