"""What `SubmitterLedger` promises."""

from __future__ import annotations

import pytest

from stagefleet.bounds import MAX_ITEMS
from stagefleet.errors import KeyConflictError, LeaseLostError, RunNotFoundError, TooManyItemsError
from stagefleet.runs import models
from stagefleet.runs.models import Callback, ItemState, RunState, SubmissionKind
from tests.contract.ledgers import LEASE_SECONDS, RETENTION_SECONDS, LedgerHarness, skip_of


def test_a_new_run_is_submitting_and_publishes_nothing(harness: LedgerHarness):
    submission = harness.open()
    harness.ledger.append(submission, ["a", "b"])

    run = harness.ledger.run(submission.run_id)
    assert SubmissionKind.NEW is submission.kind
    assert None is submission.previous
    assert RunState.SUBMITTING is run.state
    assert 2 == run.total
    assert [] == harness.messages()


def test_starting_publishes_the_first_items(harness: LedgerHarness):
    harness.staff(3)
    run_id = harness.submit(["a", "b", "c", "d", "e"], parallel=3)

    assert [0, 1, 2] == harness.indexes()
    assert {run_id} == {message.run_id for message in harness.messages()}
    assert 3 == harness.ledger.run(run_id).published


def test_starting_twice_publishes_once(harness: LedgerHarness):
    submission = harness.open()
    harness.ledger.append(submission, ["a"])
    harness.ledger.start(submission)
    harness.ledger.start(submission)

    assert [0] == harness.indexes()


def test_a_run_without_items_ends_at_once(harness: LedgerHarness):
    run_id = harness.submit([])

    ended = harness.ledger.run(run_id)
    assert RunState.SUCCEEDED is ended.state
    assert None is not ended.finished_at
    assert None is harness.outcomes(run_id)


def test_a_run_of_skips_alone_succeeds_without_a_task(harness: LedgerHarness):
    run_id = harness.submit([], [skip_of("a"), skip_of("b")])

    ended = harness.ledger.run(run_id)
    assert (RunState.SUCCEEDED, 2, 2) == (ended.state, ended.total, ended.skipped)
    assert ["a", "b"] == [outcome.item for outcome in harness.outcomes(run_id) or []]
    assert [] == harness.messages()


def test_items_appended_in_parts_keep_their_order(harness: LedgerHarness):
    submission = harness.open(parallel=1)
    harness.ledger.append(submission, ["a"])
    harness.ledger.append(submission, ["b"], [skip_of("z")])
    harness.ledger.append(submission, ["c"])
    harness.ledger.start(submission)

    items = []
    for _ in range(3):
        claim = harness.take()
        items.append(claim.item)
        harness.succeed(claim)
    assert ["a", "b", "c"] == items
    assert 4 == harness.ledger.run(submission.run_id).done


def test_a_run_at_its_limit_takes_no_more(harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch):
    for module in ("stagefleet.testing.ledger", "stagefleet.runs.redis_ledger"):
        monkeypatch.setattr(f"{module}.MAX_ITEMS", 3)
    submission = harness.open()
    harness.ledger.append(submission, ["a", "b"], [skip_of("c")])

    with pytest.raises(TooManyItemsError):
        harness.ledger.append(submission, ["d"])
    assert 3 == harness.ledger.run(submission.run_id).total


def test_a_run_may_have_a_million_items():
    assert 1_000_000 == MAX_ITEMS


def test_a_started_run_takes_no_more_items(harness: LedgerHarness):
    submission = harness.open()
    harness.ledger.start(submission)

    with pytest.raises(LeaseLostError):
        harness.ledger.append(submission, ["a"])


def test_hostile_item_names_come_back_as_they_were(harness: LedgerHarness):
    items = ['"', "\\", "%1%s@RUN@", "@ITEM@", "é\n\x00", "'); drop", "x" * 300]
    harness.staff(100)
    run_id = harness.submit(items, parallel=100)

    claims = [harness.take() for _ in items]
    assert items == [claim.item for claim in claims]
    assert items == [item for _, item in harness.ledger.leftovers(run_id)]


