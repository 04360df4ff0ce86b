"""Random histories of crashes, doubles, losses and late-comers, against a model; `make faults` runs more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stagefleet.errors import LeaseLostError, RunNotFoundError, UsageError
from stagefleet.redis_keys import COUNTERS
from stagefleet.runs.ledger import Claim
from stagefleet.runs.models import Callback, ErrorInfo, ItemState, Outcome, RunSpec, RunState, Submission
from stagefleet.testing import Message
from stagefleet.testing.run_record import RunRecord
from tests.contract.history import Entry, ExpectedRun
from tests.contract.ledgers import (
    LEASE_SECONDS,
    REPUBLISH_SECONDS,
    LedgerHarness,
    MemoryBroker,
    RedisBroker,
    TwinMaker,
    outcome_of,
    skip_of,
)

MOST_RUNS = 3
BOOM = ErrorInfo(type="ValueError", message="boom")
# No sum of these comes near a lease or a pause: what little time a real server needs decides nothing.
STEPS_SECONDS = st.sampled_from([4, 20, 35])
PAUSES_SECONDS = st.sampled_from([None, 0, 15])


class Histories(RuleBasedStateMachine):
    """Clients, workers, a reaper and a broker that nobody can rely on."""

    def __init__(self, make_harness: TwinMaker) -> None:
        super().__init__()
        self.harness = make_harness()
        self.ledger = self.harness.ledger
        self.now = 0.0
        self.runs: dict[str, ExpectedRun] = {}
        self.read: dict[str, list[Outcome]] = {}
        self.acknowledged: dict[str, int] = {}
        self.seen: list[Message] = []
        self.claims: list[Claim] = []
        self.most_slots = 0
        self.submissions: dict[str, Submission] = {}
        self.swept_at: float | None = None

    @initialize(slots=st.integers(0, 3))
    def a_fleet(self, slots: int) -> None:
        self.staff(slots)

    # Clients

    @precondition(lambda self: len(self.runs) < MOST_RUNS)
    @rule(
        items=st.integers(0, 6),
        decided=st.integers(0, 2),
        parallel=st.integers(1, 4),
        max_attempts=st.integers(1, 3),
        callback=st.sampled_from(Callback),
    )
    def submit(self, items: int, decided: int, parallel: int, max_attempts: int, callback: Callback) -> None:
        spec = RunSpec(
            operation="copy_stage", parallel=parallel, max_attempts=max_attempts, callback=callback
        )
        submission = self.ledger.open(spec)
        names = [f"i{number}" for number in range(items)]
        skips = [skip_of(f"s{number}") for number in range(decided)]
        self.ledger.append(submission, names[:2], skips)
        self.ledger.append(submission, names[2:])
        self.ledger.start(submission)
        run = ExpectedRun(submission.run_id, spec, names, decided, self.now + LEASE_SECONDS)
        run.news = [(skip.item, skip.state, 0) for skip in skips]
        run.created_at = self.now
        self.runs[run.id] = run
        self.read[run.id] = []
        self.acknowledged[run.id] = 0

    @precondition(lambda self: len(self.runs) < MOST_RUNS)
    @rule(parallel=st.integers(1, 4), max_attempts=st.integers(1, 3), callback=st.sampled_from(Callback))
    def open_early(self, parallel: int, max_attempts: int, callback: Callback) -> None:
        """Open a run whose items start while they are appended."""
        spec = RunSpec(
            operation="copy_stage",
            parallel=parallel,
            max_attempts=max_attempts,
            callback=callback,
            starts_early=True,
        )
        submission = self.ledger.open(spec)
        until = self.now + LEASE_SECONDS
        run = ExpectedRun(submission.run_id, spec, [], 0, until, 0, RunState.SUBMITTING, until)
        run.created_at = self.now
        self.runs[run.id], self.submissions[run.id] = run, submission
        self.read[run.id] = []
        self.acknowledged[run.id] = 0

    @precondition(lambda self: self.submissions)
    @rule(data=st.data(), items=st.integers(0, 3), decided=st.integers(0, 2))
    def append(self, data: st.DataObject, items: int, decided: int) -> None:
        run = self.runs[data.draw(st.sampled_from(list(self.submissions)))]
        submission = self.submissions[run.id]
        names = [f"e{len(run.items) + number}" for number in range(items)]
        skips = [f"s{run.decided + number}" for number in range(decided)]
        if run.state is RunState.SUBMITTING:
            self.ledger.append(submission, names, list(map(skip_of, skips)))
            run.append(names, skips, self.now)
        else:
            with pytest.raises(LeaseLostError):
                self.ledger.append(submission, names, list(map(skip_of, skips)))

    @precondition(lambda self: self.submissions)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(list(self.submissions)))
        self.start_early(self.runs[run_id], self.submissions[run_id])

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def coordinate(self, data: st.DataObject) -> None:
        run = self.any_run(data)
        epoch = self.ledger.coordinate(run.id)
        assert epoch > run.epoch
        run.epoch = epoch
        run.coordinator_until = self.now + LEASE_SECONDS

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), limit=st.integers(0, 3))
    def acknowledge(self, data: st.DataObject, limit: int) -> None:
        self.acknowledge_next(self.any_run(data), limit)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), limit=st.integers(0, 3))
    def acknowledge_as_a_coordinator_fenced_off(self, data: st.DataObject, limit: int) -> None:
        run = self.any_run(data)
        outcomes = self.next_outcomes(run, limit)
        assert not self.ledger.acknowledge(run.id, run.epoch - 1, outcomes)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def acknowledge_again(self, data: st.DataObject) -> None:
        run = self.any_run(data)
        old = self.read[run.id][: self.acknowledged[run.id]]
        assert run.acknowledge([], run.epoch, self.now) == self.ledger.acknowledge(run.id, run.epoch, old)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), at_once=st.booleans(), error=st.sampled_from([None, BOOM]))
    def cancel(self, data: st.DataObject, at_once: bool, error: ErrorInfo | None) -> None:  # noqa: FBT001 - drawn
        run = self.any_run(data)
        expected = run.cancel(now=at_once, with_error=error is not None)
        assert expected == self.ledger.cancel(run.id, now=at_once, error=error)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), paused=st.booleans())
    def set_paused(self, data: st.DataObject, paused: bool) -> None:  # noqa: FBT001 - drawn
        run = self.any_run(data)
        if run.state in {RunState.RUNNING, RunState.SUBMITTING}:
            assert run.set_paused(self.now, paused=paused) == self.ledger.set_paused(run.id, paused=paused)
        else:
            with pytest.raises(UsageError):
                self.ledger.set_paused(run.id, paused=paused)

    # The broker

    @rule(data=st.data())
    def double_a_message(self, data: st.DataObject) -> None:
        known = self.seen + self.harness.messages()
        if known:
            self.harness.push_message(data.draw(st.sampled_from(known)))

    @rule()
    def lose_a_message(self) -> None:
        self.harness.pop_message()

    @rule()
    def lose_all_messages(self) -> None:
        self.harness.drop_messages()

    # Workers

    @rule(slots=st.integers(0, 3))
    def staff(self, slots: int) -> None:
        self.harness.staff(slots, seconds=1e6 if slots else 0)
        self.most_slots = max(self.most_slots, slots)

    @rule()
    def deliver(self) -> None:
        message = self.harness.pop_message()
        if message is None:
            return
        self.seen.append(message)
        claim = self.ledger.claim(message.run_id, message.index, "host:1")
        if claim is not None:
            assert (message.run_id, message.index) == (claim.run_id, claim.index)
            self.runs[message.run_id].claim(claim, self.now)
            self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        state=st.sampled_from([ItemState.SUCCEEDED, ItemState.FAILED, ItemState.CANCELLED]),
        pause=PAUSES_SECONDS,
    )
    def finish(self, data: st.DataObject, state: ItemState, pause: float | None) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        self.finish_claim(claim, state, pause)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        run = self.runs[claim.run_id]
        behind = data.draw(st.none() | st.integers(0, len(run.items) - 1))
        assert run.hand_back(claim, behind) == self.ledger.hand_back(claim, behind=behind)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        claims = data.draw(st.lists(st.sampled_from(self.claims), max_size=4, unique=True))
        expected = [self.runs[claim.run_id].renew(claim, self.now) for claim in claims]
        assert expected == self.ledger.renew(claims)

    @rule(seconds=STEPS_SECONDS)
    def pass_time(self, seconds: float) -> None:
        self.harness.advance(seconds)
        self.now += seconds
        self.swept_at = None if self.swept_at is None else self.swept_at + seconds
        for run in self.runs.values():
            run.swept_at = None if run.swept_at is None else run.swept_at + seconds

    @rule(seconds=STEPS_SECONDS)
    def pass_time_while_nobody_sweeps(self, seconds: float) -> None:
        self.harness.let_pass_unswept(seconds)
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.ledger.sweep()
        for run in self.runs.values():
            run.sweep(self.now, self.swept_at)
        self.swept_at = self.now

    # What holds after every step

    @invariant()
    def runs_stand_as_foretold(self) -> None:
        for run in self.runs.values():
            found = self.ledger.run(run.id)
            assert run.shown is found.state
            assert len(run.items) + run.decided == found.total
            assert run.count(ItemState.SUCCEEDED) == found.succeeded
            assert run.count(ItemState.FAILED) == found.failed
            assert run.count(ItemState.CANCELLED) == found.cancelled
            assert run.decided == found.skipped
            assert len(run.held) == found.claimed
            assert found.published + found.waiting <= run.pending
            assert run.leftovers() == [item for _, item in self.ledger.leftovers(run.id)]
            indexes = range(len(run.items))
            assert [run.standing(index) for index in indexes] == self.ledger.item_states(run.id, indexes)
            if found.state.is_final:
                assert found.total == found.done

    @invariant()
    def no_window_and_no_share_is_exceeded(self) -> None:
        for run in self.runs.values():
            found = self.ledger.run(run.id)
            assert found.published + found.claimed + run.windowed <= run.spec.parallel
            assert found.published <= max(1, 2 * self.most_slots)

    @invariant()
    def nothing_of_a_paused_run_is_published(self) -> None:
        for run in self.runs.values():
            assert not run.paused or not self.ledger.run(run.id).published

    @invariant()
    def a_free_place_is_filled(self) -> None:
        """Where nothing is published and the window has room, nothing is left that could be published."""
        for run in self.runs.values():
            found = self.ledger.run(run.id)
            has_room = found.claimed + run.windowed < run.spec.parallel
            if run.takes_claims and not found.published and has_room:
                assert run.pending == found.waiting

    @invariant()
    def outcomes_are_as_foretold_and_never_change(self) -> None:
        for run in self.runs.values():
            outcomes = self.harness.outcomes(run.id) or []
            old = self.read[run.id]
            assert old == outcomes[: len(old)]
            assert sorted(run.news) == sorted(map(entry_of, outcomes[len(old) :]))
            self.read[run.id] = outcomes
            run.news = []
            place = self.acknowledged[run.id]
            assert (outcomes[place - 1].position if place else "") == self.ledger.acknowledged(run.id)

    def teardown(self) -> None:
        """Whatever happened, and all messages lost once more: every run still ends, nothing doubly."""
        try:
            self.harness.drop_messages()
            for run_id, submission in self.submissions.items():
                self.start_early(self.runs[run_id], submission)
            for run in self.runs.values():
                if not run.state.is_final and run.set_paused(self.now, paused=False):
                    assert self.harness.resume(run.id)
            rounds = 4 + sum(len(run.items) * run.spec.max_attempts for run in self.runs.values())
            for _ in range(rounds * math.ceil(LEASE_SECONDS / REPUBLISH_SECONDS)):
                if all(run.state.is_final for run in self.runs.values()):
                    break
                self.go_on()
            assert all(run.state.is_final for run in self.runs.values())
            for run in self.runs.values():
                items = [outcome.item for outcome in self.read[run.id]]
                assert len(set(items)) == len(items)
            self.fleet_has_counted_each_item_once()
        finally:
            self.harness.close()

    # Means

    def fleet_has_counted_each_item_once(self) -> None:
        broker = self.harness.broker
        if not isinstance(broker, RedisBroker):
            return
        counted: Counter[str] = Counter()
        for name, number in broker.client.hgetall(COUNTERS.of(broker.prefix)).items():
            kind, *labels = name.decode().split(" ")
            if kind in {"items", "runs"}:
                counted[f"{kind} {labels[1]}"] += int(number)
        expected: Counter[str] = Counter()
        for run_id in self.runs:
            run = self.ledger.run(run_id)
            expected[f"runs {run.state}"] += 1
            for state in (ItemState.SUCCEEDED, ItemState.FAILED, ItemState.SKIPPED, ItemState.CANCELLED):
                expected[f"items {state}"] += getattr(run, state)
        assert +expected == counted

    def go_on(self) -> None:
        """What an honest fleet does in some seconds."""
        self.pass_time(REPUBLISH_SECONDS + 1)
        self.sweep()
        while (message := self.harness.pop_message()) is not None:
            claim = self.ledger.claim(message.run_id, message.index, "host:1")
            if claim is not None:
                self.runs[claim.run_id].claim(claim, self.now)
                self.finish_claim(claim, ItemState.SUCCEEDED, None)
        self.outcomes_are_as_foretold_and_never_change()
        for run in self.runs.values():
            self.acknowledge_next(run, 1000)
        self.runs_stand_as_foretold()

    def start_early(self, run: ExpectedRun, submission: Submission) -> None:
        self.ledger.start(submission)
        if run.state is RunState.SUBMITTING:
            run.start(self.now)

    def any_run(self, data: st.DataObject) -> ExpectedRun:
        return self.runs[data.draw(st.sampled_from(sorted(self.runs, key=list(self.runs).index)))]

    def next_outcomes(self, run: ExpectedRun, limit: int) -> list[Outcome]:
        if not limit:
            return []
        position = self.ledger.acknowledged(run.id)
        return self.ledger.outcomes(run.id, position, limit=limit, block_seconds=0) or []

    def acknowledge_next(self, run: ExpectedRun, limit: int) -> None:
        outcomes = self.next_outcomes(run, limit)
        expected = run.acknowledge([entry_of(outcome) for outcome in outcomes], run.epoch, self.now)
        assert expected == self.ledger.acknowledge(run.id, run.epoch, outcomes)
        if expected:
            self.acknowledged[run.id] += len(outcomes)

    def finish_claim(self, claim: Claim, state: ItemState, pause: float | None) -> None:
        expected = self.runs[claim.run_id].finish(claim, state, retries=pause is not None)
        finished = self.ledger.finish(claim, outcome_of(claim, state), retry_after_seconds=pause)
        assert expected == bool(finished)


def entry_of(outcome: Outcome) -> Entry:
    return outcome.item, outcome.state, outcome.attempts


def machine_over(make_harness: TwinMaker) -> type[Histories]:
    class Made(Histories):
        def __init__(self) -> None:
            super().__init__(make_harness)

    return Made


def test_any_history_keeps_the_promises(make_harness: TwinMaker):
    run_state_machine_as_test(machine_over(make_harness))


class BrokenRecord:
    """What could go wrong in a ledger, one at a time: each is to be found out."""

    @staticmethod
    def holds(record: RunRecord, claim: Claim) -> bool:
        """A stale finish counts."""
        return claim.index in record.claimed

    @staticmethod
    def republish(
        record: RunRecord, now: float, age: float, is_lost: Callable[[str | None, float], bool]
    ) -> list[int]:
        """A lost message stays lost."""
        return []

    @staticmethod
    def claim(record: RunRecord, index: int, now: float, lease_seconds: float, nonce: str) -> Any:
        """A doubled message is claimed twice."""
        hold = _CLAIM(record, index, now, lease_seconds, nonce)
        if hold is not None:
            record.published[index] = now
        return hold

    @staticmethod
    def release(record: RunRecord, share: int, now: float) -> list[int]:
        """A run publishes all that it has."""
        return _RELEASE(record, 1_000, now)

    @staticmethod
    def acknowledge(record: RunRecord, place: int) -> None:
        """A repeated acknowledgement counts twice."""
        record.stream.acknowledged = 0
        _ACKNOWLEDGE(record, place)

    @staticmethod
    def hand_back(record: RunRecord, index: int, now: float, behind: int | None = None) -> None:
        """An item handed back has lost an attempt."""
        record.attempts_ended[index] += 1
        _HAND_BACK(record, index, now, behind)

    @staticmethod
    def pause_items(record: RunRecord) -> None:
        """What is published of a paused run is claimed all the same."""
        record.paused = True

    @staticmethod
    def expire(record: RunRecord, now: float) -> int:
        """An item whose worker vanished stays with it."""
        return 0

    @staticmethod
    def conclude(record: RunRecord, now: float) -> bool:
        """A run ends before its callbacks have returned."""
        record.unacknowledged = 0
        return _CONCLUDE(record, now)


_CLAIM, _RELEASE, _ACKNOWLEDGE = RunRecord.claim, RunRecord.release, RunRecord.acknowledge
_HAND_BACK, _CONCLUDE = RunRecord.hand_back, RunRecord.conclude
_FAULTS = [name for name in vars(BrokenRecord) if not name.startswith("_")]


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_ledger_that_breaks_a_promise_is_found_out(fault: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RunRecord, fault, getattr(BrokenRecord, fault))
    search = settings(
        derandomize=True, database=None, max_examples=3000, phases=[Phase.generate], deadline=None
    )
    # A run that never ends is waited for so long that another one, which has ended, expires meanwhile.
    with pytest.raises((AssertionError, RunNotFoundError)):
        run_state_machine_as_test(machine_over(lambda: LedgerHarness(MemoryBroker())), settings=search)
