"""Redis forgets the effect of any script, or of any of the last ones, at every step of a run's life.

Whatever it forgets, and whenever: each run ends within a bounded number of turns, with every item accounted
for, or says that it does not; what a client is told of as succeeded has been done, and called back for.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from stagefleet.errors import StagefleetError
from stagefleet.fleet import submission
from stagefleet.fleet.callbacks import RemoteCallback
from stagefleet.runs import coordinator
from stagefleet.runs.models import Outcome, Run, RunState
from tests.contract.forgetful import Fleet, Work, WorkerKilledError
from tests.contract.ledgers import LedgerHarness, TwinMaker, request_under

WORK = Work(items=tuple("abcdefg"), skipped=("s", "t"), fails={"b": 1, "e": 2})
DETACHED = RemoteCallback(outcome_url="http://receiver.example", finish_url="http://receiver.example/end")
MODES = ["watched", "called back", "keyed", "raising", "cancelled", "detached", "requested"]
Forgets = Mapping[int, int]


class CallbackError(Exception):
    """What a callback raises."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sleeps, each outcome is acknowledged by itself, and a run is appended in several calls."""
    monkeypatch.setattr(coordinator, "_GATHER_SECONDS", 0)
    monkeypatch.setattr(coordinator, "_ACKNOWLEDGE_SECONDS", 0)
    monkeypatch.setattr(submission, "_ITEMS_A_CALL", 2)


class Story:
    """One run's life in one mode, and what became of it."""

    def __init__(self, harness: LedgerHarness, mode: str, forgets: Forgets, seed: int) -> None:
        self.fleet = Fleet(harness, forgets, random.Random(seed), WORK)
        self.mode = mode
        self.called: Counter[str] = Counter()
        self.ended: Run | None = None
        self.problem: BaseException | None = None
        arguments: dict[str, dict[str, Any]] = {
            "watched": {},
            "called back": {"on_outcome": self.call_back},
            "keyed": {"on_outcome": self.call_back, "idempotency_key": "nightly"},
            "raising": {"on_outcome": self.raise_at_the_fourth},
            "cancelled": {"on_outcome": self.cancel_at_the_fourth},
            "detached": {"on_outcome": DETACHED, "detach": True},
            "requested": {
                "on_outcome": DETACHED,
                "detach": True,
                "idempotency_key": "nightly",
                "request": request_under("nightly"),
            },
        }
        self._steps = 1 + seed % 9
        self._arguments = arguments[mode]

    def live(self) -> None:
        try:
            if self.mode == "requested":
                self.ended = self.fleet.request(self._steps, **self._arguments)
            else:
                self.ended = self.fleet.run(**self._arguments)
        except (StagefleetError, CallbackError, WorkerKilledError) as problem:
            self.problem = problem
        self.runs = self.fleet.settle()

    def call_back(self, outcome: Outcome) -> None:
        self.called[outcome.item] += 1

    def raise_at_the_fourth(self, outcome: Outcome) -> None:
        self.call_back(outcome)
        if self.called.total() == 4:
            raise CallbackError

    def cancel_at_the_fourth(self, outcome: Outcome) -> None:
        self.call_back(outcome)
        if self.called.total() == 4:
            for run in self.fleet.runs():
                self.fleet.client.cancel(run.id)

    def check(self) -> None:
        """What holds of every story, however often something was forgotten."""
        executed, rollbacks = self.fleet.executed, self.fleet.ledger.rollbacks
        for run in self.runs:
            is_left = self.mode != "requested" and run.state is RunState.SUBMITTING and run.spec.key
            assert run.state.is_final or is_left, run
            assert run.total == run.done or run.error is not None, run
            if run.state is RunState.SUCCEEDED:
                self.check_success(run)
        assert self.ended is not None or self.problem is not None
        if self.ended is not None and self.ended.state is RunState.SUCCEEDED:
            self.check_success(self.ended)
        if self.mode == "raising":
            assert isinstance(self.problem, CallbackError)
        assert max(executed.values(), default=0) <= 1 + rollbacks, executed
        # A loss that reaches behind an earlier one revives the run of then: it is followed until it proves
        # to be lost, and submitted again. A coordination that was forgotten calls once before it notices,
        # and the next one once more.
        assert max(self.called.values(), default=0) <= 1 + 2 * rollbacks, self.called
        assert max(self.fleet.receiver.called.values(), default=0) <= 1 + 2 * rollbacks

    def check_success(self, run: Run) -> None:
        """A success is one: everything was done, and called back for."""
        everything = {*WORK.items, *WORK.skipped}
        assert len(everything) == run.total == run.succeeded + run.skipped, run
        assert set(WORK.items) == set(+self.fleet.executed)
        if self.mode in {"detached", "requested"}:
            assert everything == set(self.fleet.receiver.called)
            assert self.fleet.receiver.ends >= 1
        elif self.mode != "watched":
            assert everything == set(self.called)


