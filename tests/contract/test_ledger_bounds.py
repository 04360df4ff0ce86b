"""What `WorkerLedger` and `SubmitterLedger` promise of outcomes that are too large, or cannot be written at
all."""

from __future__ import annotations

import pytest

from stagefleet.bounds import OUTCOME_BYTES
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, RunSpec
from stagefleet.runs.snapshots import encode_outcome
from tests.contract.ledgers import LedgerHarness

RESULT = {
    "stage_id": "stage",
    "image_id": "sha256:1",
    "labels": {"junk": "x" * 6_000_000, "werf": "app"},
    "env": ["A=1"],
    "size": 7,
}
UNWRITABLE = {"labels": {"a": "\ud800"}}


def outcomes(harness: LedgerHarness, run_id: str) -> list[Outcome]:
    return harness.ledger.outcomes(run_id, "", limit=10, block_seconds=0) or []


def test_a_large_outcome_is_cut_and_stays_usable(harness: LedgerHarness) -> None:
    """R18: labels of megabytes do not go into the ledger; what the stage is stays."""
    run_id = harness.submit(["a"])
    claim = harness.take()
    harness.ledger.finish(claim, Outcome(item="a", state=ItemState.SUCCEEDED, result=RESULT, bytes=9))
    (kept,) = outcomes(harness, run_id)
    assert kept.result is not None
    assert (True, "app", ["A=1"]) == (
        kept.result["truncated"],
        kept.result["labels"]["werf"],
        kept.result["env"],
    )
    assert {key: RESULT[key] for key in ("stage_id", "image_id", "size")}.items() <= kept.result.items()
    assert len(kept.model_dump_json()) < OUTCOME_BYTES + 200
    assert 9 == kept.bytes


def test_a_large_error_is_cut(harness: LedgerHarness) -> None:
    """R18: whatever a registry, an engine or a bug says."""
    run_id = harness.submit(["a"])
    error = ErrorInfo(type="SomeError" * 1000, message="because " * 1_000_000)
    harness.ledger.finish(harness.take(), Outcome(item="a", state=ItemState.FAILED, error=error))
    (kept,) = outcomes(harness, run_id)
    assert kept.error is not None
    assert kept.error.message.startswith("because because")
    assert len(kept.model_dump_json()) < OUTCOME_BYTES


def test_an_outcome_without_a_task_is_cut_too(harness: LedgerHarness) -> None:
    """R18: what is appended as decided goes the same way."""
    submission = harness.ledger.open(RunSpec(operation="copy_stage"))
    harness.ledger.append(submission, [], [Outcome(item="a", state=ItemState.SKIPPED, result=RESULT)])
    harness.ledger.start(submission)
    (kept,) = outcomes(harness, submission.run_id)
    assert kept.result is not None
    assert True is kept.result["truncated"]


def test_an_outcome_that_cannot_be_written_changes_nothing(harness: LedgerHarness) -> None:
    """R11: the claim stays whole, so that a failure can be recorded instead."""
    run_id = harness.submit(["a"])
    claim = harness.take()
    with pytest.raises(ValueError, match="surrogates"):
        harness.ledger.finish(claim, Outcome(item="a", state=ItemState.SUCCEEDED, result=UNWRITABLE))
    assert 1 == harness.ledger.run(run_id).claimed
    assert harness.ledger.finish(claim, Outcome(item="a", state=ItemState.FAILED))


def test_what_is_kept_in_redis_is_bounded() -> None:
    """R18: also where it does not compress."""
    labels = {str(number): f"{number:x}" * 50 for number in range(50_000)}
    outcome = Outcome(item="a", state=ItemState.SUCCEEDED, result={"labels": labels})
    assert len(encode_outcome(outcome)) <= OUTCOME_BYTES
