"""The way of one item through a worker, on a ledger in memory."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import Retry
from redis import ResponseError

from config.celery import make_app
from stagefleet.attempt import Attempt, BoundItemFunction, ItemLeaseRenewer, ItemResult
from stagefleet.errors import (
    DeletionDisabledError,
    ItemCancelledError,
    ItemPostponedError,
    LeaseLostError,
    RateLimitedError,
    RedisConfigurationError,
    RedisUnreachableError,
    RegistryUnavailableError,
    StorageStateChangedError,
)
from stagefleet.leases import NO_LEASE, current_lease
from stagefleet.redis_client import RedisRetry
from stagefleet.runs.models import Outcome, RunSpec
from stagefleet.settings import RunSettings, Settings
from stagefleet.testing import MemoryLedger
from tasks.item import ItemExecutor, ItemTask, register

SETTINGS = RunSettings(backoff_seconds=2, backoff_limit_seconds=60, max_attempts=3)


class Fleet:
    """A ledger in memory and one workshop; messages are delivered by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ledger = MemoryLedger(SETTINGS, clock=lambda: self.now)
        self.renewer = ItemLeaseRenewer(self.ledger, SETTINGS)
        self.slept: list[float] = []
        self.executor = ItemExecutor(
            self.ledger, self.renewer, SETTINGS, worker="worker-1@here", sleep=self.slept.append
        )

    def submit(self, *items: str, **options: Any) -> str:
        submission = self.ledger.open(RunSpec(operation="noop", options=options, max_attempts=3))
        self.ledger.append(submission, items)
        self.ledger.start(submission)
        return submission.run_id

    def deliver(self, operation: BoundItemFunction) -> None:
        message = self.ledger.broker.popleft()
        self.executor.execute(operation, message.run_id, message.index)

    def outcomes(self, run_id: str) -> list[Outcome]:
        return self.ledger.outcomes(run_id, "", limit=100, block_seconds=0) or []


@pytest.fixture
def fleet():
    fleet = Fleet()
    yield fleet
    fleet.renewer.close()


def failing(error: Exception) -> Callable[[Attempt], ItemResult]:
    def operation(attempt: Attempt) -> ItemResult:
        raise error

    return operation


def test_what_an_operation_asks_is_under_its_lease(fleet):
    """R26: every request of an item is held back by its lease, named or not; what comes after is not."""
    seen: list[Any] = []
    fleet.submit("a")

    def operation(attempt: Attempt) -> ItemResult:
        seen.append((current_lease(), attempt.lease))
        return ItemResult()

    fleet.deliver(operation)
    assert seen[0][0] is seen[0][1]
    assert NO_LEASE is current_lease()


def test_an_operation_sees_its_item_its_options_and_what_is_asked_for(fleet):
    seen = []
    run = fleet.submit("a", "b", repository="host.example/path")

    def operation(attempt: Attempt) -> ItemResult:
        seen.append((attempt.run_id, attempt.item, dict(attempt.options), list(attempt.to_delete())))
        return ItemResult()

    fleet.deliver(operation)
    assert [(run, "a", {"repository": "host.example/path"}, ["a", "b"])] == seen


@pytest.mark.parametrize("parent", [None, "r0"])
def test_an_operation_sees_that_its_run_continues_another(fleet, parent):
    seen = []
    submission = fleet.ledger.open(RunSpec(operation="noop", options={}, max_attempts=3, parent=parent))
    fleet.ledger.append(submission, ["a"])
    fleet.ledger.start(submission)

    def operation(attempt: Attempt) -> ItemResult:
        seen.append(attempt.continues)
        return ItemResult()

    fleet.deliver(operation)
    assert [parent is not None] == seen


def test_attempts_are_counted_by_the_registries_of_the_run_and_their_end(fleet):
    """Issue 14: heartbeats bring these counts, so that no item costs a command of Redis more."""
    options = {"source": "src.test:5000/app", "destination": "dst.test/app"}
    submission = fleet.ledger.open(RunSpec(operation="copy_stage", options=options, max_attempts=3))
    fleet.ledger.append(submission, ["a", "b"])
    fleet.ledger.start(submission)
    fleet.deliver(lambda _: ItemResult())
    fleet.deliver(failing(RegistryUnavailableError("503")))
    counted = fleet.renewer.counts.take()
    assert {
        f"registry_attempts {registry} {end}": 1
        for registry in ("src.test:5000", "dst.test")
        for end in ("done", "retry")
    } == {name: number for name, number in counted.items() if name.startswith("registry_attempts")}


