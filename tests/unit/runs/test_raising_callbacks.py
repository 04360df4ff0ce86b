"""Callbacks in the client's own process that raise whatever there is to be raised."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from stagefleet.errors import NoWorkerError, RedisUnreachableError
from stagefleet.redis_client import RedisRetry
from stagefleet.runs.coordinator import watch
from stagefleet.runs.models import Callback, ErrorInfo, ItemState, Outcome, RunSpec, RunState, WorkerInfo
from stagefleet.testing import MemoryLedger


class Unspeakable(Exception):  # noqa: N818 - a user's own
    """One whose message cannot be read, and that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise ZeroDivisionError


class Speechless(BaseException):
    """One whose message is no text."""

    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307 - as careless classes do


@pytest.fixture
def ledger() -> Iterator[MemoryLedger]:
    """A ledger and a thread that carries out whatever it publishes."""
    ledger, ended = MemoryLedger(), threading.Event()
    ledger.heartbeats.beat(WorkerInfo("worker", slots=4, queues=("copy",)), seconds=3600)

    def work() -> None:
        while not ended.wait(0.001):
            while ledger.broker:
                message = ledger.broker.popleft()
                claim = ledger.claim(message.run_id, message.index, "worker")
                if claim is not None:
                    ledger.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED))

    thread = threading.Thread(target=work)
    thread.start()
    yield ledger
    ended.set()
    thread.join()


def submit(ledger: MemoryLedger, count: int = 200) -> str:
    submission = ledger.open(RunSpec(operation="copy_stage", parallel=4, callback=Callback.CLIENT))
    ledger.append(submission, [f"item-{n}" for n in range(count)])
    ledger.start(submission)
    return submission.run_id


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("\ud800 no text"), "\ufffd no text"),
        (Unspeakable(), "its message cannot be read (ZeroDivisionError)"),
        (Speechless(), "its message cannot be read (TypeError)"),
        (SystemExit(3), "3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError("task"), "task"),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration("no more"), "no more"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_callback_raises_stops_the_run_and_comes_out(
    ledger: MemoryLedger, error: BaseException, message: str
) -> None:
    """R10: no kind of exception leaves a run behind that goes on, or comes out as another one."""
    called = []

    def fail_at_the_third(outcome: Outcome) -> None:
        called.append(outcome)
        if len(called) == 3:
            raise error

    run_id = submit(ledger)
    with pytest.raises(type(error)) as caught:
        watch(ledger, run_id, on_outcome=fail_at_the_third)
    assert error is caught.value
    assert 3 == len(called)
    found = watch(ledger, run_id)
    assert RunState.CANCELLED is found.state
    assert found.succeeded <= 3 + 4 - 1
    assert ErrorInfo(type=type(error).__name__, message=message) == found.error


def test_the_callbacks_error_comes_out_also_where_redis_has_gone(
    ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R10: an outage while the run is stopped hides nothing; the lease of the callback ends the run."""

    def away(*_: object, **__: object) -> None:
        raise RedisUnreachableError("away")

    def fail(_: Outcome) -> None:
        for name in ("cancel", "outcomes", "run", "acknowledge"):
            monkeypatch.setattr(ledger, name, away)
        raise ZeroDivisionError("the first")

    run_id = submit(ledger)
    with pytest.raises(ZeroDivisionError, match="the first") as caught:
        watch(ledger, run_id, on_outcome=fail, redis_retry=RedisRetry(0))
    assert ["away" in note for note in caught.value.__notes__] == [True]


def test_a_run_that_was_stopped_is_not_waited_for_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """R10, R14: what is under way when a callback raises, on a worker that died, has an end as well."""
    monkeypatch.setattr("stagefleet.runs.coordinator._BLOCK_SECONDS", 0.01)
    ledger = MemoryLedger()
    ledger.heartbeats.beat(WorkerInfo("worker", slots=4, queues=("copy",)), seconds=3600)
    run_id = submit(ledger, 4)
    first, *_ = [ledger.claim(run_id, index, "worker") for index in range(3)]
    assert first is not None
    ledger.finish(first, Outcome(item=first.item, state=ItemState.SUCCEEDED))

    def fail(_: Outcome) -> None:
        raise ZeroDivisionError("the first")

    def look() -> None:
        raise NoWorkerError("nobody works on it")

    with pytest.raises(ZeroDivisionError, match="the first") as caught:
        watch(ledger, run_id, on_outcome=fail, on_idle=look)
    assert RunState.CANCELLING is ledger.run(run_id).state
    assert ["nobody works on it" in note for note in caught.value.__notes__] == [True]
