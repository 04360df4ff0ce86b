"""What a worker makes of an error's own pauses, on each ledger."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stagefleet.attempt import Attempt, ItemLeaseRenewer, ItemResult
from stagefleet.errors import StorageStateChangedError
from stagefleet.runs.models import ItemState
from stagefleet.settings import RunSettings
from tasks.item import ItemExecutor
from tests.contract.ledgers import LedgerHarness

SETTINGS = RunSettings(backoff_seconds=0.01, backoff_limit_seconds=0.01)


@pytest.fixture
def executor(harness: LedgerHarness) -> Iterator[ItemExecutor]:
    renewer = ItemLeaseRenewer(harness.ledger, SETTINGS)
    yield ItemExecutor(harness.ledger, renewer, SETTINGS, worker="host:1")
    renewer.close()


def fail(attempt: Attempt) -> ItemResult:
    raise StorageStateChangedError("the stage is not what it was")


def deliver(harness: LedgerHarness, executor: ItemExecutor) -> None:
    message = harness.pop_message()
    assert message is not None
    executor.execute(fail, message.run_id, message.index)


def test_a_changed_state_is_looked_at_five_times_with_pauses_of_two_to_ten_seconds(
    harness: LedgerHarness, executor: ItemExecutor
):
    run_id = harness.submit(["a"], max_attempts=20)
    for longest in (2, 4, 8, 10):
        deliver(harness, executor)
        harness.advance(max(2, longest / 2) - 0.5)
        harness.ledger.sweep()
        assert [] == harness.messages()
        harness.advance(longest / 2 + 1)
        harness.ledger.sweep()
    deliver(harness, executor)
    assert [(ItemState.FAILED, 5)] == [
        (outcome.state, outcome.attempts) for outcome in harness.outcomes(run_id) or []
    ]


def test_a_run_that_allows_fewer_attempts_keeps_to_them(harness: LedgerHarness, executor: ItemExecutor):
    run_id = harness.submit(["a"], max_attempts=2)
    deliver(harness, executor)
    harness.advance(3)
    harness.ledger.sweep()
    deliver(harness, executor)
    assert [2] == [outcome.attempts for outcome in harness.outcomes(run_id) or []]