def test_an_operation_that_is_in_no_registry_counts_for_none(fleet):
    fleet.submit("a", repository="host.example/path")
    fleet.deliver(lambda _: ItemResult())
    assert not [name for name in fleet.renewer.counts.take() if name.startswith("registry_attempts")]


def test_the_result_of_an_item_is_in_its_outcome(fleet):
    run = fleet.submit("a")
    fleet.deliver(lambda _: ItemResult(result={"k": 1}, bytes=7))
    (outcome,) = fleet.outcomes(run)
    assert ("succeeded", {"k": 1}, 7, 1) == (outcome.state, outcome.result, outcome.bytes, outcome.attempts)


def test_what_was_there_already_is_skipped(fleet):
    run = fleet.submit("a")
    fleet.deliver(lambda _: ItemResult(skipped=True))
    assert ["skipped"] == [outcome.state for outcome in fleet.outcomes(run)]


def test_a_doubled_message_does_nothing(fleet):
    run = fleet.submit("a")
    fleet.ledger.broker.append(fleet.ledger.broker[0])
    done: list[str] = []

    def operation(attempt: Attempt) -> ItemResult:
        done.append(attempt.item)
        return ItemResult()

    for _ in range(2):
        fleet.deliver(operation)
    assert ["a"] == done
    assert 1 == len(fleet.outcomes(run))


def test_a_message_of_a_run_that_is_gone_does_nothing(fleet):
    fleet.executor.execute(failing(AssertionError("must not run")), "nowhere", 0)


def test_an_error_that_may_pass_waits_for_another_attempt_longer_each_time(fleet):
    run = fleet.submit("a")
    waits = []
    for _ in range(2):
        fleet.deliver(failing(RegistryUnavailableError("down")))
        assert 1 == fleet.ledger.run(run).waiting
        before = fleet.now
        while not fleet.ledger.broker:
            fleet.now += 0.1
            fleet.ledger.sweep()
        waits.append(fleet.now - before)
    assert 1 <= waits[0] <= 2.1
    assert 2 <= waits[1] <= 4.1
    fleet.deliver(failing(RegistryUnavailableError("down for good")))
    (outcome,) = fleet.outcomes(run)
    assert ("failed", "down for good", 3) == (outcome.state, outcome.error.message, outcome.attempts)


def test_a_registry_that_asks_for_a_longer_pause_gets_it(fleet):
    fleet.submit("a")
    fleet.deliver(failing(RateLimitedError("slow down", retry_after_seconds=300)))
    fleet.now += 299
    fleet.ledger.sweep()
    assert 0 == len(fleet.ledger.broker)
    fleet.now += 2
    fleet.ledger.sweep()
    assert 1 == len(fleet.ledger.broker)


def test_an_error_that_knows_its_pauses_is_tried_again_after_those_and_no_more(fleet):
    run = fleet.submit("a")
    claim = fleet.ledger.claim(run, 0, "me")
    attempts = [
        type(claim)(run, 0, "a", claim.fence, attempt, claim.claimed_at, claim.lease_until)
        for attempt in range(1, 6)
    ]
    error = StorageStateChangedError("gone")
    pauses = [fleet.executor._pause_seconds(error, attempt) for attempt in attempts]
    for pause, longest in zip(pauses[:4], (2, 4, 8, 10), strict=True):
        assert max(2, longest / 2) <= pause <= longest
    assert pauses[4] is None


def test_an_error_that_stays_fails_at_once(fleet):
    run = fleet.submit("a")
    fleet.deliver(failing(DeletionDisabledError("deletion is off")))
    (outcome,) = fleet.outcomes(run)
    assert ("failed", "DeletionDisabledError") == (outcome.state, outcome.error.type)


def test_a_bug_fails_its_item_with_type_and_message(fleet):
    run = fleet.submit("a")
    fleet.deliver(failing(ZeroDivisionError("division by zero")))
    (outcome,) = fleet.outcomes(run)
    assert ("ZeroDivisionError", "division by zero") == (outcome.error.type, outcome.error.message)


