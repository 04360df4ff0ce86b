"""Stages taken from secondaries, of which any may be damaged or away."""

from __future__ import annotations

import pytest

from stagefleet.errors import (
    BrokenStageError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StageNotFoundError,
    UnsupportedManifestError,
)
from stagefleet.names import Repository
from stagefleet.project_addresses import Project

FIRST, SECOND = Repository("first.example", "app"), Repository("second.example", "app")
FAILURES = [
    RegistryUnavailableError("500", status=500, repository=str(FIRST)),
    RegistryUnreachableError("no answer", host=FIRST.host),
    UnsupportedManifestError("of another kind"),
    BrokenStageError("lacks a layer"),
]


@pytest.fixture
def project(fakes):
    return fakes.stage_tasks.project(Project("app", fakes.destination, secondaries=(FIRST, SECOND)))


@pytest.fixture
def fail_at(fakes, monkeypatch):
    """Makes a repository fail at each manifest."""
    fetch = fakes.registries.fetch_manifest

    def fail_at(repository, error):
        def fetch_or_fail(reference, **options):
            if reference.repository == repository:
                raise error
            return fetch(reference, **options)

        monkeypatch.setattr(fakes.registries, "fetch_manifest", fetch_or_fail)

    return fail_at


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_secondary_that_cannot_give_it_keeps_no_other_from_giving_it(fakes, project, fail_at, error):
    """x1: a damaged copy in one storage hides no sound one in another."""
    stage_id = fakes.stage(1)
    digest = fakes.registries.push(SECOND, str(stage_id))
    fail_at(FIRST, error)
    assert not project.take_stage(stage_id, run_id="r").skipped
    assert digest == fakes.registries.stored(fakes.destination).tags[str(stage_id)]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_failure_is_not_taken_for_a_stage_that_nobody_has(fakes, project, fail_at, error):
    """x1: what may pass is tried again."""
    fail_at(FIRST, error)
    with pytest.raises(type(error)):
        project.take_stage(fakes.stage(1), run_id="r")


def test_a_damaged_stage_in_the_primary_is_healed(fakes, project, fail_at):
    """x1: the copy goes over it."""
    stage_id = fakes.stage(1)
    digest = fakes.registries.push(FIRST, str(stage_id))
    fakes.registries.push(fakes.destination, str(stage_id), layers=(b"damaged",))
    fail_at(fakes.destination, RegistryUnavailableError("500", status=500))
    assert not project.take_stage(stage_id, run_id="r").skipped
    assert digest == fakes.registries.stored(fakes.destination).tags[str(stage_id)]


def test_what_nobody_has_is_not_found(fakes, project):
    with pytest.raises(StageNotFoundError, match=f"{FIRST}, {SECOND}"):
        project.take_stage(fakes.stage(1), run_id="r")
