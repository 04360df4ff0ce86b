"""What a lease says of the waits of its item, and how long it lets them last."""

from __future__ import annotations

import pytest

from stagefleet.attempt import ItemLeaseRenewer
from stagefleet.errors import RedisUnreachableError, WaitTooLongError
from stagefleet.leases import NO_LEASE, waiting
from stagefleet.locks.stage_locks import StageLock
from stagefleet.runs.models import RunSpec, WaitKind, WaitReason
from stagefleet.settings import RunSettings
from stagefleet.testing import MemoryLedger


@pytest.fixture
def ledger():
    return MemoryLedger()


@pytest.fixture
def lease(ledger):
    submission = ledger.open(RunSpec(operation="noop"))
    ledger.append(submission, ["a"])
    ledger.start(submission)
    claim = ledger.claim(submission.run_id, 0, "me")
    renewer = ItemLeaseRenewer(ledger, RunSettings(longest_pause_seconds=100))
    with renewer.renewing(claim) as lease:
        yield lease
    renewer.close()


def test_who_follows_the_run_sees_a_wait_while_it_lasts(ledger, lease):
    """R7: a pause inside a worker is told, and taken back at its end."""
    run = lease.claim.run_id
    with waiting(StageLock(lease, (), has_waited=False), 50, "r.test", "429 Too Many Requests"):
        (wait,) = ledger.run(run).waits
        assert (WaitKind.PAUSE, WaitReason(host="r.test", text="429 Too Many Requests")) == (
            wait.kind,
            wait.reason,
        )
    assert () == ledger.run(run).waits


def test_the_waits_of_one_attempt_add_up_to_the_longest_pause(lease, monkeypatch):
    """R7: many short waits of one attempt are bounded together, and the error says what to change."""
    now = [0.0]
    monkeypatch.setattr("stagefleet.attempt.time.monotonic", lambda: now[0])
    for _ in range(2):
        with waiting(lease, 60, "r.test", "429 Too Many Requests"):
            now[0] += 50
    with (
        pytest.raises(WaitTooLongError, match=r"waited 100 s, .*runs\.longest_pause_seconds") as caught,
        waiting(lease, 60, "r.test", "429 Too Many Requests"),
    ):
        pytest.fail("it waits no more")
    assert 60 == caught.value.retry_after_seconds


def test_waits_side_by_side_that_never_end_together_are_bounded_too(lease, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("stagefleet.attempt.time.monotonic", lambda: now[0])
    first, second = (waiting(lease, 60, "r.test", "429") for _ in range(2))
    first.__enter__()
    now[0] = 60
    second.__enter__()
    first.__exit__(None, None, None)
    now[0] = 120
    with (
        pytest.raises(WaitTooLongError, match="waited 120 s"),
        waiting(lease, 60, "r.test", "429"),
    ):
        pytest.fail("it waits no more")
    second.__exit__(None, None, None)


def test_a_ledger_that_is_away_ends_no_wait(ledger, lease, monkeypatch):
    """R7: to tell of a wait is a courtesy: the wait goes on without it."""

    def away(*_):
        raise RedisUnreachableError("away")

    monkeypatch.setattr(ledger, "note_pause", away)
    seen = False
    with waiting(lease, 60, "r.test", "429"):
        seen = True
    assert seen


def test_work_that_no_run_asked_for_tells_nobody():
    seen = False
    with waiting(NO_LEASE, 60, "r.test", "429"):
        seen = True
    assert seen
