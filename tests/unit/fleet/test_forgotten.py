"""A run that Redis forgets once the client has started it."""

from typing import Any

import pytest

from stagefleet.errors import LedgerRewoundError
from stagefleet.runs.models import ErrorInfo, RunState
from tests.contract.rollback import restore_memory, snapshot_memory

COPY = ("src.test/app", "dst.test/app")


@pytest.fixture
def forgetting(ledger, monkeypatch):
    """Lets the ledger forget what happened since one step, after the first call of another."""

    def forgetting(since, after):
        kept: list[Any] = []
        first, last = getattr(ledger, since), getattr(ledger, after)

        def note(*arguments, **options):
            if not kept:
                kept.append(snapshot_memory(ledger))
            return first(*arguments, **options)

        def forget(*arguments, **options):
            answer = (note if since == after else last)(*arguments, **options)
            if len(kept) == 1:
                kept.append(None)
                restore_memory(ledger, kept[0])
            return answer

        monkeypatch.setattr(ledger, since, note)
        monkeypatch.setattr(ledger, after, forget)

    return forgetting


@pytest.mark.parametrize("since", ["open", "append", "start"])
@pytest.mark.parametrize("key", [None, "nightly"])
def test_it_is_submitted_again_and_done(fleet, fake_worker, forgetting, notices, since, key):
    """R3: the call ends with every item, whatever of its submission was forgotten as it ended."""
    forgetting(since, "start")
    called = []
    run = fleet.for_each_copy_stage(
        *COPY, None, lambda outcome: called.append(outcome.item), idempotency_key=key
    )

    assert (RunState.SUCCEEDED, 5, 4, 1) == (run.state, run.total, run.succeeded, run.skipped)
    assert 5 == len(set(called))
    assert ["as after a failover" in notice for notice in notices] == [True]


def test_a_detached_one_is_submitted_again(fleet, forgetting, ledger):
    """R3: as long as the command is there, it sees to it that the run is."""
    forgetting("open", "start")
    run = fleet.for_each_copy_stage(*COPY, detach=True)

    assert RunState.RUNNING is ledger.run(run.id).state
    assert [run.id] == [found.id for found in ledger.runs()]


@pytest.mark.parametrize("since", ["open", "start"])
def test_who_follows_it_is_told(fleet, ledger, monkeypatch, since):
    """R3: a command that follows a run does not wait for one that nobody submits any more."""
    kept = []
    step = getattr(ledger, since)

    def note(*arguments, **options):
        kept.append(snapshot_memory(ledger))
        return step(*arguments, **options)

    monkeypatch.setattr(ledger, since, note)
    run = fleet.for_each_copy_stage(*COPY, idempotency_key="nightly", detach=True)
    monkeypatch.setattr(fleet, "_notice", lambda _: None)
    fleet._follower._connections.check = lambda: restore_memory(ledger, kept[0])

    with pytest.raises(LedgerRewoundError, match="start it again") as told:
        fleet.wait(run.id)
    assert 4 == told.value.exit_code


def test_an_error_of_a_callback_is_not_taken_for_it(fleet, fake_worker, forgetting):
    """R3: what a callback raises comes out, whatever it is: nothing is submitted for it."""

    def call_back(_outcome):
        raise LedgerRewoundError("of another fleet")

    with pytest.raises(LedgerRewoundError, match="of another fleet"):
        fleet.for_each_copy_stage(*COPY, None, call_back)
    (run,) = fleet.runs()
    assert RunState.CANCELLED is run.state
    assert ErrorInfo(type="LedgerRewoundError", message="of another fleet") == run.error