@pytest.mark.parametrize(
    "result",
    [{"labels": {"a": "\ud800"}}, {"a": object()}, ["no object"]],
    ids=["surrogate", "object", "list"],
)
def test_an_outcome_that_cannot_be_recorded_is_a_failed_one_at_once(fleet, result):
    """R11: the item is not left to five leases that run out."""
    run = fleet.submit("a")
    fleet.deliver(lambda _: ItemResult(result=result, bytes=7))
    (outcome,) = fleet.outcomes(run)
    assert ("failed", 1) == (outcome.state, outcome.attempts)
    assert outcome.error.message
    assert 0 == fleet.ledger.run(run).claimed


def test_an_error_in_words_that_cannot_be_encoded_is_recorded(fleet):
    """R11: half a surrogate pair in what a registry says."""
    run = fleet.submit("a")
    fleet.deliver(failing(DeletionDisabledError("no \ud800")))
    assert ["no \ufffd"] == [outcome.error.message for outcome in fleet.outcomes(run)]


def test_a_refusal_of_redis_leaves_the_item_to_its_lease(fleet, monkeypatch):
    """R11: no success is made a failure because Redis refused to write it."""
    run, finished = fleet.submit("a"), []

    def refuse(_claim: Any, outcome: Outcome, **_: Any) -> bool:
        finished.append(outcome.state)
        raise ResponseError("NOPERM")

    monkeypatch.setattr(fleet.ledger, "finish", refuse)
    fleet.deliver(lambda _: ItemResult())
    assert ["succeeded"] == finished
    assert 1 == fleet.ledger.run(run).claimed


def test_who_lost_the_lease_finishes_nothing(fleet):
    run = fleet.submit("a")
    fleet.deliver(failing(LeaseLostError("over")))
    assert [] == fleet.outcomes(run)
    assert 1 == fleet.ledger.run(run).claimed


def test_an_item_of_a_run_cancelled_with_now_is_cancelled(fleet):
    run = fleet.submit("a")

    def operation(attempt: Attempt) -> ItemResult:
        fleet.ledger.cancel(run, now=True)
        fleet.renewer.renew(list(fleet.renewer._held))
        attempt.lease.check()
        raise AssertionError("the lease must have raised")

    fleet.deliver(operation)
    assert ("cancelled", 1) == (fleet.ledger.run(run).state, fleet.ledger.run(run).cancelled)


def test_a_worker_that_must_stop_hands_its_item_back_without_counting_the_attempt(fleet):
    run = fleet.submit("a")

    def operation(attempt: Attempt) -> ItemResult:
        fleet.renewer.stop_all()
        attempt.lease.check()
        raise AssertionError("the lease must have raised")

    fleet.deliver(operation)
    assert [] == fleet.outcomes(run)
    (message,) = fleet.ledger.broker
    claim = fleet.ledger.claim(message.run_id, message.index, "another")
    assert claim is not None
    assert 1 == claim.attempt


def test_a_lease_that_stops_nobody_knows_why_still_leaves_the_item_to_others(fleet):
    fleet.submit("a")
    fleet.deliver(failing(ItemCancelledError("stop")))
    assert 1 == len(fleet.ledger.broker)


def test_an_outage_of_the_ledger_at_the_finish_is_waited_out(fleet, monkeypatch):
    run = fleet.submit("a")
    answers = iter([RedisUnreachableError("restarting")] * 3)
    finish = fleet.ledger.finish

    def restarting(*args: Any, **kwargs: Any) -> Any:
        for error in answers:
            raise error
        return finish(*args, **kwargs)

    monkeypatch.setattr(fleet.ledger, "finish", restarting)
    fleet.deliver(lambda _: ItemResult())
    assert ["succeeded"] == [outcome.state for outcome in fleet.outcomes(run)]
    assert 3 == len(fleet.slept)
    assert all(later > earlier / 2 for earlier, later in zip(fleet.slept, fleet.slept[1:], strict=False))


