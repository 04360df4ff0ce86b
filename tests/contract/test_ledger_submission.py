"""What `Submitter` promises."""

from __future__ import annotations

import pytest

from stagefleet.errors import KeyConflictError, LeaseLostError, RunNotFoundError, TooManyItemsError
from stagefleet.runs import model
from stagefleet.runs.model import Callback, Fate, ItemState, RunState
from tests.contract.twins import LEASE_SECONDS, RETENTION_SECONDS, Twin, skip_of


def test_a_new_run_is_submitting_and_publishes_nothing(twin: Twin):
    submission = twin.open()
    twin.ledger.append(submission, ["a", "b"])

    run = twin.ledger.run(submission.run)
    assert Fate.NEW is submission.fate
    assert None is submission.previous
    assert RunState.SUBMITTING is run.state
    assert 2 == run.total
    assert [] == twin.messages()


def test_starting_publishes_the_first_items(twin: Twin):
    twin.staff(2)
    run = twin.submit(["a", "b", "c", "d", "e"], parallel=3)

    assert [0, 1, 2] == twin.indexes()
    assert {run} == {message.run for message in twin.messages()}
    assert 3 == twin.ledger.run(run).published


def test_starting_twice_publishes_once(twin: Twin):
    submission = twin.open()
    twin.ledger.append(submission, ["a"])
    twin.ledger.start(submission)
    twin.ledger.start(submission)

    assert [0] == twin.indexes()


def test_a_run_without_items_ends_at_once(twin: Twin):
    run = twin.submit([])

    ended = twin.ledger.run(run)
    assert RunState.SUCCEEDED is ended.state
    assert None is not ended.finished_at
    assert None is twin.outcomes(run)


def test_a_run_of_skips_alone_succeeds_without_a_task(twin: Twin):
    run = twin.submit([], [skip_of("a"), skip_of("b")])

    ended = twin.ledger.run(run)
    assert (RunState.SUCCEEDED, 2, 2) == (ended.state, ended.total, ended.skipped)
    assert ["a", "b"] == [outcome.item for outcome in twin.outcomes(run) or []]
    assert [] == twin.messages()


def test_items_appended_in_parts_keep_their_order(twin: Twin):
    submission = twin.open(parallel=1)
    twin.ledger.append(submission, ["a"])
    twin.ledger.append(submission, ["b"], [skip_of("z")])
    twin.ledger.append(submission, ["c"])
    twin.ledger.start(submission)

    items = []
    for _ in range(3):
        claim = twin.take()
        items.append(claim.item)
        twin.succeed(claim)
    assert ["a", "b", "c"] == items
    assert 4 == twin.ledger.run(submission.run).done


def test_a_run_at_its_limit_takes_no_more(twin: Twin, monkeypatch: pytest.MonkeyPatch):
    for module in ("stagefleet.testing.ledger", "stagefleet.runs.redis_ledger"):
        monkeypatch.setattr(f"{module}.MAX_ITEMS", 3)
    submission = twin.open()
    twin.ledger.append(submission, ["a", "b"], [skip_of("c")])

    with pytest.raises(TooManyItemsError):
        twin.ledger.append(submission, ["d"])
    assert 3 == twin.ledger.run(submission.run).total


def test_a_run_may_have_a_million_items():
    assert 1_000_000 == model.MAX_ITEMS


def test_a_started_run_takes_no_more_items(twin: Twin):
    submission = twin.open()
    twin.ledger.start(submission)

    with pytest.raises(LeaseLostError):
        twin.ledger.append(submission, ["a"])


def test_hostile_item_names_come_back_as_they_were(twin: Twin):
    items = ['"', "\\", "%1%s@RUN@", "@ITEM@", "é\n\x00", "'); drop", "x" * 300]
    twin.staff(100)
    run = twin.submit(items, parallel=100)

    claims = [twin.take() for _ in items]
    assert items == [claim.item for claim in claims]
    assert items == list(twin.ledger.leftovers(run))


