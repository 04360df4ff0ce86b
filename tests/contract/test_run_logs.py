"""The end of a run is logged once, by whoever ended it, with its counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stagefleet.runs.models import ItemState
from tests.contract.ledgers import LEASE_SECONDS, LedgerHarness, RedisBroker, outcome_of, skip_of

COPY = {"source": "a.test/app", "destination": "b.test/app"}

Ends = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def harness(redis_server: Any) -> Iterator[LedgerHarness]:
    broker = RedisBroker(redis_server.url)
    yield LedgerHarness(broker)
    broker.close()


@pytest.fixture
def ends(caplog: pytest.LogCaptureFixture) -> Ends:
    """Give the facts of the ends that were logged so far."""
    caplog.set_level(logging.INFO, "stagefleet")

    def ends() -> list[dict[str, Any]]:
        facts = [getattr(record, "facts", {}) for record in caplog.records]
        return [fact for fact in facts if fact.get("event") == "run_finished"]

    return ends


def test_the_worker_of_the_last_item_logs_the_end(harness: LedgerHarness, ends: Ends):
    run_id = harness.submit(["a", "b"], [skip_of("c")], operation="copy_stage", options=COPY)
    harness.succeed(harness.take())
    assert [] == ends()
    harness.fail(harness.take())

    (end,) = ends()
    assert 0 <= end.pop("seconds")
    assert end == {
        "event": "run_finished",
        "action": "finish",
        "run": run_id,
        "operation": "copy_stage",
        **COPY,
        "state": "failed",
        "total": 3,
        "succeeded": 1,
        "failed": 1,
        "skipped": 1,
        "cancelled": 0,
        "bytes": 0,
    }


def test_a_retry_is_no_end(harness: LedgerHarness, ends: Ends):
    harness.submit(["a"])
    harness.fail(harness.take(), retry_after_seconds=5)
    assert [] == ends()


def test_an_answer_that_comes_again_is_no_second_end(harness: LedgerHarness, ends: Ends):
    harness.submit(["a"])
    claim = harness.take()
    harness.succeed(claim)
    harness.succeed(claim)
    assert 1 == len(ends())


def test_the_client_logs_the_end_of_a_run_without_tasks(harness: LedgerHarness, ends: Ends):
    run_id = harness.submit([], [skip_of("a")])
    assert [("start", run_id)] == [(end["action"], end["run"]) for end in ends()]


def test_the_client_whose_callback_returns_last_logs_the_end(harness: LedgerHarness, ends: Ends):
    run_id, epoch = harness.watch(["a"])
    harness.succeed(harness.take())
    assert [] == ends()
    harness.ledger.acknowledge(run_id, epoch, harness.outcomes(run_id) or [])
    assert ["acknowledge"] == [end["action"] for end in ends()]


def test_who_cancels_logs_the_end(harness: LedgerHarness, ends: Ends):
    run_id = harness.submit(["a", "b"])
    harness.ledger.cancel(run_id)
    assert [("cancel", "cancelled", 2)] == [(end["action"], end["state"], end["cancelled"]) for end in ends()]


def test_the_worker_that_hands_back_the_last_item_of_a_cancelled_run_logs_the_end(
    harness: LedgerHarness, ends: Ends
):
    run_id = harness.submit(["a"])
    claim = harness.take()
    harness.ledger.cancel(run_id)
    assert [] == ends()
    harness.ledger.hand_back(claim)
    assert ["hand_back"] == [end["action"] for end in ends()]


def test_the_reaper_logs_the_end_of_a_run_whose_client_vanished(harness: LedgerHarness, ends: Ends):
    harness.watch(["a"])
    harness.drop_messages()
    harness.advance(2 * LEASE_SECONDS)
    harness.ledger.sweep()

    (end,) = ends()
    assert ("sweep", "cancelled", "CoordinatorLostError") == (end["action"], end["state"], end["error_type"])


def test_an_end_that_cannot_be_read_back_costs_nothing(
    harness: LedgerHarness, ends: Ends, monkeypatch, caplog
):
    run_id = harness.submit(["a"])
    claim = harness.take()
    with monkeypatch.context() as patch:
        patch.setattr(
            harness.ledger, "run", lambda run: harness.ledger.__class__.run(harness.ledger, "nowhere")
        )
        assert harness.ledger.finish(claim, outcome_of(claim, ItemState.SUCCEEDED))

    assert "succeeded" == harness.ledger.run(run_id).state
    assert [] == ends()
    assert "run_end_not_logged" in caplog.text
