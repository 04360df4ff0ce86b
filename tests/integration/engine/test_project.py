"""A project whose primary storage is a real engine."""

from __future__ import annotations

import pytest

from stagefleet.errors import StageNotFoundError
from stagefleet.names import EngineProject, Repository
from stagefleet.project_addresses import Project
from stagefleet.storages.docker_engine import EngineHost
from tests.integration.engine.conftest import PROJECT
from tests.services import ImageMaker
from tests.stage_tasks import StageTasks


@pytest.fixture
def stage_tasks(client, connection, locks):
    return StageTasks(client, locks=locks, host=EngineHost(connection, "here", locks))


@pytest.fixture
def roles(registry):
    cache = Repository(registry.host, "app/cache")
    return Project(PROJECT, EngineProject(PROJECT), Repository(registry.host, "app/final"), (cache,))


@pytest.fixture
def build(connection, push, repository):
    """Brings a stage into the engine as a build leaves it: under the project's name alone."""

    def build_one(seed):
        stage_id, pushed = push(seed)
        name = repository.tagged(str(stage_id))
        connection.pull(name)
        connection.tag(str(name), PROJECT, str(stage_id))
        connection.remove(str(name))
        return stage_id, pushed

    return build_one


def test_a_stage_is_pushed_into_the_final_storage_and_the_caches(stage_tasks, roles, registry, build):
    stage_id, pushed = build("one")
    project = stage_tasks.project(roles)
    item_result = project.publish_stage(stage_id, run_id="r")
    again = project.publish_stage(stage_id, run_id="r")

    assert f"{roles.final}:{stage_id}" == item_result.result["name"]
    assert pushed.document["config"]["digest"] == item_result.result["image_id"]
    assert again.skipped
    assert {str(roles.caches[0]): "copied"} == project.cache_stage(stage_id, run_id="r").result["caches"]
    with ImageMaker(registry) as maker:
        assert [str(stage_id)] == maker.tags("app/final") == maker.tags("app/cache")


def test_the_engine_itself_is_asked_and_not_the_caches(stage_tasks, roles, registry, build):
    stage_id, _ = build("one")
    registry.forget_requests()
    lookup = stage_tasks.project(roles).lookup

    assert [stage_id] == list(lookup.stage_ids())
    assert f"{PROJECT}:{stage_id}" == lookup.describe(stage_id).info.name
    assert [stage_id] == [found.stage_id for found in lookup.by_digest(stage_id.digest)]
    assert [] == registry.requests()


def test_what_the_engine_lacks_is_taken_from_a_secondary(engine, stage_tasks, roles, push, repository):
    stage_id, pushed = push("one")
    project = stage_tasks.project(Project(PROJECT, roles.primary, secondaries=(repository,)))
    assert [str(stage_id)] == project.plan_take(stage_id.digest).items
    item_result = project.take_stage(stage_id, run_id="r")

    assert engine.id_of(pushed) == item_result.result["image_id"]
    assert [stage_id] == list(project.lookup.stage_ids())
    assert project.take_stage(stage_id, run_id="r").skipped


def test_an_image_is_described_by_the_engine_first_and_else_by_its_registry(
    engine, stage_tasks, roles, registry, connection, push, repository
):
    stage_id, pushed = push("one")
    lookup = stage_tasks.project(roles).lookup
    name = repository.tagged(str(stage_id))
    by_registry = lookup.image_info(name)
    connection.pull(name)
    registry.forget_requests()
    by_engine = lookup.image_info(name)

    assert [] == registry.requests()
    assert (by_registry.name, engine.id_of(pushed)) == (by_engine.name, by_engine.image_id)


def test_a_stage_that_the_engine_lacks_is_not_published(stage_tasks, roles, push):
    stage_id, _ = push("one")
    with pytest.raises(StageNotFoundError):
        stage_tasks.project(roles).publish_stage(stage_id, run_id="r")