class TestKeys:
    def test_a_key_under_way_is_attached_to(self, twin: Twin):
        first = twin.open(key="k", fingerprint="f")
        while_submitting = twin.open(key="k", fingerprint="f")
        twin.ledger.append(first, ["a"])
        twin.ledger.start(first)
        while_running = twin.open(key="k", fingerprint="f")
        twin.take()
        twin.ledger.cancel(first.run)
        while_cancelling = twin.open(key="k", fingerprint="f")

        for later in (while_submitting, while_running, while_cancelling):
            assert (first.run, Fate.ATTACHED) == (later.run, later.fate)

    def test_who_attached_may_not_append(self, twin: Twin):
        twin.open(key="k", fingerprint="f")
        attached = twin.open(key="k", fingerprint="f")

        with pytest.raises(LeaseLostError):
            twin.ledger.append(attached, ["a"])
        with pytest.raises(LeaseLostError):
            twin.ledger.start(attached)

    def test_a_key_that_succeeded_gives_that_run(self, twin: Twin):
        run = twin.submit(["a"], key="k", fingerprint="f")
        twin.work_off()

        again = twin.open(key="k", fingerprint="f")
        assert (run, Fate.SUCCEEDED) == (again.run, again.fate)

    def test_a_key_with_other_arguments_is_refused(self, twin: Twin):
        run = twin.submit(["a"], key="k", fingerprint="f")

        with pytest.raises(KeyConflictError, match=run):
            twin.open(key="k", fingerprint="g")

    def test_a_failed_key_is_continued_by_a_new_run(self, twin: Twin):
        old = twin.submit(["a", "b"], key="k", fingerprint="f", parallel=1)
        twin.fail(twin.take())
        twin.work_off()

        new = twin.open(key="k", fingerprint="f")
        order = twin.ledger.order(new.run)
        assert order is not None
        assert (Fate.CONTINUED, old, old) == (new.fate, new.previous, order.parent)
        assert new.run != old
        assert ["a"] == list(twin.ledger.leftovers(old))
        assert Fate.ATTACHED is twin.open(key="k", fingerprint="f").fate

    def test_a_cancelled_key_is_continued_by_a_new_run(self, twin: Twin):
        old = twin.submit(["a"], key="k", fingerprint="f")
        twin.ledger.cancel(old)

        assert (Fate.CONTINUED, old) == ((new := twin.open(key="k", fingerprint="f")).fate, new.previous)

    def test_a_run_left_half_submitted_is_taken_over_and_emptied(self, twin: Twin):
        dead = twin.open(key="k", fingerprint="f")
        twin.ledger.append(dead, ["a", "b"], [skip_of("c")])
        twin.advance(LEASE_SECONDS + 1)

        heir = twin.open(key="k", fingerprint="f")
        assert (dead.run, Fate.NEW) == (heir.run, heir.fate)
        assert (0, 0) == ((run := twin.ledger.run(heir.run)).total, run.skipped)
        with pytest.raises(LeaseLostError):
            twin.ledger.append(dead, ["x"])
        with pytest.raises(LeaseLostError):
            twin.ledger.start(dead)
        twin.ledger.append(heir, ["a"], [skip_of("b")])
        twin.ledger.start(heir)
        twin.work_off()
        assert ["b", "a"] == [outcome.item for outcome in twin.outcomes(heir.run) or []]
        assert RunState.SUCCEEDED is twin.ledger.run(heir.run).state

    def test_a_callback_run_taken_over_with_skips_ends_when_they_are_acknowledged(self, twin: Twin):
        dead = twin.open(key="k", fingerprint="f", callback=Callback.CLIENT)
        twin.ledger.append(dead, [], [skip_of("a"), skip_of("b")])
        twin.advance(LEASE_SECONDS + 1)
        heir = twin.open(key="k", fingerprint="f", callback=Callback.CLIENT)
        twin.ledger.append(heir, [], [skip_of("c")])
        twin.ledger.start(heir)

        outcomes = twin.outcomes(heir.run)
        assert outcomes
        assert ["c"] == [outcome.item for outcome in outcomes]
        twin.ledger.acknowledge(heir.run, twin.ledger.coordinate(heir.run), outcomes)
        assert RunState.SUCCEEDED is twin.ledger.run(heir.run).state

    def test_appending_keeps_the_submitters_lease(self, twin: Twin):
        first = twin.open(key="k", fingerprint="f")
        for _ in range(3):
            twin.advance(LEASE_SECONDS / 2)
            twin.ledger.append(first, ["a"])

        assert Fate.ATTACHED is twin.open(key="k", fingerprint="f").fate

    def test_runs_without_a_key_are_strangers(self, twin: Twin):
        assert twin.open().run != twin.open().run