class TestKeys:
    def test_a_key_under_way_is_attached_to(self, harness: LedgerHarness):
        first = harness.open(key="k", fingerprint="f")
        while_submitting = harness.open(key="k", fingerprint="f")
        harness.ledger.append(first, ["a"])
        harness.ledger.start(first)
        while_running = harness.open(key="k", fingerprint="f")
        harness.take()
        harness.ledger.cancel(first.run_id)
        while_cancelling = harness.open(key="k", fingerprint="f")

        for later in (while_submitting, while_running, while_cancelling):
            assert (first.run_id, SubmissionKind.ATTACHED) == (later.run_id, later.kind)

    def test_who_attached_may_not_append(self, harness: LedgerHarness):
        harness.open(key="k", fingerprint="f")
        attached = harness.open(key="k", fingerprint="f")

        with pytest.raises(LeaseLostError):
            harness.ledger.append(attached, ["a"])
        with pytest.raises(LeaseLostError):
            harness.ledger.start(attached)

    def test_a_key_that_succeeded_gives_that_run(self, harness: LedgerHarness):
        run_id = harness.submit(["a"], key="k", fingerprint="f")
        harness.work_off()

        again = harness.open(key="k", fingerprint="f")
        assert (run_id, SubmissionKind.SUCCEEDED) == (again.run_id, again.kind)

    def test_a_key_with_other_arguments_is_refused(self, harness: LedgerHarness):
        run_id = harness.submit(["a"], key="k", fingerprint="f")

        with pytest.raises(KeyConflictError, match=run_id):
            harness.open(key="k", fingerprint="g")

    def test_a_failed_key_is_continued_by_a_new_run(self, harness: LedgerHarness):
        old = harness.submit(["a", "b"], key="k", fingerprint="f", parallel=1)
        harness.fail(harness.take())
        harness.work_off()

        new = harness.open(key="k", fingerprint="f")
        spec = harness.ledger.spec(new.run_id)
        assert spec is not None
        assert (SubmissionKind.CONTINUED, old, old) == (new.kind, new.previous, spec.parent)
        assert new.run_id != old
        assert ["a"] == [item for _, item in harness.ledger.leftovers(old)]
        assert SubmissionKind.ATTACHED is harness.open(key="k", fingerprint="f").kind

    def test_a_cancelled_key_is_continued_by_a_new_run(self, harness: LedgerHarness):
        old = harness.submit(["a"], key="k", fingerprint="f")
        harness.ledger.cancel(old)

        assert (SubmissionKind.CONTINUED, old) == (
            (new := harness.open(key="k", fingerprint="f")).kind,
            new.previous,
        )

    def test_a_run_left_half_submitted_is_taken_over_and_emptied(self, harness: LedgerHarness):
        dead = harness.open(key="k", fingerprint="f")
        harness.ledger.append(dead, ["a", "b"], [skip_of("c")])
        harness.advance(LEASE_SECONDS + 1)

        heir = harness.open(key="k", fingerprint="f")
        assert (dead.run_id, SubmissionKind.NEW) == (heir.run_id, heir.kind)
        assert (0, 0) == ((run := harness.ledger.run(heir.run_id)).total, run.skipped)
        with pytest.raises(LeaseLostError):
            harness.ledger.append(dead, ["x"])
        with pytest.raises(LeaseLostError):
            harness.ledger.start(dead)
        harness.ledger.append(heir, ["a"], [skip_of("b")])
        harness.ledger.start(heir)
        harness.work_off()
        assert ["b", "a"] == [outcome.item for outcome in harness.outcomes(heir.run_id) or []]
        assert RunState.SUCCEEDED is harness.ledger.run(heir.run_id).state

    def test_a_callback_run_taken_over_with_skips_ends_when_they_are_acknowledged(
        self, harness: LedgerHarness
    ):
        dead = harness.open(key="k", fingerprint="f", callback=Callback.CLIENT)
        harness.ledger.append(dead, [], [skip_of("a"), skip_of("b")])
        harness.advance(LEASE_SECONDS + 1)
        heir = harness.open(key="k", fingerprint="f", callback=Callback.CLIENT)
        harness.ledger.append(heir, [], [skip_of("c")])
        harness.ledger.start(heir)

        outcomes = harness.outcomes(heir.run_id)
        assert outcomes
        assert ["c"] == [outcome.item for outcome in outcomes]
        harness.ledger.acknowledge(heir.run_id, harness.ledger.coordinate(heir.run_id), outcomes)
        assert RunState.SUCCEEDED is harness.ledger.run(heir.run_id).state

    def test_appending_keeps_the_submitters_lease(self, harness: LedgerHarness):
        first = harness.open(key="k", fingerprint="f")
        for _ in range(3):
            harness.advance(LEASE_SECONDS / 2)
            harness.ledger.append(first, ["a"])

        assert SubmissionKind.ATTACHED is harness.open(key="k", fingerprint="f").kind

    def test_runs_without_a_key_are_strangers(self, harness: LedgerHarness):
        assert harness.open().run_id != harness.open().run_id


