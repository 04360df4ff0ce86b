"""A callback that raises stops its run: at once, with its own exception, and the run says why."""

import pytest

from stagefleet import Fleet
from tests.integration.faults.conftest import SETTINGS
from tests.services import stage_id_of

TOTAL, PARALLEL, FIFTH = 1000, 8, 5


class NoSpaceError(Exception):
    pass


def test_an_error_at_the_fifth_outcome_of_a_thousand_stops_the_run(
    make_workers, redis_server, environment, registry, show
):
    make_workers(redis_server.url, concurrency=16, environment=environment)
    # Stages that are gone already: deleting them is the least work that a run can have.
    stages = [stage_id_of(f"gone {number}") for number in range(TOTAL)]
    called = []

    def call_back(outcome):
        called.append(outcome.item)
        if len(called) == FIFTH:
            raise NoSpaceError("the disk of the caller is full")

    with (
        Fleet.connect(redis_server.url, settings=SETTINGS) as fleet,
        pytest.raises(NoSpaceError, match="the disk of the caller is full"),
    ):
        fleet.for_each_delete_stage(
            f"{registry.host}/app", stages, call_back, parallel=PARALLEL, missing_ok=True
        )

    assert FIFTH == len(called) == len(set(called))
    with Fleet.connect(redis_server.url, settings=SETTINGS) as fleet:
        (run,) = fleet.runs()
    shown = show(run.id)
    assert ("cancelled", TOTAL) == (shown["state"], shown["total"])
    assert FIFTH <= shown["skipped"] <= FIFTH - 1 + PARALLEL
    assert TOTAL == shown["skipped"] + shown["cancelled"]
    assert {"type": "NoSpaceError", "message": "the disk of the caller is full"} == shown["error"]
