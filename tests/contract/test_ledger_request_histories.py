"""Random histories of runs on request, whose submitters vanish, come back late, double or are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stagefleet.errors import LeaseLostError, StagefleetError
from stagefleet.runs.models import ErrorInfo, RunState, Submission, SubmissionKind
from stagefleet.testing import MemoryLedger, Message
from stagefleet.testing.memory_runs import MemorySweeper
from stagefleet.testing.run_record import RunRecord
from tests.contract.ledgers import LEASE_SECONDS, REQUEST, LedgerHarness, MemoryBroker, TwinMaker

KEYS = ("one", "two")
ATTEMPTS = 3
REFUSED = ErrorInfo(type="UsageError", message="no")


@dataclass
class ExpectedRun:
    """The newest run under a key; times are on the history's own clock."""

    id: str
    until: float
    state: RunState = RunState.SUBMITTING
    owner: Submission | None = None
    written: list[str] = field(default_factory=list)


class RequestHistories(RuleBasedStateMachine):
    """Workers that were asked for runs, a reaper, and a broker that nobody can rely on."""

    def __init__(self, make_harness: TwinMaker) -> None:
        super().__init__()
        self.harness = make_harness()
        self.ledger = self.harness.ledger
        self.harness.staff(4)
        self.now = 0.0
        self.runs: dict[str, ExpectedRun] = {}
        self.ended: dict[str, RunState] = {}
        self.submissions: list[tuple[str, Submission]] = []
        self.seen: list[Message] = []
        self.names = iter(range(10**6))

    def is_owner(self, key: str, submission: Submission) -> bool:
        run = self.runs[key]
        return run.owner is submission and run.state is RunState.SUBMITTING

    @rule(key=st.sampled_from(KEYS))
    def ask(self, key: str) -> None:
        """A worker has got a request, the first, a repeated or a doubled one."""
        old = self.runs.get(key)
        submission = self.harness.open_on_request(key, max_attempts=ATTEMPTS)
        is_left = old is not None and old.state is RunState.SUBMITTING and old.until <= self.now
        if old is None or old.state is RunState.FAILED or is_left:
            assert SubmissionKind.NEW is submission.kind
            assert (old is not None and old.id == submission.run_id) == is_left
            if old is not None and not is_left:
                self.ended[old.id] = old.state
            self.runs[key] = ExpectedRun(submission.run_id, self.now + LEASE_SECONDS, owner=submission)
            self.submissions.append((key, submission))
        else:
            expected = (
                SubmissionKind.SUCCEEDED if old.state is RunState.SUCCEEDED else SubmissionKind.ATTACHED
            )
            assert (expected, old.id) == (submission.kind, submission.run_id)

    @precondition(lambda self: self.submissions)
    @rule(data=st.data(), count=st.integers(0, 2))
    def append(self, data: st.DataObject, count: int) -> None:
        """A submitter writes, or renews its lease; it may be one that was taken for dead."""
        key, submission = data.draw(st.sampled_from(self.submissions))
        items = [f"i{next(self.names)}" for _ in range(count)]
        if self.is_owner(key, submission):
            self.ledger.append(submission, items)
            self.runs[key].written += items
            self.runs[key].until = self.now + LEASE_SECONDS
        else:
            with pytest.raises(LeaseLostError):
                self.ledger.append(submission, items)

    @precondition(lambda self: self.submissions)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        key, submission = data.draw(st.sampled_from(self.submissions))
        run = self.runs[key]
        if self.is_owner(key, submission):
            self.ledger.start(submission)
            run.state = RunState.RUNNING if run.written else RunState.SUCCEEDED
        elif run.owner is not submission:
            with pytest.raises(LeaseLostError):
                self.ledger.start(submission)

    @precondition(lambda self: self.submissions)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        key, submission = data.draw(st.sampled_from(self.submissions))
        self.ledger.fail(submission, REFUSED)
        if self.is_owner(key, submission):
            self.runs[key].state, self.runs[key].written = RunState.FAILED, []

    @rule()
    def deliver(self) -> None:
        message = self.harness.pop_message()
        if message is None:
            return
        self.seen.append(message)
        for key, run in list(self.runs.items()):
            if message.index == REQUEST and run.id == message.run_id:
                self.ask(key)

    @rule()
    def lose_all_messages(self) -> None:
        self.harness.drop_messages()

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def double_a_message(self, data: st.DataObject) -> None:
        message = data.draw(st.sampled_from(self.seen))
        if message.run_id in {run.id for run in self.runs.values()}:
            self.harness.push_message(message)

    @rule(seconds=st.sampled_from([4, 20, 35]))
    def pass_time(self, seconds: float) -> None:
        self.harness.advance(seconds)
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.ledger.sweep()
        for run in self.runs.values():
            found = self.ledger.run(run.id)
            if run.state is RunState.SUBMITTING and found.state is RunState.FAILED:
                assert run.until <= self.now
                assert found.error is not None
                assert "WorkerLostError" == found.error.type
                run.state, run.written = RunState.FAILED, []

    @invariant()
    def runs_stand_as_foretold(self) -> None:
        for run in self.runs.values():
            found = self.ledger.run(run.id)
            assert run.state is found.state
            assert len(run.written) == found.total
            assert run.written == [item for _, item in self.ledger.leftovers(run.id)]
        for run_id, state in self.ended.items():
            assert state is self.ledger.run(run_id).state

    def teardown(self) -> None:
        """All messages lost, all submitters dead: each run is asked for again, and starts or fails."""
        try:
            self.harness.drop_messages()
            for _ in range(2 * ATTEMPTS + 2):
                self.pass_time(LEASE_SECONDS + 1)
                self.sweep()
                while (message := self.harness.pop_message()) is not None:
                    self.answer(message)
            assert all(run.state is not RunState.SUBMITTING for run in self.runs.values())
        finally:
            self.harness.close()

    def answer(self, message: Message) -> None:
        """Do what a worker that lives does with a message."""
        found = [key for key, run in self.runs.items() if run.id == message.run_id]
        if message.index != REQUEST or not found:
            return
        self.ask(found[0])
        run = self.runs[found[0]]
        if run.owner is not None and run.state is RunState.SUBMITTING:
            self.ledger.start(run.owner)
            run.state = RunState.RUNNING if run.written else RunState.SUCCEEDED