def test_a_claim_whose_answer_is_lost_is_repeated_as_the_same(fleet, monkeypatch):
    """R39: the item is worked on at its first attempt, and the call that is repeated finds its own claim."""
    run = fleet.submit("a")
    claim = fleet.ledger.claim
    lost = iter([RedisUnreachableError("the answer was lost")] * 2)

    def deaf(*args: Any, **kwargs: Any) -> Any:
        given = claim(*args, **kwargs)
        for error in lost:
            raise error
        return given

    monkeypatch.setattr(fleet.ledger, "claim", deaf)
    fleet.deliver(lambda _: ItemResult())
    assert [("succeeded", 1)] == [(outcome.state, outcome.attempts) for outcome in fleet.outcomes(run)]


@pytest.mark.parametrize("error", [RedisUnreachableError("gone"), RedisConfigurationError("no such user")])
@pytest.mark.parametrize("step", ["claim", "finish", "hand_back"])
def test_an_outage_without_end_is_given_up_in_one_line(fleet, monkeypatch, error, step):
    """R8: a Redis that stays away, or refuses for good, raises nothing out of the task."""
    run = fleet.submit("a")
    monkeypatch.setattr(fleet.executor, "_redis_retry", RedisRetry(0, sleep=fleet.slept.append))

    def gone(*_: Any, **__: Any) -> bool:
        raise error

    monkeypatch.setattr(fleet.ledger, step, gone)
    operation = (lambda _: ItemResult()) if step == "finish" else failing(ItemCancelledError("stop"))
    with pytest.raises(Retry):  # what Flower shows: the ledger publishes the item again
        ItemTask("copy_stage", operation, fleet.executor).run(run=run, index=0)
    assert [] == fleet.outcomes(run)
    assert [] == fleet.slept


def test_an_outage_is_sat_out_as_long_as_the_settings_say(fleet, monkeypatch):
    """R8: the bound of the wait is a setting."""
    executor = ItemExecutor(
        fleet.ledger, fleet.renewer, SETTINGS.model_copy(update={"outage_seconds": 0.001}), worker="w@here"
    )
    monkeypatch.setattr(fleet.ledger, "spec", failing(RedisUnreachableError("gone")))
    with pytest.raises(RedisUnreachableError):
        executor._known_run("run")


def test_the_spec_of_a_run_is_read_once(fleet, monkeypatch):
    reads: list[str] = []
    order = fleet.ledger.spec

    def counted(run_id: str) -> Any:
        reads.append(run_id)
        return order(run_id)

    monkeypatch.setattr(fleet.ledger, "spec", counted)
    run = fleet.submit("a", "b", "c")
    for _ in range(3):
        fleet.deliver(lambda _: ItemResult())
    assert [run] == reads


def test_pauses_stay_within_their_limit(fleet):
    random.seed(1)
    run = fleet.submit("a")
    claim = fleet.ledger.claim(run, 0, "me")
    late = type(claim)(run, 0, "a", claim.fence, 99, claim.claimed_at, claim.lease_until)
    assert 30 <= fleet.executor._pause_seconds(RegistryUnavailableError("down"), late) <= 60


def test_a_second_task_of_a_name_is_refused(fleet):
    app = make_app(Settings(redis_url="redis://localhost:1/0"), ["noop"])
    register(app, "noop", lambda _: ItemResult(), fleet.executor)
    assert "stagefleet.noop" in app.tasks
    with pytest.raises(ValueError, match=r"stagefleet\.noop"):
        register(app, "noop", lambda _: ItemResult(), fleet.executor)


def test_an_item_that_has_to_wait_for_another_is_due_when_that_has_ended(fleet):
    """R25: an item that waits for another uses up no attempt, however often it has to."""
    run = fleet.submit("member", "index")
    seen = []

    def operation(attempt: Attempt) -> ItemResult:
        assert attempt.others is not None
        standing = attempt.others.item_states([1])[0]
        seen.append((attempt.item, standing))
        if attempt.item == "member" and standing is None:
            raise ItemPostponedError("the index stands", behind=1)
        return ItemResult()

    while fleet.ledger.broker:
        fleet.deliver(operation)
    assert [("member", None), ("index", None), ("member", "succeeded")] == seen
    assert [("index", 1), ("member", 1)] == [(out.item, out.attempts) for out in fleet.outcomes(run)]
