"""Runs, their specs and outcomes as values."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from stagefleet.errors import DigestMismatchError, RemoteError
from stagefleet.runs.ledger import Claim
from stagefleet.runs.models import Callback, ErrorInfo, ItemState, Outcome, Run, RunSpec, RunState

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(st.text(max_size=8), json_values, max_size=3)
problems = st.builds(ErrorInfo, type=st.text(max_size=8), message=st.text(max_size=8))
outcomes = st.builds(
    Outcome,
    item=st.text(max_size=8),
    host=st.none() | st.text(max_size=8),
    state=st.sampled_from(ItemState),
    result=st.none() | json_objects,
    error=st.none() | problems,
    seconds=st.floats(0, 1e6),
    bytes=st.integers(0, 2**60),
    attempts=st.integers(0, 100),
    position=st.text(max_size=8),
)
specs = st.builds(
    RunSpec,
    operation=st.text(min_size=1, max_size=8),
    options=json_objects,
    parallel=st.integers(1, 1000),
    callback=st.sampled_from(Callback),
    key=st.none() | st.text(max_size=8),
    fingerprint=st.text(max_size=8),
    parent=st.none() | st.text(max_size=8),
    max_attempts=st.integers(1, 100),
)


@given(outcomes)
def test_an_outcome_comes_back_from_json_as_it_was(outcome: Outcome):
    assert outcome == Outcome.model_validate_json(outcome.model_dump_json())


@given(specs)
def test_an_order_comes_back_from_json_as_it_was(spec: RunSpec):
    assert spec == RunSpec.model_validate_json(spec.model_dump_json())


def test_an_outcome_shows_what_the_command_line_promises():
    outcome = Outcome(
        item="a",
        state=ItemState.FAILED,
        error=ErrorInfo(type="KeyError", message="no"),
        seconds=1.5,
        bytes=7,
        attempts=2,
        position="1-1",
    )

    assert {
        "item": "a",
        "host": None,
        "state": "failed",
        "result": None,
        "error": {"type": "KeyError", "message": "no"},
        "seconds": 1.5,
        "bytes": 7,
        "attempts": 2,
    } == outcome.as_json()


def test_the_states_of_an_item_are_those_that_the_command_line_promises():
    assert ["planned", "succeeded", "failed", "skipped", "cancelled"] == list(ItemState)


def test_three_states_of_a_run_are_final():
    assert [RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED] == [
        state for state in RunState if state.is_final
    ]


class TestRun:
    RUN = Run(
        id="r",
        spec=RunSpec(operation="copy_stage"),
        state=RunState.RUNNING,
        total=10,
        succeeded=1,
        failed=2,
        skipped=3,
        cancelled=1,
        created_at=100.0,
        now_at=107.0,
    )

    def test_a_live_one_has_taken_the_time_until_now(self):
        assert 7.0 == self.RUN.seconds

    def test_an_ended_one_took_the_time_until_its_end(self):
        ended = Run(
            id="r",
            spec=self.RUN.spec,
            state=RunState.SUCCEEDED,
            created_at=100.0,
            finished_at=103.0,
            now_at=900.0,
        )
        assert 3.0 == ended.seconds

    def test_done_is_what_needs_nothing_more(self):
        assert 7 == self.RUN.done

    def test_its_summary_is_what_the_command_line_promises(self):
        assert {
            "run": "r",
            "state": "running",
            "total": 10,
            "succeeded": 1,
            "failed": 2,
            "skipped": 3,
            "cancelled": 1,
            "seconds": 7.0,
        } == self.RUN.summary()

    def test_a_run_that_never_was_has_no_id_in_its_summary(self):
        assert None is Run(id="", spec=self.RUN.spec, state=RunState.SUCCEEDED).summary()["run"]


class TestErrorInfo:
    def test_it_tells_class_and_message(self):
        assert ErrorInfo(type="DigestMismatchError", message="m") == ErrorInfo.of(DigestMismatchError("m"))

    def test_an_error_without_words_is_told_by_its_class(self):
        assert ErrorInfo(type="ValueError", message="ValueError") == ErrorInfo.of(ValueError())

    @given(problems)
    def test_it_survives_the_way_there_and_back(self, problem: ErrorInfo):
        error = problem.as_exception()

        assert isinstance(error, RemoteError)
        assert problem.type == error.type_name
        if problem.message:
            assert problem == ErrorInfo.of(error)


def test_wire_values_ignore_what_a_later_release_added():
    """R28: a field that this release does not know changes nothing."""
    assert RunSpec(operation="copy_stage") == RunSpec.model_validate(
        {"operation": "copy_stage", "colour": "blue"}
    )
    assert Outcome(item="a", state=ItemState.SUCCEEDED) == Outcome.model_validate(
        {"item": "a", "state": "succeeded", "colour": "blue"}
    )
    with pytest.raises(ValidationError):
        Outcome.model_validate({"item": "a", "state": "done"})


def test_what_an_ordinary_run_says_is_what_the_first_release_reads():
    """A release from before schema versions refuses a run with fields that it does not know."""
    known = {
        *("operation", "options", "parallel", "callback", "callback_target", "finish_url", "key"),
        *("fingerprint", "parent", "max_attempts"),
    }
    assert known == set(RunSpec(operation="copy_stage").model_dump())


def test_wire_values_are_immutable():
    outcome = Outcome(item="a", state=ItemState.SUCCEEDED)
    with pytest.raises(ValidationError):
        outcome.attempts = 3


def test_a_claim_counts_from_before_it_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    claim = Claim(run_id="r", index=0, item="a", fence=1, attempt=1, claimed_at=100.0, lease_until=130.0)
    monkeypatch.setattr(time, "monotonic", lambda: 112.0)

    assert 12.0 == claim.seconds