class TestLeftovers:
    def test_they_are_what_neither_succeeded_nor_was_skipped_in_order(self, harness: LedgerHarness):
        harness.staff(10)
        run_id = harness.submit(["a", "b", "c", "d", "e", "f"], [skip_of("s")], parallel=5)
        claims = [harness.take() for _ in range(5)]
        harness.fail(claims[4])
        harness.succeed(claims[1])
        harness.ledger.finish(claims[2], models.Outcome(item="c", state=ItemState.SKIPPED))
        harness.ledger.finish(claims[3], models.Outcome(item="d", state=ItemState.CANCELLED))
        harness.ledger.cancel(run_id)
        harness.fail(claims[0])

        assert RunState.CANCELLED is harness.ledger.run(run_id).state
        assert ["a", "d", "e", "f"] == [item for _, item in harness.ledger.leftovers(run_id)]

    def test_more_than_a_page_of_them_is_whole(self, harness: LedgerHarness):
        items = [f"i{number}" for number in range(2500)]
        run_id = harness.submit(items)
        harness.ledger.cancel(run_id)

        assert items == [item for _, item in harness.ledger.leftovers(run_id)]

    def test_those_of_an_unknown_run_are_refused(self, harness: LedgerHarness):
        with pytest.raises(RunNotFoundError):
            [item for _, item in harness.ledger.leftovers("nowhere")]


class TestAbandonment:
    def test_a_keyless_run_left_half_submitted_is_cancelled(self, harness: LedgerHarness):
        submission = harness.open()
        harness.ledger.append(submission, ["a", "b"])
        harness.advance(LEASE_SECONDS + 1)

        assert 1 == harness.ledger.sweep()
        run = harness.ledger.run(submission.run_id)
        assert (RunState.CANCELLED, 2) == (run.state, run.cancelled)
        assert run.error is not None
        assert "CoordinatorLostError" == run.error.type

    def test_a_half_submitted_run_under_a_key_waits_for_its_heir(self, harness: LedgerHarness):
        submission = harness.open(key="k", fingerprint="f")
        harness.advance(LEASE_SECONDS + 1)

        assert 0 == harness.ledger.sweep()
        assert RunState.SUBMITTING is harness.ledger.run(submission.run_id).state

    def test_a_half_submitted_run_under_a_key_does_not_wait_for_ever(self, harness: LedgerHarness):
        submission = harness.open(key="k", fingerprint="f")
        harness.advance(LEASE_SECONDS + RETENTION_SECONDS + 1)
        harness.ledger.sweep()

        assert RunState.CANCELLED is harness.ledger.run(submission.run_id).state


def test_a_key_is_known_once_a_run_stands_under_it(harness: LedgerHarness):
    assert not harness.ledger.run_under("nightly")

    harness.open(key="nightly", fingerprint="f")

    assert harness.ledger.run_under("nightly")


def test_a_run_cancelled_half_submitted_is_not_gone_on_with(harness: LedgerHarness):
    half = harness.open(key="nightly", fingerprint="f")
    harness.ledger.append(half, ["a"])
    harness.ledger.cancel(half.run_id)

    again = harness.open(key="nightly", fingerprint="f")

    assert (SubmissionKind.NEW, None) == (again.kind, again.previous)
    assert half.run_id != again.run_id


def test_an_append_that_is_repeated_adds_its_items_once(harness: LedgerHarness):
    """R8: items whose addition was not answered are added again without being there twice."""
    submission = harness.open()
    for _ in range(2):
        harness.ledger.append(submission, ["a", "b"], [skip_of("z")], nonce="first")
    for _ in range(2):
        harness.ledger.append(submission, ["c"], nonce="second")
    assert 4 == harness.ledger.run(submission.run_id).total


def test_a_ledger_that_takes_writes_says_so(harness: LedgerHarness):
    """W34: a ledger that can be written to answers a ping, and forgets it."""
    harness.ledger.heartbeats.ping()
    harness.ledger.heartbeats.ping()
    assert [] == list(harness.ledger.runs())
