"""Purging a project whose primary storage is a real engine: what it keeps goes, and what is used is told."""

from __future__ import annotations

import pytest

from stagefleet.names import DockerDaemon, Repository
from stagefleet.records import ImportMetadata
from stagefleet.roles import Roles
from stagefleet.runs.model import Outcome, RunState
from stagefleet.use_policy import UsePolicy
from tests.services import ImageMaker, stage_id_of

USED, FREE = stage_id_of("used"), stage_id_of("free")
IMPORT = ImportMetadata("0f" * 32, "source", FREE, "sum")
OTHERS = ["other:latest", "werf-import-metadata/other:" + IMPORT.import_id]


@pytest.fixture
def roles(registry, push):
    for path in ("app/final", "app/cache"):
        push("free", path=path)
    final, cache = (Repository(registry.host, path) for path in ("app/final", "app/cache"))
    return Roles("app", DockerDaemon("app"), final, (cache,))


@pytest.fixture
def engine(engines, fleet):
    """The engine of the client's host with two stages, one of which runs, a record, and what is another's."""
    engine = engines["one"]
    for tag in (USED, FREE):
        engine.import_image(f"app:{tag}", labels={"werf": "app"}, content=tag.encode())
    engine.run_container(f"app:{USED}", "job-17")
    engine.import_image("other:latest", labels={"werf": "other"}, content=b"other")
    for project in ("app", "other"):
        fleet.write_record(f"docker-daemon:{project}", IMPORT)
    return engine


def purge(fleet, roles, **options):
    outcomes: list[Outcome] = []
    done = fleet.purge(roles, outcomes.append, **options)
    totals = {purged.group.name: purged.run and purged.run.state for purged in done}
    return totals, [outcome.error for outcome in outcomes if outcome.error is not None]


def test_stages_and_import_metadata_go_and_what_a_container_uses_is_told(fleet, engine, roles, registry):
    states, errors = purge(fleet, roles)

    assert {
        "stages": RunState.FAILED,
        "import-metadata": RunState.SUCCEEDED,
        "managed-images": None,
        "image-metadata": None,
        "custom-tags": None,
        "rejected-stages": None,
        "final-stages": RunState.SUCCEEDED,
    } == states
    assert ["ImageInUseError"] == [error.type for error in errors]
    assert "container job-17" in errors[0].message
    assert [f"app:{USED}", *OTHERS] == engine.tags()
    with ImageMaker(registry) as maker:
        assert [] == maker.tags("app/final") == maker.tags("app/cache")


def test_containers_go_with_their_stages_where_that_was_asked_for(fleet, engine, roles):
    states, errors = purge(fleet, roles, policy=UsePolicy(remove_containers=True, force=True))

    assert (RunState.SUCCEEDED, []) == (states["stages"], errors)
    assert (OTHERS, []) == (engine.tags(), engine.client().api.containers(all=True))
    assert 0 == len(fleet.plan_purge(DockerDaemon("app")))
