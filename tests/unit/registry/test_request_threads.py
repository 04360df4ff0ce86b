"""Requests side by side: they end with the first error, and a process has a bounded number of threads."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import nullcontext
from contextvars import ContextVar
from functools import partial

import pytest
from hypothesis import given, strategies as st

from stagefleet.errors import ItemCancelledError, LeaseLostError
from stagefleet.leases import NO_LEASE, ChildLease, current_lease
from stagefleet.registry.http.waits import pause
from stagefleet.threads import RequestThreads

VARIABLE = ContextVar("VARIABLE", default="unset")


@pytest.fixture
def threads():
    threads = RequestThreads(4)
    yield threads
    threads.close()


def test_calls_are_under_way_at_the_same_time(threads):
    together = threading.Barrier(5)
    threads.run([lambda _: together.wait(20)] * 5, NO_LEASE)


def hold(event, leave):
    event.set()
    leave.wait(20)


def test_without_a_free_thread_the_caller_makes_all_calls_itself(threads):
    leave, busy = threading.Event(), [threading.Event() for _ in range(4)]
    for event in busy:
        threads.start(partial(hold, event, leave))
    assert all(event.wait(20) for event in busy)
    made = []
    threads.run([lambda _: made.append(threading.get_ident())] * 10, NO_LEASE)
    leave.set()
    assert [threading.get_ident()] * 10 == made


def test_calls_may_wait_for_calls_of_their_own_however_few_threads_there_are(threads):
    """No deadlock: who waits does what nobody has begun."""
    made = []

    def nest(depth, lease):
        made.append(depth)
        if depth:
            threads.run([partial(nest, depth - 1)] * 3, lease)

    threads.run([partial(nest, 4)] * 3, NO_LEASE)
    assert sum(3**n for n in range(1, 6)) == len(made)


def test_a_process_never_has_more_calls_under_way_than_its_threads_and_the_callers():
    threads, lock, under_way, most = RequestThreads(3), threading.Lock(), [0], [0]

    def call(_lease):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.002)
        with lock:
            under_way[0] -= 1

    callers = [threading.Thread(target=threads.run, args=([call] * 20, NO_LEASE)) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    threads.close()
    assert 1 < most[0] <= 3 + 5


@given(calls=st.integers(1, 12), failing=st.sets(st.integers(0, 11)), count=st.integers(1, 4))
def test_an_error_is_raised_once_nothing_is_under_way(calls, failing, count):
    threads, begun, ended, errors = RequestThreads(count), [], [], []

    def call(number, lease):
        begun.append(number)
        try:
            for _ in range(3):
                lease.check()
            if number in failing:
                errors.append(ValueError(str(number)))
                raise errors[-1]
        finally:
            ended.append(number)

    fails = any(number in failing for number in range(calls))
    with pytest.raises(ValueError, match=r"\d") if fails else nullcontext():
        threads.run([partial(call, number) for number in range(calls)], NO_LEASE)
    assert bool(errors) == fails
    assert fails or calls == len(ended)
    assert sorted(begun) == sorted(ended)
    threads.close()


def test_an_error_ends_the_pauses_of_the_other_calls(threads):
    paused = threading.Event()

    def wait(_lease):
        paused.set()
        pause(3600, current_lease(), "r.test", "429")

    def fail(_lease):
        assert paused.wait(20)
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        threads.run([fail, wait], NO_LEASE)


def test_a_call_that_ends_by_an_error_lets_no_write_of_the_others_begin(threads):
    refused, wrote = threading.Event(), []

    def write(lease):
        assert refused.wait(20)
        time.sleep(0.05)
        lease.require(15)
        wrote.append(1)

    def fail(_lease):
        refused.set()
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        threads.run([write, fail, write], NO_LEASE)
    assert [] == wrote


def test_no_write_begins_after_an_error_that_came_while_its_lease_was_renewed():
    class Lease:
        def check(self):
            return

        def require(self, seconds):
            child.end()

    child = ChildLease(Lease())
    with pytest.raises(ItemCancelledError):
        child.require(15)


def test_a_lease_that_is_lost_ends_all_calls(threads):
    class Lease:
        lost = threading.Event()

        def check(self):
            if self.lost.is_set():
                raise LeaseLostError("lost")

        def require(self, seconds):
            self.check()

    lease, together = Lease(), threading.Barrier(3)

    def wait(_lease):
        together.wait(20)
        lease.lost.set()
        pause(3600, current_lease())

    with pytest.raises(LeaseLostError):
        threads.run([wait] * 3, lease)


def test_an_interrupt_of_the_caller_ends_the_other_calls(threads):
    waiting, ends = threading.Event(), []

    def call(_lease):
        if threading.current_thread() is threading.main_thread():
            assert waiting.wait(20)
            raise KeyboardInterrupt
        waiting.set()
        try:
            pause(3600, current_lease())
        except ItemCancelledError as error:
            ends.append(error)
            raise

    with pytest.raises(KeyboardInterrupt):
        threads.run([call, call], NO_LEASE)
    assert 1 == len(ends)


def test_an_interrupt_of_a_caller_that_waits_ends_the_other_calls(threads):
    main, ends = threading.main_thread(), list[int]()

    def call(_lease):
        if threading.current_thread() is main:
            return waiting.wait(20)
        waiting.set()
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        try:
            pause(20, current_lease())
        finally:
            ends.append(1)

    waiting, before = threading.Event(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.run([call, call], NO_LEASE)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [1] == ends


def test_context_variables_of_the_caller_hold_in_every_call(threads):
    together, seen = threading.Barrier(3), []
    token = VARIABLE.set("the caller's")

    def call(_lease):
        together.wait(20)
        seen.append(VARIABLE.get())

    threads.run([call] * 3, NO_LEASE)
    VARIABLE.reset(token)
    assert ["the caller's"] * 3 == seen


def test_closed_threads_leave_the_calls_to_the_caller():
    threads, made = RequestThreads(2), []
    threads.close()
    threads.run([lambda _: made.append(1)] * 3, NO_LEASE)
    assert [1] * 3 == made


def test_an_interrupt_while_threads_are_started_ends_what_they_began(monkeypatch):
    """Else the process would wait for that at its end, however long a registry is silent."""
    threads = RequestThreads(4)
    start, began, ended = threads.start, threading.Event(), threading.Event()

    def interrupted_start(function):
        start(function)
        assert began.wait(20)
        raise KeyboardInterrupt

    def wait_for_an_answer(lease):
        began.set()
        try:
            while not ended.wait(0.001):
                lease.check()
        finally:
            ended.set()

    monkeypatch.setattr(threads, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        threads.run([wait_for_an_answer] * 2, NO_LEASE)
    assert ended.wait(20)
    threads.close()