@pytest.fixture
def tell(make_harness: TwinMaker, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tells one story and checks it."""

    def tell(mode: str, forgets: Forgets, seed: int = 0) -> Story:
        harness = make_harness()
        story = Story(harness, mode, forgets, seed)
        monkeypatch.setattr(submission, "sleep", lambda _: story.fleet.wait())
        try:
            story.live()
            story.check()
        finally:
            harness.close()
        return story

    return tell


@pytest.fixture
def thoroughness(request: pytest.FixtureRequest) -> tuple[int, int]:
    """How many steps there are between two that are tried, and how many stories are drawn."""
    assert settings.default is not None
    examples = settings.default.max_examples  # of the profile; `make faults` has another
    is_quick, is_redis = examples < 100, "redis" in request.node.name
    return (40 if is_redis else 5) if is_quick else 1, examples // (4 if is_redis else 1)


@pytest.mark.parametrize("mode", ["watched", "called back", "keyed", "detached"])
def test_nothing_is_done_twice_while_nothing_is_forgotten(tell: Any, mode: str):
    """R3, R4: the story as it goes on a ledger that keeps what it confirms."""
    story = tell(mode, {})
    assert story.problem is None
    assert [RunState.SUCCEEDED] == [run.state for run in story.runs]


@pytest.mark.parametrize("mode", MODES)
def test_one_write_that_is_forgotten_stops_nobody(tell: Any, mode: str, thoroughness: tuple[int, int]):
    """R3, R4, R20: at every step of a run's life; the client gets what it asked for all the same."""
    steps = len(tell(mode, {}).fleet.ledger.steps)
    for step in range(1, steps + 1, thoroughness[0]):
        story = tell(mode, {step: 1})
        states = {str(run.state) for run in story.runs}
        if mode == "raising":
            assert {"cancelled"} == states, step
        elif mode == "requested":
            assert states <= {"succeeded"}, step  # none where the first writes were forgotten
        else:
            assert story.problem is None, (step, story.problem)
            assert states <= {"succeeded", "cancelled" if mode == "cancelled" else "succeeded"}, step


@pytest.mark.parametrize("steps", range(10))
def test_a_run_on_request_is_started_once_wherever_its_worker_is_killed(tell: Any, steps: int):
    story = tell("requested", {}, steps)
    assert [RunState.SUCCEEDED] == [run.state for run in story.runs]


def test_whatever_is_forgotten_each_run_ends_and_no_success_is_false(
    tell: Any, thoroughness: tuple[int, int]
):
    """R3, R4, R20, R23: any of the last writes, several times, at any step."""

    @settings(max_examples=thoroughness[1])
    @given(
        mode=st.sampled_from(MODES),
        forgets=st.dictionaries(
            st.integers(1, 120), st.sampled_from([1, 2, 3, 5, 10, 30, 100]), min_size=1, max_size=4
        ),
        seed=st.integers(0, 10**6),
    )
    @example(mode="called back", forgets={33: 30, 54: 30}, seed=3)  # the second loss reaches behind the first
    def any_story(mode: str, forgets: Forgets, seed: int) -> None:
        tell(mode, forgets, seed)

    any_story()
