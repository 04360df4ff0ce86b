import threading

import pytest

from stagefleet.errors import CoordinatorLostError, RedisUnreachableError
from stagefleet.redis_client import RedisRetry
from stagefleet.runs.coordinator import follow, watch
from stagefleet.runs.models import Callback, ItemState, Outcome, RunSpec, RunState, WorkerInfo
from stagefleet.testing import MemoryLedger


def submitted(ledger, count, *, parallel=4, callback=Callback.CLIENT, decided=()):
    submission = ledger.open(RunSpec(operation="copy_stage", parallel=parallel, callback=callback))
    ledger.append(submission, [f"item-{n}" for n in range(count)], decided)
    ledger.start(submission)
    return submission.run_id


@pytest.fixture
def ledger():
    ledger = MemoryLedger()
    ledger.heartbeats.beat(WorkerInfo("worker", slots=4, queues=("copy",)), seconds=3600)
    return ledger


@pytest.fixture
def worker(ledger):
    """A thread that carries out whatever the ledger publishes, until the test ends."""
    ended = threading.Event()

    def work():
        while not ended.wait(0.001):
            while ledger.broker:
                message = ledger.broker.popleft()
                claim = ledger.claim(message.run_id, message.index, "worker")
                if claim is not None:
                    ledger.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_a_run_is_followed_to_its_end_with_one_callback_an_outcome(ledger, worker):
    called = []
    skip = Outcome(item="there", state=ItemState.SKIPPED)
    run = submitted(ledger, 50, decided=[skip])

    ended = watch(ledger, run, on_outcome=lambda outcome: called.append(outcome.item))

    assert RunState.SUCCEEDED is ended.state
    assert sorted(["there", *(f"item-{n}" for n in range(50))]) == sorted(called)


def test_what_a_callback_raises_cancels_the_run_and_is_raised(ledger, worker):
    called = []

    def fail_at_the_fifth(outcome):
        called.append(outcome)
        if len(called) == 5:
            raise ZeroDivisionError("the fifth")

    run = submitted(ledger, 1000, parallel=8)

    with pytest.raises(ZeroDivisionError, match="the fifth"):
        watch(ledger, run, on_outcome=fail_at_the_fifth)

    ended = ledger.run(run)
    assert RunState.CANCELLED is ended.state
    assert ended.error.type == "ZeroDivisionError"
    assert len(called) == 5
    assert ended.succeeded <= 5 + 8 - 1
    assert ended.succeeded + ended.cancelled == 1000


def test_a_slow_callback_holds_the_window_open_no_wider_than_parallel(ledger, worker):
    widest = []
    run = submitted(ledger, 40, parallel=3)

    def look(outcome):
        widest.append(ledger.run(run).succeeded)

    watch(ledger, run, on_outcome=look)

    assert all(done <= called + 3 for called, done in enumerate(widest))


def test_watching_without_a_callback_acknowledges_nothing(ledger, worker):
    run = submitted(ledger, 20, callback=Callback.NONE)
    seen: list[Outcome] = []

    ended = watch(ledger, run, on_progress=seen.append)

    assert RunState.SUCCEEDED is ended.state
    assert len(seen) == 20


def test_a_coordinator_that_was_replaced_says_so(ledger):
    run = submitted(ledger, 4)
    replaced = []

    def replace(outcome):
        replaced.append(ledger.coordinate(run))

    for message in list(ledger.broker):
        claim = ledger.claim(message.run_id, message.index, "worker")
        ledger.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED))

    with pytest.raises(CoordinatorLostError):
        watch(ledger, run, on_outcome=replace)
    assert replaced


def test_a_second_coordinator_goes_on_behind_what_was_acknowledged(ledger):
    run = submitted(ledger, 4)
    for message in list(ledger.broker):
        claim = ledger.claim(message.run_id, message.index, "worker")
        ledger.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED))
    epoch = ledger.coordinate(run)
    first = ledger.outcomes(run, "", limit=3, block_seconds=0)
    assert ledger.acknowledge(run, epoch, first)
    called = []

    watch(ledger, run, on_outcome=lambda outcome: called.append(outcome.item))

    assert called == ["item-3"]


def test_following_tells_of_quiet_seconds(ledger, monkeypatch):
    monkeypatch.setattr("stagefleet.runs.coordinator._BLOCK_SECONDS", 0.01)
    run = submitted(ledger, 1, callback=Callback.NONE)
    batches = follow(ledger, run)

    assert next(batches) == []
    ledger.cancel(run)
    assert [outcome for batch in batches for outcome in batch] == []


class Refusing(MemoryLedger):
    """A ledger that can be read, and takes no writes until it is told to."""

    def __init__(self):
        super().__init__()
        self.error = None
        self.pings = 0
        self.heartbeats.ping = self.ping  # type: ignore[method-assign]

    def ping(self):
        self.pings += 1
        if self.error is not None:
            raise self.error


def test_who_follows_a_quiet_run_sees_that_redis_takes_no_writes(monkeypatch):
    """W34: what can be read and not be written is an outage too; who follows is told, and not of workers."""
    monkeypatch.setattr("stagefleet.runs.coordinator._BLOCK_SECONDS", 0.001)
    ledger = Refusing()
    run = submitted(ledger, 1, callback=Callback.NONE)
    ledger.error = RedisUnreachableError("refuses for now (MISCONF disk full)")

    with pytest.raises(RedisUnreachableError, match="MISCONF"):
        watch(ledger, run, redis_retry=RedisRetry(0))


def test_a_ledger_that_takes_writes_again_is_followed_on(monkeypatch):
    """W34: a run goes on after an outage of writes, and so does who follows it."""
    monkeypatch.setattr("stagefleet.runs.coordinator._BLOCK_SECONDS", 0.001)
    ledger = Refusing()
    run = submitted(ledger, 1, callback=Callback.NONE)
    ledger.error = RedisUnreachableError("refuses for now (MISCONF disk full)")

    def recover(_seconds):
        ledger.error = None
        ledger.cancel(run)

    assert RunState.CANCELLED is watch(ledger, run, redis_retry=RedisRetry(60, sleep=recover)).state
    assert ledger.pings > 1


@pytest.mark.parametrize("error", [RedisUnreachableError("away"), ZeroDivisionError("a bug in an answer")])
def test_the_renewals_of_a_coordinator_survive_every_error(ledger, worker, error):
    """R8: one bad answer does not end the lease of a run's callback."""
    run = submitted(ledger, 1)
    renew, renewed = ledger.acknowledge, threading.Event()
    errors = iter([error])

    def acknowledge(run, epoch, outcomes, **options):
        if not outcomes and (raised := next(errors, None)):
            raise raised
        if not outcomes:
            renewed.set()
        return renew(run, epoch, outcomes, **options)

    ledger.acknowledge = acknowledge

    def call_back(_outcome):
        assert renewed.wait(10)

    ended = watch(ledger, run, on_outcome=call_back, renewal_seconds=0.001)
    assert RunState.SUCCEEDED is ended.state
    assert renewed.is_set()
