"""How long an item may wait for whoever asks for time."""

from __future__ import annotations

import time

import pytest

from stagefleet.attempt import Attempt, AttemptCounters, ItemLeaseRenewer, ItemResult
from stagefleet.errors import (
    LeaseLostError,
    LockTimeoutError,
    RateLimitedError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StagefleetError,
    WaitTooLongError,
)
from stagefleet.leases import TOLD_SECONDS
from stagefleet.runs.ledger import Claim
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


def test_refusals_of_registries_are_counted_by_host_and_status(fleet):
    """Issue 14: no label comes from a repository, a path or a message."""
    fleet.fail(limited(1))
    assert 1 == fleet.renewer.counts.take()["refusals r.test 429"]
    claim = fleet.ledger.claim(fleet.run_id, 0, "me")
    assert claim is None  # it waits
    with fleet.renewer.renewing(a_claim()) as lease:
        for text in ("503 Service Unavailable", "does not answer (time-out)", "5031 is no status"):
            with lease.waiting(0.1, "r.test:5000", text):
                pass
    assert {"refusals r.test:5000 503": 1, "refusals r.test:5000 error": 2} == fleet.renewer.counts.take()


def test_waits_are_counted_by_whom_they_are_for_and_with_their_time(fleet):
    with fleet.renewer.renewing(a_claim()) as lease:
        with lease.waiting(TOLD_SECONDS, "", "the lock a, which b has"):
            pass
        with lease.waiting(TOLD_SECONDS, "r.test", "429 Too Many Requests"):
            pass
        with lease.waiting(TOLD_SECONDS - 0.1, "", "the lock a, which b has"):
            pass
    counted = fleet.renewer.counts.take()
    assert (1, 1) == (counted["waits lock"], counted["waits registry"])
    assert {"wait_ms lock", "wait_ms registry"} < set(counted)


def test_a_moment_s_wait_is_told_to_nobody(fleet):
    """R7: whoever follows the run hears of what lasts."""
    message = fleet.ledger.broker.popleft()
    claim = fleet.ledger.claim(message.run_id, message.index, "me")
    with fleet.renewer.renewing(claim) as lease:
        for seconds, told in ((TOLD_SECONDS - 0.1, 0), (TOLD_SECONDS, 1)):
            with lease.waiting(seconds, "r.test", "429 Too Many Requests"):
                assert told == len(fleet.ledger.run(fleet.run_id).waits)


def test_attempts_are_counted_with_their_time_and_lost_leases(fleet):
    fleet.fail(LeaseLostError("over"))
    counted = fleet.renewer.counts.take()
    assert 1 == counted["lost_leases -"]
    assert "attempt_ms noop" in counted
    assert {} == fleet.renewer.counts.take()


def test_counts_that_no_heartbeat_fetches_are_bounded():
    counts = AttemptCounters()
    for number in range(5000):
        counts.add_refusal(f"r{number}.test", "429 Too Many Requests")
    found = counts.take()
    assert (5000, True) == (sum(found.values()), len(found) <= 1001)


def test_a_label_is_one_word():
    counts = AttemptCounters()
    counts.add(1, "refusals", "a host\nof two", "")
    assert {"refusals a_host_of_two other": 1} == counts.take()


def a_claim() -> Claim:
    return Claim("run", 0, "item", 1, 1, time.monotonic(), time.monotonic() + 60, nonce="n")