class TestLeftovers:
    def test_they_are_what_neither_succeeded_nor_was_skipped_in_order(self, twin: Twin):
        twin.staff(10)
        run = twin.submit(["a", "b", "c", "d", "e", "f"], [skip_of("s")], parallel=5)
        claims = [twin.take() for _ in range(5)]
        twin.fail(claims[4])
        twin.succeed(claims[1])
        twin.ledger.finish(claims[2], model.Outcome(item="c", state=ItemState.SKIPPED))
        twin.ledger.finish(claims[3], model.Outcome(item="d", state=ItemState.CANCELLED))
        twin.ledger.cancel(run)
        twin.fail(claims[0])

        assert RunState.CANCELLED is twin.ledger.run(run).state
        assert ["a", "d", "e", "f"] == list(twin.ledger.leftovers(run))

    def test_more_than_a_page_of_them_is_whole(self, twin: Twin):
        items = [f"i{number}" for number in range(2500)]
        run = twin.submit(items)
        twin.ledger.cancel(run)

        assert items == list(twin.ledger.leftovers(run))

    def test_those_of_an_unknown_run_are_refused(self, twin: Twin):
        with pytest.raises(RunNotFoundError):
            list(twin.ledger.leftovers("nowhere"))


class TestAbandonment:
    def test_a_keyless_run_left_half_submitted_is_cancelled(self, twin: Twin):
        submission = twin.open()
        twin.ledger.append(submission, ["a", "b"])
        twin.advance(LEASE_SECONDS + 1)

        assert 1 == twin.ledger.sweep()
        run = twin.ledger.run(submission.run)
        assert (RunState.CANCELLED, 2) == (run.state, run.cancelled)
        assert run.error is not None
        assert "CoordinatorLostError" == run.error.type

    def test_a_half_submitted_run_under_a_key_waits_for_its_heir(self, twin: Twin):
        submission = twin.open(key="k", fingerprint="f")
        twin.advance(LEASE_SECONDS + 1)

        assert 0 == twin.ledger.sweep()
        assert RunState.SUBMITTING is twin.ledger.run(submission.run).state

    def test_a_half_submitted_run_under_a_key_does_not_wait_for_ever(self, twin: Twin):
        submission = twin.open(key="k", fingerprint="f")
        twin.advance(LEASE_SECONDS + RETENTION_SECONDS + 1)
        twin.ledger.sweep()

        assert RunState.CANCELLED is twin.ledger.run(submission.run).state


def test_a_key_is_known_once_a_run_stands_under_it(twin: Twin):
    assert not twin.ledger.has_key("nightly")

    twin.open(key="nightly", fingerprint="f")

    assert twin.ledger.has_key("nightly")


def test_a_run_cancelled_half_submitted_is_not_gone_on_with(twin: Twin):
    half = twin.open(key="nightly", fingerprint="f")
    twin.ledger.append(half, ["a"])
    twin.ledger.cancel(half.run)

    again = twin.open(key="nightly", fingerprint="f")

    assert (Fate.NEW, None) == (again.fate, again.previous)
    assert half.run != again.run


def test_an_append_that_is_repeated_adds_its_items_once(twin: Twin):
    """R8: items whose addition was not answered are added again without being there twice."""
    submission = twin.open()
    for _ in range(2):
        twin.ledger.append(submission, ["a", "b"], [skip_of("z")], nonce="first")
    for _ in range(2):
        twin.ledger.append(submission, ["c"], nonce="second")
    assert 4 == twin.ledger.run(submission.run).total


def test_a_ledger_that_takes_writes_says_so(twin: Twin):
    """W34: a ledger that can be written to answers a ping, and forgets it."""
    twin.ledger.ping()
    twin.ledger.ping()
    assert [] == list(twin.ledger.runs())
