"""The task that deletes a stage which the source of a mirror no longer has."""

from __future__ import annotations

import pytest

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.errors import ForbiddenError, RegistryUnavailableError
from stagefleet.leases import NO_LEASE
from tasks.delete import prune_stage


@pytest.fixture
def prune(fakes):
    """The stage is in the destination, and goes unless the source has it."""
    stage_id = fakes.stage(1)
    fakes.registries.push(fakes.destination, str(stage_id))
    options = {"repository": str(fakes.destination), "source": str(fakes.source)}

    def run():
        attempt = Attempt("r", str(stage_id), options, to_delete=lambda: [str(stage_id)])
        return prune_stage(fakes.stage_tasks.storages, attempt)

    return run


def test_what_the_source_lacks_is_deleted(fakes, prune):
    assert ItemResult() == prune()
    assert set() == fakes.tags(fakes.destination)


def test_what_the_source_has_stays(fakes, prune):
    fakes.registries.push(fakes.source, str(fakes.stage(1)))
    assert prune().skipped
    assert {str(fakes.stage(1))} == fakes.tags(fakes.destination)


def test_what_the_source_rejects_is_deleted(fakes, prune):
    fakes.registries.push(fakes.source, str(fakes.stage(1)))
    fakes.stage_tasks.storages.open(fakes.source).reject(fakes.stage(1), project="app", lease=NO_LEASE)
    assert ItemResult() == prune()


@pytest.mark.parametrize(
    "error",
    [RegistryUnavailableError("503", status=503), ForbiddenError("denied", status=403)],
    ids=lambda error: type(error).__name__,
)
def test_a_source_that_does_not_answer_keeps_the_stage(fakes, prune, error):
    def fail(_verb, _name):
        raise error

    fakes.registries.on_request = fail
    with pytest.raises(type(error)):
        prune()
    assert {str(fakes.stage(1))} == fakes.tags(fakes.destination)
