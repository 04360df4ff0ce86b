"""Real workers, and clients of other releases."""

import pytest

from stagefleet.runs import redis_ledger
from stagefleet.runs.models import RunSpec, RunState
from stagefleet.runs.versions import SCHEMA_VERSION, WriterVersion, own_version
from tests.integration.workers.conftest import eventually

NEWER = WriterVersion("9.9.9", f"{int(SCHEMA_VERSION.split('.')[0]) + 1}.0")


@pytest.fixture
def submit_as(fleet, monkeypatch):
    """Submits a run as a client of another version does."""

    def submit(version, operation="wait", count=3):
        with monkeypatch.context() as patch:
            patch.setattr(redis_ledger, "own_version", lambda: version)
            submission = fleet.ledger.open(RunSpec(operation=operation, parallel=2))
            fleet.ledger.append(submission, [f"item-{number}" for number in range(count)])
            fleet.ledger.start(submission)
            return submission.run_id

    return submit


def outcomes_of(fleet, run):
    """The outcomes of a run that this release may not be able to read as a whole."""
    found = fleet.ledger.outcomes(run, "", limit=100, block_seconds=0)
    return found or []


def test_a_worker_fails_the_items_that_it_cannot_read_and_goes_on(fleet, workers, submit_as, redis_server):
    """O-A2, R28: each item of a newer client gets an outcome that names both versions."""
    workers.start(processes=1)
    newer = submit_as(NEWER)
    done, _ = fleet.follow(fleet.submit(4))

    assert RunState.SUCCEEDED is done.state
    name = f"stagefleet:run:{newer}"
    eventually(lambda: redis_server.client().hget(name, "state") == b"failed", "the newer run ends")
    found = outcomes_of(fleet, newer)
    assert ["item-0", "item-1", "item-2"] == sorted(outcome.item for outcome in found)
    for outcome in found:
        assert ("IncompatibleVersionError", 1) == (outcome.error.type, outcome.attempts)
        assert str(NEWER) in outcome.error.message
        assert str(own_version()) in outcome.error.message


def test_an_operation_that_a_worker_does_not_know_fails_its_items(fleet, workers, submit_as, monkeypatch):
    """O-A2: a message whose task no worker of this release has ends its item, and so its run."""
    monkeypatch.setattr(redis_ledger, "queue_of", lambda _: "wait")
    workers.start(processes=1)

    run, outcomes = fleet.follow(submit_as(WriterVersion("0.7.0", SCHEMA_VERSION), "juggle_stage"))

    assert (RunState.FAILED, 3) == (run.state, run.failed)
    for outcome in outcomes:
        assert "IncompatibleVersionError" == outcome.error.type
        assert "juggle_stage" in outcome.error.message
        assert "0.7.0" in outcome.error.message


def test_the_log_says_which_version_a_worker_runs(workers):
    """O-A2: versions stand in the log."""
    workers.start(processes=1)

    (record,) = workers.said("listening")

    assert (own_version().release, SCHEMA_VERSION) == (record["release"], record["schema"])
