"""What goes along with an item's outcome on Redis: all of it is there with the outcome, or nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stagefleet.attempt import Attempt, ItemLeaseRenewer, ItemResult
from stagefleet.errors import RedisUnreachableError
from stagefleet.images import StageDescription
from stagefleet.locks import RedisLocks
from stagefleet.names import Digest, Repository
from stagefleet.redis_client import DeferredCall, LastStep, put_off
from stagefleet.runs.ledger import Claim, FinishResult, RenewalResult
from stagefleet.runs.models import ItemState, RunState
from stagefleet.settings import LockSettings, RunSettings, Settings
from stagefleet.shared_state.base import UploadDecision
from stagefleet.shared_state.implementations import RedisSharedState
from stagefleet.shared_state.remembered_stages import RedisDescriptions, RememberedStages
from stagefleet.stage_lists import StageIdList
from tasks.flower_view import AttemptEnd, EndKind
from tasks.item import ItemExecutor
from tests.contract.ledgers import LedgerHarness, RedisBroker, outcome_of
from tests.contract.test_descriptions import description_of

REPOSITORY = Repository("127.0.0.1:5000", "app")
BLOB = Digest("sha256", "aa" * 32)
OLD, NEW = description_of(1), description_of(2).info
LOCKS = {"source": True, "destination": False}


class Copies:
    """Items that copy one stage, whose changes go along with the outcome."""

    def __init__(self, broker: RedisBroker) -> None:
        self.redis, self.prefix = broker.client, broker.prefix
        self.harness = LedgerHarness(broker)
        self.ledger = self.harness.ledger
        self.locks = RedisLocks(self.redis, prefix=broker.prefix, settings=LockSettings(wait_seconds=0.1))
        self.shared_state = RedisSharedState(self.redis, prefix=broker.prefix)
        self.remembered = RememberedStages.on(self.redis, Settings(key_prefix=broker.prefix))
        self.remembered.lists.remember(str(REPOSITORY), StageIdList())
        self.remembered.descriptions.replace(str(REPOSITORY), OLD)
        self.stage_id = OLD.stage_id
        self.step: LastStep | None = None

    def copy(self, attempt: Attempt) -> ItemResult:
        self.step = attempt.last_step
        with self.locks.acquire_free(LOCKS, last_step=attempt.last_step):
            marking = self.shared_state.marking_uploaded(
                attempt.run_id, REPOSITORY, lambda: [BLOB], lambda: None
            )
            put_off(attempt.last_step, marking)
            description = StageDescription(stage_id=self.stage_id, info=NEW)
            self.remembered.add(REPOSITORY, self.stage_id, description, last_step=attempt.last_step)
        return ItemResult()

    def begin(self) -> tuple[Claim, LastStep]:
        """A claimed item that has copied, and whose outcome is not recorded."""
        self.harness.submit(["a"])
        claim, step = self.harness.take(), LastStep()
        self.copy(Attempt(claim.run_id, last_step=step))
        return claim, step

    def finish(self, claim: Claim, step: LastStep) -> FinishResult:
        return self.ledger.finish(claim, outcome_of(claim, ItemState.SUCCEEDED), last_step=step)

    def execute(self) -> AttemptEnd:
        """Copy as a worker does."""
        self.harness.submit(["a"])
        message = self.harness.pop_message()
        assert message is not None
        settings = RunSettings(backoff_seconds=5)
        renewer = ItemLeaseRenewer(self.ledger, settings)
        try:
            executor = ItemExecutor(self.ledger, renewer, settings, worker="host:1")
            return executor.execute(self.copy, message.run_id, message.index)
        finally:
            renewer.close()

    @property
    def description(self) -> Any:
        (found,) = self.remembered.descriptions.find(str(REPOSITORY), [self.stage_id])
        return found and found.info

    @property
    def listed(self) -> list[Any]:
        return list(self.remembered.lists.last_known(str(REPOSITORY)) or ())

    def asked(self, run_id: str) -> list[UploadDecision]:
        return self.shared_state.request_uploads(run_id, REPOSITORY, [BLOB], b"somebody")

    def held(self) -> list[str]:
        return [lock.name for lock in self.locks.locks()]

    def break_key(self, kind: str) -> None:
        """Let writes to a storage's key fail: it has another type."""
        name = f"{self.prefix}{kind}:{REPOSITORY}"
        self.redis.delete(name)
        self.redis.set(name, "text")


@pytest.fixture
def copies(broker: RedisBroker) -> Iterator[Copies]:
    made = Copies(broker)
    yield made
    made.locks.close()


def test_what_is_put_off_comes_with_the_outcome_in_one_call(copies: Copies):
    copies.harness.submit(["a", "b", "c"], parallel=1)
    for is_first in (True, False):  # the first loads the scripts
        claim, step = copies.harness.take(), LastStep()
        copies.copy(Attempt(claim.run_id, last_step=step))
        assert ["destination", "source"] == copies.held()
        assert not is_first or (OLD.info, []) == (copies.description, copies.listed)
        copies.redis.config_resetstat()
        assert copies.finish(claim, step)
        calls = copies.redis.info("commandstats")
        assert (NEW, [copies.stage_id], []) == (copies.description, copies.listed, copies.held())

    assert 1 == calls["cmdstat_evalsha"]["calls"]
    assert "cmdstat_eval" not in calls
    step.close()
    assert (NEW, [copies.stage_id], []) == (copies.description, copies.listed, copies.held())