def machine_over(make_harness: TwinMaker) -> type[RequestHistories]:
    class Made(RequestHistories):
        def __init__(self) -> None:
            super().__init__(make_harness)

    return Made


def test_any_history_of_requests_keeps_the_promises(make_harness: TwinMaker):
    run_state_machine_as_test(machine_over(make_harness))


def never_request(self: MemorySweeper, record: RunRecord, now: float) -> int:
    """A request is not published again."""
    return 0


def always_request(self: MemorySweeper, record: RunRecord, now: float) -> int:
    """A submitter that lives is taken for dead."""
    record.submitter_until = now
    return _REQUEST_AGAIN(self, record, now)


def keep_token(self: RunRecord) -> None:
    """Who was taken for dead may go on."""
    token = self.token
    _EMPTY(self)
    self.token = token


def forget_nothing(self: RunRecord) -> None:
    """What a dead submitter wrote stays."""
    items = list(self.items)
    _EMPTY(self)
    self.items.extend(items)


def fail_whoever_asks(self: MemoryLedger, submission: Submission, error: ErrorInfo) -> None:
    """A submitter that was replaced ends the run."""
    with self._runs.step():
        record = self._runs.records[submission.run_id]
        if record.state is RunState.SUBMITTING:
            record.fail(error)


_REQUEST_AGAIN, _EMPTY = MemorySweeper._request_again, RunRecord.empty
_FAULTS: list[tuple[type, str, Callable[..., object]]] = [
    (MemorySweeper, "_request_again", never_request),
    (MemorySweeper, "_request_again", always_request),
    (RunRecord, "empty", keep_token),
    (RunRecord, "empty", forget_nothing),
    (MemoryLedger, "fail", fail_whoever_asks),
]


@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault[2].__name__)
def test_a_ledger_that_breaks_a_promise_is_found_out(
    fault: tuple[type, str, Callable[..., object]], monkeypatch: pytest.MonkeyPatch
):
    owner, name, broken = fault
    monkeypatch.setattr(owner, name, broken)
    search = settings(
        derandomize=True, database=None, max_examples=1000, phases=[Phase.generate], deadline=None
    )
    with pytest.raises((AssertionError, StagefleetError, pytest.fail.Exception)):
        run_state_machine_as_test(machine_over(lambda: LedgerHarness(MemoryBroker())), settings=search)
