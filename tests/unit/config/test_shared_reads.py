"""Blocking calls for many browsers: one for all who ask the same, in a bounded number of threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from config.pages import observer
from config.pages.observer import BusyError, SharedReads
from stagefleet.errors import RedisUnreachableError


def run(test: Callable[[SharedReads], Awaitable[None]]) -> None:
    async def body() -> None:
        reads = SharedReads()
        try:
            await test(reads)
        finally:
            reads.close()

    asyncio.run(body())


def test_fifty_who_ask_the_same_cost_one_call():
    calls: list[int] = []

    def ask() -> str:
        calls.append(1)
        return "a"

    async def test(reads: SharedReads) -> None:
        assert ["a"] * 50 == await asyncio.gather(*(reads.shared("q", ask) for _ in range(50)))
        assert "a" == await reads.shared("q", ask), "it is fresh"
        assert "b" == await reads.shared("other", lambda: "b")

    run(test)
    assert [1] == calls


def test_an_answer_is_asked_for_again_when_it_is_old(monkeypatch):
    monkeypatch.setattr(observer, "FRESH_SECONDS", 0)

    async def test(reads: SharedReads) -> None:
        assert [1, 2] == [await reads.shared("q", lambda: 1), await reads.shared("q", lambda: 2)]

    run(test)


def test_an_answer_that_is_not_whole_is_asked_for_again_at_once():
    async def test(reads: SharedReads) -> None:
        answers = [1, 2, 3]
        for expected in (1, 2, 2):
            assert expected == await reads.shared(
                "q", lambda: answers.pop(0), is_whole=lambda found: found > 1
            )

    run(test)


def test_all_are_told_of_a_failure_and_the_next_one_asks_again(monkeypatch):
    monkeypatch.setattr(observer, "FRESH_SECONDS", 0)

    def fail() -> None:
        raise RedisUnreachableError("away")

    async def test(reads: SharedReads) -> None:
        answers = await asyncio.gather(*(reads.shared("q", fail) for _ in range(5)), return_exceptions=True)
        assert {RedisUnreachableError} == {type(answer) for answer in answers}
        assert "back" == await reads.shared("q", lambda: "back")

    run(test)


def test_threads_and_waiting_calls_are_bounded_and_the_loop_goes_on(monkeypatch):
    monkeypatch.setattr(observer, "_MOST_CALLS", 12)
    released, names = threading.Event(), set()

    def block() -> None:
        names.add(threading.current_thread().name)
        released.wait(30)

    async def test(reads: SharedReads) -> None:
        tasks = [asyncio.create_task(reads.run(block)) for _ in range(12)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="try again"):
            await reads.run(block)
        released.set()
        await asyncio.gather(*tasks)
        assert 1 == await reads.run(lambda: 1)

    run(test)
    assert len(names) <= 8


def test_a_call_that_hangs_is_told_as_an_outage(monkeypatch):
    monkeypatch.setattr(observer, "_LONGEST_SECONDS", 0.01)
    released = threading.Event()

    async def test(reads: SharedReads) -> None:
        with pytest.raises(RedisUnreachableError, match="try again"):
            await reads.run(lambda: released.wait(30))
        released.set()

    run(test)


def test_answers_are_forgotten_one_by_one(monkeypatch):
    monkeypatch.setattr(observer, "_KEPT_ANSWERS", 3)

    async def test(reads: SharedReads) -> None:
        for number in range(10):
            await reads.shared(number, str)
        assert len(reads._calls) <= 4

    run(test)