def test_a_blob_is_known_with_the_outcome(copies: Copies):
    copies.harness.submit(["a", "b"], parallel=2)
    claim, step = copies.harness.take(), LastStep()
    copies.copy(Attempt(claim.run_id, last_step=step))

    assert copies.finish(claim, step)

    assert [UploadDecision.KNOWN] == copies.asked(claim.run_id)


def test_scripts_that_redis_forgot_are_loaded_anew(copies: Copies):
    claim, step = copies.begin()
    copies.redis.script_flush()
    assert copies.finish(claim, step)


def test_without_the_claim_nothing_is_changed_and_the_end_leaves_nothing_old(copies: Copies):
    claim, step = copies.begin()
    copies.harness.advance(31)
    copies.ledger.sweep()

    assert FinishResult.STALE is copies.finish(claim, step)
    assert (OLD.info, []) == (copies.description, copies.listed)
    step.close()
    assert (None, []) == (copies.description, copies.held())


def test_a_step_whose_answer_was_lost_changes_nothing_a_second_time(copies: Copies):
    """Others may have the stage by then: what they did with it stays."""
    claim, step = copies.begin()
    assert copies.finish(claim, step)
    with copies.locks.acquire("destination"):
        copies.remembered.forget(REPOSITORY, copies.stage_id)

        assert FinishResult.STALE is copies.finish(claim, step)
        step.close()

        assert (None, []) == (copies.description, copies.listed)
        assert ["destination"] == copies.held()
    assert RunState.SUCCEEDED is copies.ledger.run(claim.run_id).state


def test_a_description_that_is_refused_leaves_the_item_without_success(copies: Copies):
    """R8: an old description would stay for weeks, so that its item must not count as done."""
    copies.break_key("descriptions")
    claim, step = copies.begin()

    assert FinishResult.STALE is copies.finish(claim, step)

    assert ([RenewalResult.RUN], 0) == (
        copies.ledger.renew([claim]),
        copies.ledger.run(claim.run_id).succeeded,
    )
    assert ["destination", "source"] == copies.held()
    with pytest.raises(Exception, match="WRONGTYPE"):
        step.close()
    assert [] == copies.held()


def test_a_description_that_is_refused_fails_the_attempt(copies: Copies):
    copies.break_key("descriptions")
    end = copies.execute()
    assert (EndKind.FAILED, True) == (end.kind, "WRONGTYPE" in end.text)
    assert [] == copies.held()


def test_what_passes_is_tried_again_in_another_attempt(copies: Copies, monkeypatch: pytest.MonkeyPatch):
    """R8: Redis refused for now; the attempt failed, and the item waits for the next one."""
    copies.break_key("descriptions")

    def refuse(_answer: Any) -> None:
        raise RedisUnreachableError("Redis refuses for now")

    descriptions = copies.remembered.descriptions
    assert isinstance(descriptions, RedisDescriptions)
    monkeypatch.setattr(descriptions.scripts, "checked", refuse)
    assert EndKind.RETRY is copies.execute().kind
    assert [] == copies.held()


def test_a_list_that_is_refused_does_no_harm(copies: Copies):
    copies.break_key("tag-list")
    assert EndKind.DONE is copies.execute().kind
    assert (NEW, []) == (copies.description, copies.held())


def test_an_attempt_that_fails_after_all_leaves_nothing_old(copies: Copies):
    """What was written meanwhile is read anew; the locks are free before the item is."""

    def fail(attempt: Attempt) -> ItemResult:
        Copies.copy(copies, attempt)
        raise RedisUnreachableError("away")

    copies.copy = fail  # type: ignore[method-assign]
    assert EndKind.RETRY is copies.execute().kind
    assert (None, []) == (copies.description, copies.held())


def test_locks_are_renewed_until_the_outcome_is_there(copies: Copies):
    claim, step = copies.begin()
    copies.locks._renewer.renew()
    copies.harness.advance(1)
    assert ["destination", "source"] == copies.held()
    assert copies.finish(claim, step)
    step.close()
    assert [] == copies.locks._renewer.held


def test_an_error_in_the_block_releases_locks_at_once(copies: Copies):
    step = LastStep()
    with pytest.raises(ZeroDivisionError), copies.locks.acquire_free(LOCKS, last_step=step):
        raise ZeroDivisionError
    assert ([], False) == (copies.held(), bool(step))


def test_a_failure_after_the_outcome_changes_no_end(copies: Copies):
    """The outcome is recorded: what a call makes of its answer afterwards is logged, and no more."""

    def fail(_answer: Any) -> None:
        raise RedisUnreachableError("away")

    original = copies.copy

    def copy(attempt: Attempt) -> ItemResult:
        call = copies.shared_state.scripts.prepare("peek", "space", "field")
        put_off(attempt.last_step, DeferredCall(lambda: call, fail, lambda: None))
        return original(attempt)

    copies.copy = copy  # type: ignore[method-assign]
    assert EndKind.DONE is copies.execute().kind
    assert [] == copies.held()
