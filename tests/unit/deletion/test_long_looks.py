"""The look at all tags before a deletion by digest, where it takes minutes."""

from __future__ import annotations

import pytest

from stagefleet.attempt import ItemLeaseRenewer
from stagefleet.deletion import index_members, reference_scan
from stagefleet.deletion.reference_scan import ReferenceScan
from stagefleet.errors import ItemCancelledError, RedisUnreachableError, RegistryError
from stagefleet.leases import NO_LEASE, ChildLease, check_run
from stagefleet.locks.stage_locks import StageLock
from stagefleet.runs.models import RunSpec, RunState, WaitKind, WaitReason
from stagefleet.settings import RunSettings
from stagefleet.testing import MemoryLedger
from tasks.delete import delete_stage
from tasks.flower_view import EndKind
from tasks.item import ItemExecutor

TAGS = 40


class Fleet:
    """A ledger in memory, and one worker that deletes the first two stages of the fake registry."""

    def __init__(self, fakes):
        self.fakes = fakes
        settings = RunSettings()
        self.ledger = MemoryLedger(settings)
        self.renewer = ItemLeaseRenewer(self.ledger, settings)
        self._executor = ItemExecutor(self.ledger, self.renewer, settings, worker="w")
        for number in range(1, TAGS + 1):
            fakes.registries.push(fakes.source, str(fakes.stage(number)), layers=(f"own {number}".encode(),))
        submission = self.ledger.open(
            RunSpec(operation="delete_stage", options={"repository": str(fakes.source)})
        )
        self.ledger.append(submission, [str(fakes.stage(number)) for number in (1, 2)])
        self.ledger.start(submission)
        self.run_id = submission.run_id

    @property
    def run(self):
        return self.ledger.run(self.run_id)

    def execute(self, *, before=lambda: None):
        def operation(attempt):
            before()
            return delete_stage(self.fakes.stage_tasks.storages, attempt)

        return self._executor.execute(operation, self.run_id, 0)

    def on_look(self, do):
        """Do something at each request of the look: those for the tags that nobody deletes."""
        kept = {str(self.fakes.stage(number)) for number in range(3, TAGS + 1)}
        self.looked = 0

        def look(verb, name):
            if name in kept:
                self.looked += 1
                do()

        self.fakes.registries.on_request = look


@pytest.fixture
def fleet(fakes, monkeypatch):
    monkeypatch.setattr(reference_scan, "TOLD_SECONDS", 0)
    monkeypatch.setattr(reference_scan, "_REPORT_SECONDS", 0)
    fleet = Fleet(fakes)
    yield fleet
    fleet.renewer.close()


def test_who_follows_the_run_sees_how_far_the_look_is(fakes, fleet, monkeypatch):
    """R7: minutes of requests are told as a wait is, and nothing is told once they are over."""
    noted = []
    note_pause = fleet.ledger.note_pause

    def note(claim, seconds, reason):
        note_pause(claim, seconds, reason)
        noted.append((seconds, reason, fleet.run.waits))

    monkeypatch.setattr(fleet.ledger, "note_pause", note)
    assert EndKind.DONE is fleet.execute().kind
    seconds, reason, (wait,) = noted[0]
    assert WaitReason(text=f"1 of {TAGS} tags looked at before a deletion in {fakes.source}") == reason
    assert (True, WaitKind.PAUSE, reason) == (seconds > 0, wait.kind, wait.reason)
    assert (0, ()) == (noted[-1][0], noted[-1][2])
    assert {} == {name: number for name, number in fleet.renewer.counts.take().items() if "wait" in name}


def test_a_look_is_reported_at_a_bounded_rate(fleet, monkeypatch):
    noted = []
    monkeypatch.setattr(reference_scan, "_REPORT_SECONDS", 60)
    monkeypatch.setattr(fleet.ledger, "note_pause", lambda claim, seconds, reason: noted.append(seconds))
    fleet.execute()
    assert 2 == len(noted), "one report, and its end"


def test_a_short_look_is_reported_to_nobody(fleet, monkeypatch):
    noted = []
    monkeypatch.setattr(reference_scan, "TOLD_SECONDS", 60)
    monkeypatch.setattr(fleet.ledger, "note_pause", lambda *told: noted.append(told))
    fleet.execute()
    assert [] == noted


def test_the_number_of_tags_may_stay_unknown(fakes, fleet, monkeypatch):
    reasons = []
    lists = [ReferenceScan._fixed_tags, fail_to_list]

    def note(claim, seconds, reason):
        reasons.append(reason.text)

    def next_list(scan):
        return lists.pop(0)(scan)

    monkeypatch.setattr(ReferenceScan, "_fixed_tags", next_list)
    monkeypatch.setattr(reference_scan, "_REPORT_SECONDS", 60)
    monkeypatch.setattr(fleet.ledger, "note_pause", note)
    assert EndKind.DONE is fleet.execute().kind
    assert [f"1 of 1 tags looked at before a deletion in {fakes.source}", ""] == reasons


def fail_to_list(scan):
    raise RegistryError("broken", method="GET", status=500)


def test_a_cancelled_run_leaves_the_look_and_changes_nothing(fakes, fleet, monkeypatch):
    """R48: without `now`, too: nothing has been changed that would have to be finished."""
    monkeypatch.setattr(index_members, "_TAGS_A_TIME", 2)
    fleet.on_look(lambda: fleet.ledger.cancel(fleet.run_id))
    before = fakes.tags(fakes.source)
    assert EndKind.CANCELLED is fleet.execute().kind
    assert (True, before) == (fleet.looked < TAGS / 2, fakes.tags(fakes.source))
    assert (RunState.CANCELLED, 2) == (fleet.run.state, fleet.run.cancelled)


def test_an_item_that_awaited_the_look_of_another_begins_none_of_its_own(fleet):
    fleet.on_look(lambda: None)
    end = fleet.execute(before=lambda: fleet.ledger.cancel(fleet.run_id))
    assert (EndKind.CANCELLED, 0) == (end.kind, fleet.looked)


def test_an_item_that_has_changed_something_is_finished(fakes, fleet):
    """R48: after the look a run that is cancelled without `now` finishes what it has begun."""
    stage_id = str(fakes.stage(1))

    def cancel(verb, name):
        if verb == "DELETE" and name == str(digest):
            fleet.ledger.cancel(fleet.run_id)

    digest = fakes.registries.stored(fakes.source).tags[stage_id]
    fakes.registries.on_request = cancel
    assert EndKind.DONE is fleet.execute().kind
    assert stage_id not in fakes.tags(fakes.source)
    assert RunState.CANCELLED is fleet.run.state


def test_a_cancelled_look_stays_cancelled_at_the_next_renewal(fleet):
    claim = fleet.ledger.claim(fleet.run_id, 0, "me")
    with fleet.renewer.renewing(claim) as lease:
        lease.check_run()
        fleet.ledger.cancel(fleet.run_id)
        lease.check()
        with pytest.raises(ItemCancelledError, match="was cancelled"):
            ChildLease(StageLock(lease, (), has_waited=False)).check_run()
        fleet.renewer.renew()
        with pytest.raises(ItemCancelledError):
            lease.check()


def test_a_ledger_that_is_away_ends_no_look(fleet, monkeypatch):
    claim = fleet.ledger.claim(fleet.run_id, 0, "me")

    def away(run_id):
        raise RedisUnreachableError("away")

    monkeypatch.setattr(fleet.ledger, "run", away)
    with fleet.renewer.renewing(claim) as lease:
        check_run(lease)
    check_run(NO_LEASE)  # work outside of a run
