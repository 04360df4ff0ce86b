"""The renewals of holds, whatever keeps the locks."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from stagefleet.errors import LockLostError, RedisUnreachableError
from stagefleet.locks.manager import HeldLock, LockRenewer
from stagefleet.settings import LockSettings


class Store:
    """Answers renewals as told."""

    def __init__(self) -> None:
        self.answer: bool | Exception = True
        self.asked: list[list[str]] = []
        self.was_asked = threading.Event()

    def renew(self, holds: Sequence[HeldLock]) -> list[bool]:
        self.asked.append([hold.name for hold in holds])
        self.was_asked.set()
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer for _ in holds]

    def release(self, holds: Sequence[HeldLock]) -> None:
        raise RedisUnreachableError("away")


@pytest.fixture
def store() -> Store:
    return Store()


def make_renewer(store: Store, *, renewal_seconds: float = 600) -> LockRenewer:
    # The default renews never in a test's time, which no settings allow.
    settings = LockSettings.model_construct(lease_seconds=10, renewal_seconds=renewal_seconds)
    return LockRenewer(store.renew, store.release, settings)


def hold(renewer: LockRenewer, name: str = "x", *, age_seconds: float = 0) -> HeldLock:
    return renewer.add_lock(name, "ticket", 1, time.monotonic() - age_seconds)


def test_a_lost_hold_is_not_asked_for_again(store: Store) -> None:
    renewer = make_renewer(store)
    lost = hold(renewer)
    store.answer = False
    renewer.renew()
    renewer.renew()

    assert [["x"]] == store.asked
    with pytest.raises(LockLostError):
        lost.check()
    renewer.close()


def test_a_renewal_without_an_answer_leaves_the_rest_of_the_lease(store: Store) -> None:
    renewer = make_renewer(store)
    young, old = hold(renewer), hold(renewer, "y", age_seconds=9.5)
    store.answer = RedisUnreachableError("away")
    with pytest.raises(RedisUnreachableError):
        renewer.renew()

    young.check()
    with pytest.raises(LockLostError):
        old.check()
    renewer.close()


def test_a_release_without_an_answer_is_no_error(store: Store) -> None:
    renewer = make_renewer(store)
    hold(renewer).release()
    renewer.renew()

    assert [] == store.asked
    renewer.close()


def test_renewals_go_on_after_an_answer_that_nobody_foresaw(store: Store) -> None:
    """R8: no answer ends the renewals of locks."""
    renewer = make_renewer(store, renewal_seconds=0.01)
    store.answer = ValueError("MISCONF")
    held = hold(renewer)
    assert store.was_asked.wait(10)
    store.answer = True
    store.was_asked.clear()

    assert store.was_asked.wait(10)
    held.check()
    renewer.close()


def test_the_thread_ends_when_nothing_is_held_and_the_next_hold_starts_another(store: Store) -> None:
    renewer = make_renewer(store, renewal_seconds=0.01)
    first = hold(renewer)
    thread = renewer._thread
    first.release()
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()

    hold(renewer, "y")
    store.was_asked.clear()
    assert store.was_asked.wait(10)
    renewer.close()


def test_a_renewal_that_failed_comes_again_soon(store: Store) -> None:
    """R8: locks are renewed at once after an outage, not when it is their turn again."""
    renewer = make_renewer(store)
    store.answer = RedisUnreachableError("away")
    held = hold(renewer, age_seconds=5)  # a third of its ten seconds is over: a renewal is due
    assert store.was_asked.wait(10)
    store.answer = True
    store.was_asked.clear()

    assert store.was_asked.wait(10)
    held.check()
    renewer.close()


def test_a_release_that_ends_in_a_bug_is_no_error_of_what_was_done(store: Store, monkeypatch) -> None:
    """R8: what was done under a lock is done, whatever Redis answers to its release."""

    def refuse(_holds: Sequence[HeldLock]) -> None:
        raise ValueError("unforeseen")

    monkeypatch.setattr(store, "release", refuse)
    renewer = make_renewer(store)
    with hold(renewer):
        pass
    renewer.close()
