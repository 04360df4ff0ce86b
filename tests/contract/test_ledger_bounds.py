"""What `Workbench` and `Submitter` promise of outcomes that are too large, or cannot be written at all."""

from __future__ import annotations

import pytest

from stagefleet.bounds import OUTCOME_BYTES
from stagefleet.runs.model import ErrorInfo, ItemState, Order, Outcome
from stagefleet.runs.wire import encode_outcome
from tests.contract.twins import Twin

RESULT = {
    "stage_id": "stage",
    "image_id": "sha256:1",
    "labels": {"junk": "x" * 6_000_000, "werf": "app"},
    "env": ["A=1"],
    "size": 7,
}
UNWRITABLE = {"labels": {"a": "\ud800"}}


def outcomes(twin: Twin, run: str) -> list[Outcome]:
    return twin.ledger.outcomes(run, "", limit=10, block_seconds=0) or []


def test_a_large_outcome_is_cut_and_stays_usable(twin: Twin) -> None:
    """R18: labels of megabytes do not go into the ledger; what the stage is stays."""
    run = twin.submit(["a"])
    claim = twin.take()
    twin.ledger.finish(claim, Outcome(item="a", state=ItemState.SUCCEEDED, result=RESULT, bytes=9))
    (kept,) = outcomes(twin, run)
    assert kept.result is not None
    assert (True, "app", ["A=1"]) == (
        kept.result["truncated"],
        kept.result["labels"]["werf"],
        kept.result["env"],
    )
    assert {key: RESULT[key] for key in ("stage_id", "image_id", "size")}.items() <= kept.result.items()
    assert len(kept.model_dump_json()) < OUTCOME_BYTES + 200
    assert 9 == kept.bytes


def test_a_large_error_is_cut(twin: Twin) -> None:
    """R18: whatever a registry, an engine or a bug says."""
    run = twin.submit(["a"])
    error = ErrorInfo(type="SomeError" * 1000, message="because " * 1_000_000)
    twin.ledger.finish(twin.take(), Outcome(item="a", state=ItemState.FAILED, error=error))
    (kept,) = outcomes(twin, run)
    assert kept.error is not None
    assert kept.error.message.startswith("because because")
    assert len(kept.model_dump_json()) < OUTCOME_BYTES


def test_an_outcome_without_a_task_is_cut_too(twin: Twin) -> None:
    """R18: what is appended as decided goes the same way."""
    submission = twin.ledger.open(Order(operation="copy_stage"))
    twin.ledger.append(submission, [], [Outcome(item="a", state=ItemState.SKIPPED, result=RESULT)])
    twin.ledger.start(submission)
    (kept,) = outcomes(twin, submission.run)
    assert kept.result is not None
    assert True is kept.result["truncated"]


def test_an_outcome_that_cannot_be_written_changes_nothing(twin: Twin) -> None:
    """R11: the claim stays whole, so that a failure can be recorded instead."""
    run = twin.submit(["a"])
    claim = twin.take()
    with pytest.raises(ValueError, match="surrogates"):
        twin.ledger.finish(claim, Outcome(item="a", state=ItemState.SUCCEEDED, result=UNWRITABLE))
    assert 1 == twin.ledger.run(run).claimed
    assert twin.ledger.finish(claim, Outcome(item="a", state=ItemState.FAILED))


def test_what_is_kept_in_redis_is_bounded() -> None:
    """R18: also where it does not compress."""
    labels = {str(number): f"{number:x}" * 50 for number in range(50_000)}
    outcome = Outcome(item="a", state=ItemState.SUCCEEDED, result={"labels": labels})
    assert len(encode_outcome(outcome)) <= OUTCOME_BYTES
