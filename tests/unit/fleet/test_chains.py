"""Chains of runs: each starts when the one before has ended as it has to."""

from __future__ import annotations

import pytest

from stagefleet.errors import ForbiddenError
from stagefleet.fleet.chains import RunChains
from stagefleet.operations.base import Plan
from stagefleet.redis_client import OUTAGE_SECONDS, RedisRetry
from stagefleet.runs.models import RunSpec, RunState
from stagefleet.testing import in_memory_fleet

DONE, FAILED, CANCELLED = RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED


@pytest.fixture
def fleet():
    with in_memory_fleet() as fleet:
        yield fleet


def start(fleet, **options):
    chains = RunChains(fleet._connections, print, RedisRetry(OUTAGE_SECONDS))
    runs = [(RunSpec(operation="noop"), Plan((item,))) for item in ("a", "b", "c")]
    return chains.start(runs, **options)


@pytest.mark.parametrize(
    ("failing", "if_succeeded", "states"),
    [
        (None, False, [DONE, DONE, DONE]),
        (None, True, [DONE, DONE, DONE]),
        ("a", False, [FAILED, DONE, DONE]),
        ("a", True, [FAILED, CANCELLED, CANCELLED]),
        ("b", True, [DONE, FAILED, CANCELLED]),
    ],
)
def test_a_run_starts_when_the_one_before_has_ended_as_it_has_to(fleet, failing, if_succeeded, states):
    if failing is not None:
        fleet.worker.fail(failing, ForbiddenError("denied"))
    runs = start(fleet, if_succeeded=if_succeeded)
    assert states == [fleet.wait(run).state for run in runs]


def test_the_cancellation_of_a_run_cancels_those_after_it(fleet):
    runs = start(fleet)
    fleet.cancel(runs[0].id)
    assert [CANCELLED] * 3 == [fleet.wait(run).state for run in runs]
