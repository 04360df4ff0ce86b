"""A host that vanishes in the middle of a run."""

from __future__ import annotations

import pytest

from stagefleet.runs.models import ItemState, Outcome, RunState
from tests.integration.hosts.conftest import start_stand
from tests.services.processes import wait_until


@pytest.fixture
def stand(service_folder):
    """One of this test's own, as it loses a worker."""
    with start_stand(service_folder) as stand:
        yield stand


def test_a_host_that_vanishes_fails_its_items_and_no_others(fleet, engines, workers, registry, push):
    image = push("a")
    engines["two"].pause()  # nothing of it is finished before it is lost
    try:
        run = fleet.for_each_fetch_stage(
            f"{registry.host}/stages/app", [image.tag], all_hosts=True, detach=True
        )
        wait_until(lambda: fleet.run(run.id).claimed == 1 and fleet.run(run.id).succeeded == 1, "it starts")
        workers["two"].kill_command()
        outcomes: dict[str | None, Outcome] = {}
        ended = fleet.wait(run.id, lambda outcome: outcomes.setdefault(outcome.host, outcome))
    finally:
        engines["two"].resume()
    assert (RunState.FAILED, 1, 1) == (ended.state, ended.succeeded, ended.failed)
    lost = outcomes["two"].error
    assert lost is not None
    assert "HostLostError" == lost.type
    assert ItemState.SUCCEEDED is outcomes["one"].state
