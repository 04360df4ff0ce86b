"""How long an item may wait for whoever asks for time."""

from __future__ import annotations

import pytest

from stagefleet.attempt import Attempt, ItemLeaseRenewer, ItemResult
from stagefleet.errors import (
    LockTimeoutError,
    RateLimitedError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StagefleetError,
    WaitTooLongError,
)
from stagefleet.runs.models import RunSpec, WaitKind, WaitReason
from stagefleet.settings import RunSettings
from stagefleet.testing import MemoryLedger
from tasks.item import ItemExecutor

SETTINGS = RunSettings(longest_pause_seconds=900, backoff_seconds=2, backoff_limit_seconds=6000)


class Fleet:
    """A ledger in memory whose time a test moves, and a workshop whose operation fails as told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ledger = MemoryLedger(SETTINGS, clock=lambda: self.now)
        self.renewer = ItemLeaseRenewer(self.ledger, SETTINGS)
        self.executor = ItemExecutor(self.ledger, self.renewer, SETTINGS, worker="worker-1@here")
        submission = self.ledger.open(RunSpec(operation="noop"))
        self.ledger.append(submission, ["a"])
        self.ledger.start(submission)
        self.run_id = submission.run_id

    def fail(self, error: StagefleetError) -> None:
        message = self.ledger.broker.popleft()

        def operation(_: Attempt) -> ItemResult:
            raise error

        self.executor.execute(operation, message.run_id, message.index)


@pytest.fixture
def fleet():
    fleet = Fleet()
    yield fleet
    fleet.renewer.close()


def limited(seconds: float) -> RateLimitedError:
    return RateLimitedError(
        "r.test/app:x: GET answered 429",
        status=429,
        repository="r.test/app",
        retry_after_seconds=seconds,
    )


@pytest.mark.parametrize("seconds", [901, 1e10, 1e303])
@pytest.mark.parametrize(
    "make",
    [
        limited,
        lambda seconds: RegistryUnavailableError("503", status=503, retry_after_seconds=seconds),
        lambda seconds: WaitTooLongError("waited", retry_after_seconds=seconds),
    ],
)
def test_a_longer_pause_than_the_settings_allow_fails_the_item_at_once_and_says_so(fleet, make, seconds):
    """R7, W1: no answer parks an item for longer than a setting says, whoever gives it."""
    error = make(seconds)
    fleet.fail(error)
    found = fleet.ledger.run(fleet.run_id)
    assert ("failed", 0, 1) == (found.state, found.waiting, found.failed)
    (outcome,) = fleet.ledger.outcomes(fleet.run_id, "", limit=9, block_seconds=0)
    assert type(error).__name__ == outcome.error.type
    assert f"{error}; an item waits 900 s at most: raise runs.longest_pause_seconds" in outcome.error.message


def test_a_pause_of_the_longest_is_waited_for_and_not_one_second_more(fleet):
    """R7: the setting bounds the pause with its jitter, and the pauses of the back-off too."""
    fleet.fail(limited(900))
    (wait,) = fleet.ledger.run(fleet.run_id).waits
    assert 900 == wait.until - fleet.now
    claim = fleet.ledger.claim(fleet.run_id, 0, "me")
    assert claim is None
    fleet.now += 900
    fleet.ledger.sweep()
    message = fleet.ledger.broker.popleft()
    claim = fleet.ledger.claim(message.run_id, message.index, "me")
    late = type(claim)(fleet.run_id, 0, "a", claim.fence, 2000, claim.claimed_at, claim.lease_until)
    assert 900 == fleet.executor._pause_seconds(RegistryUnavailableError("down"), late)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (limited(60), WaitReason(host="r.test", text="429 Too Many Requests")),
        (
            RegistryUnavailableError("down", status=503, repository="r.test:5000/a"),
            WaitReason(host="r.test:5000", text="503 Service Unavailable"),
        ),
        (
            RegistryUnavailableError("down", status=529, repository="r.test/a"),
            WaitReason(host="r.test", text="529"),
        ),
        (
            RegistryUnreachableError("r.test:5000 does not answer (time-out)", host="r.test:5000"),
            WaitReason(host="r.test:5000", text="does not answer (time-out)"),
        ),
        (
            RateLimitedError("the token server t.test\nof registry r.test answered 429", status=429),
            WaitReason(text="the token server t.test of registry r.test answered 429"),
        ),
        (LockTimeoutError("others have it"), WaitReason(text="others have it")),
    ],
)
def test_the_ledger_learns_for_whom_an_item_waits(fleet, error, reason):
    """R7: a run says for whom it waits, in a few words."""
    fleet.fail(error)
    (wait,) = fleet.ledger.run(fleet.run_id).waits
    assert (WaitKind.RETRY, reason, 1) == (wait.kind, wait.reason, wait.count)
