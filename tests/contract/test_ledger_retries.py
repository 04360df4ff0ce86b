"""What a worker makes of an error's own pauses, on each ledger."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stagefleet.errors import StorageStateChangedError
from stagefleet.manager import Produced
from stagefleet.runs.leases import LeaseKeeper
from stagefleet.runs.model import ItemState
from stagefleet.settings import RunSettings
from tasks.base import Job, Workshop
from tests.contract.twins import Twin

SETTINGS = RunSettings(backoff_seconds=0.01, backoff_limit_seconds=0.01)


@pytest.fixture
def workshop(twin: Twin) -> Iterator[Workshop]:
    keeper = LeaseKeeper(twin.ledger, SETTINGS)
    yield Workshop(twin.ledger, keeper, SETTINGS, worker="host:1")
    keeper.close()


def fail(job: Job) -> Produced:
    raise StorageStateChangedError("the stage is not what it was")


def deliver(twin: Twin, workshop: Workshop) -> None:
    message = twin.pop_message()
    assert message is not None
    workshop.carry_out(fail, message.run, message.index)


def test_a_changed_state_is_looked_at_five_times_with_pauses_of_two_to_ten_seconds(
    twin: Twin, workshop: Workshop
):
    run = twin.submit(["a"], max_attempts=20)
    for longest in (2, 4, 8, 10):
        deliver(twin, workshop)
        twin.advance(max(2, longest / 2) - 0.5)
        twin.ledger.sweep()
        assert [] == twin.messages()
        twin.advance(longest / 2 + 1)
        twin.ledger.sweep()
    deliver(twin, workshop)
    assert [(ItemState.FAILED, 5)] == [
        (outcome.state, outcome.attempts) for outcome in twin.outcomes(run) or []
    ]


def test_a_run_that_allows_fewer_attempts_keeps_to_them(twin: Twin, workshop: Workshop):
    run = twin.submit(["a"], max_attempts=2)
    deliver(twin, workshop)
    twin.advance(3)
    twin.ledger.sweep()
    deliver(twin, workshop)
    assert [2] == [outcome.attempts for outcome in twin.outcomes(run) or []]
