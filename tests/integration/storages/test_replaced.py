"""Nothing is told of a stage that was true before something else was put under its name."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from stagefleet.connections import Connections
from stagefleet.images import Platform
from stagefleet.names import Repository, StageId
from stagefleet.project_addresses import Project
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.models import RejectedStage
from stagefleet.redis_client import connect_redis
from stagefleet.settings import Settings
from stagefleet.shared_state.implementations import MemorySharedState
from stagefleet.shared_state.remembered_stages import RememberedStages
from tests.services import ImageMaker
from tests.stage_tasks import StageTasks

STAGE = StageId("a" * 56, 1_700_000_000_000)
INDEX = StageId("b" * 56)


@pytest.fixture
def join(client, redis_server):
    """Lets another process join the fleet; what they have in common is Redis."""
    connections = []

    def make():
        connections.append(connect_redis(redis_server.url))
        return StageTasks(client, MemorySharedState(), RememberedStages.on(connections[-1], Settings()))

    yield make
    for connection in connections:
        connection.close()


@pytest.fixture
def roles(registry):
    primary, final, cache = (Repository(registry.host, name) for name in ("primary", "final", "cache"))
    return Project("app", primary, final, caches=(cache,))


@pytest.fixture
def push(registry):
    """Pushes something under a stage's name; returns its digest."""

    def push(repository, layer, stage_id=STAGE):
        with ImageMaker(registry) as maker:
            return maker.push_image(repository.path, str(stage_id), layers=[layer]).digest

    return push


@pytest.fixture
def push_index(registry):
    """Pushes an index, as builders do anew at each build."""

    def push_index(repository, *layers):
        with ImageMaker(registry) as maker:
            members = [maker.push_image(repository.path, None, layers=[layer]) for layer in layers]
            return maker.push_index(repository.path, str(INDEX), members).digest

    return push_index


def told(stage_tasks, repository, stage_id=STAGE):
    """The digest that the fleet tells of a stage, to who asks for one and to who lists all."""
    described = stage_tasks.describe_stage(repository, stage_id)
    (known,) = stage_tasks.storages.open(repository).known([stage_id])
    assert known is None or known == described
    return described.info.repo_digest.partition("@")[2]


@pytest.mark.parametrize("verify", [True, False])
def test_a_copy_onto_a_stage_that_is_there(join, roles, push, verify):
    """R31: what the whole fleet knew of it is replaced."""
    ours, theirs = join(), join()
    push(roles.final, b"old")
    told(theirs, roles.final)
    digest = push(roles.primary, b"new")
    ours.copy_stage(roles.primary, roles.final, STAGE, run_id="r", verify=verify)
    assert [digest, digest] == [told(stage_tasks, roles.final) for stage_tasks in (ours, theirs)]


def test_a_copy_whose_worker_died_before_it_could_tell(join, roles, push):
    """R31: the next attempt finds the stage there, and what is known of it wrong."""
    stage_tasks = join()
    push(roles.final, b"old")
    told(stage_tasks, roles.final)
    digest = push(roles.primary, b"new")
    assert digest == push(roles.final, b"new")
    assert stage_tasks.copy_stage(roles.primary, roles.final, STAGE, run_id="r", verify=True).skipped
    assert digest == told(stage_tasks, roles.final)


def test_a_stage_that_was_deleted_and_copied_again(join, roles, push):
    """R31: also by somebody who looked at it in between."""
    ours, theirs = join(), join()
    push(roles.final, b"old")
    before = theirs.describe_stage(roles.final, STAGE)
    ours.delete_stage(roles.final, STAGE, run_id="r", to_delete=lambda: [str(STAGE)])
    theirs.storages.registries.remembered.descriptions.remember(str(roles.final), [before])
    digest = push(roles.primary, b"new")
    ours.copy_stage(roles.primary, roles.final, STAGE, run_id="s")
    theirs.storages.registries.remembered.descriptions.remember(str(roles.final), [before])
    assert digest == told(theirs, roles.final)


def test_an_index_that_a_builder_put_anew(join, roles, push_index):
    """R31: the tag of a multi-platform stage may move at any time; it is asked for in one request."""
    stage_tasks = join()
    push_index(roles.primary, b"amd64", b"arm64")
    told(stage_tasks, roles.primary, INDEX)
    digest = push_index(roles.primary, b"amd64", b"arm64", b"riscv64")
    assert digest == told(stage_tasks, roles.primary, INDEX)


def test_an_index_in_a_cache_that_stood_in_the_primary_before(join, roles, push_index):
    """R31: no cache answers for the primary what may have changed there."""
    lookup = join().project(roles).lookup
    push_index(roles.caches[0], b"old")
    digest = push_index(roles.primary, b"new")
    assert f"{roles.primary}@{digest}" == lookup.describe(INDEX).info.repo_digest


def test_an_index_published_anew(join, roles, registry, redis_server, push, push_index):
    """R31: what publish-index puts is told at once."""
    stage_tasks = join()
    push_index(roles.primary, b"old")
    told(stage_tasks, roles.primary, INDEX)
    stage_tasks.delete_stage(roles.primary, INDEX, run_id="r", to_delete=lambda: [str(INDEX)])
    push(roles.primary, b"image")
    connections = Connections(redis_server.url, Settings())
    try:
        images = {Platform("linux", "amd64"): roles.primary.tagged(str(STAGE))}
        published = connections.storages.publish_index(roles.primary, INDEX, images)
    finally:
        connections.close()
    assert published["repo_digest"].endswith(told(stage_tasks, roles.primary, INDEX))


def test_a_final_stage_that_somebody_replaced(join, roles, push):
    """R31: what is deployed is asked for, whatever was remembered of it."""
    stage_tasks = join()
    project = stage_tasks.project(replace(roles, caches=()))
    push(roles.primary, b"stage")
    push(roles.final, b"old")
    told(stage_tasks, roles.final)
    digest = push(roles.final, b"new")
    item_result = project.publish_stage(STAGE, run_id=uuid4().hex, should_be_built=True)
    assert (True, f"{roles.final}@{digest}") == (item_result.skipped, item_result.result["repo_digest"])


def test_a_stage_whose_rejection_was_withdrawn_is_on_the_known_list_again(join, roles, push):
    """R31: who answers from the last known list finds it."""
    stage_tasks = join()
    lookup = stage_tasks.project(roles).lookup
    other = StageId(STAGE.digest, STAGE.created_ms + 1)
    push(roles.primary, b"stage")
    push(roles.primary, b"other", other)
    lookup.stage_ids()
    stage_tasks.records.write(roles.primary, "app", RejectedStage(STAGE))
    assert [other] == list(lookup.last_stage_ids())
    record = RecordId.of(RecordKind.REJECTED_STAGE, str(STAGE))
    stage_tasks.records.delete(roles.primary, record, run_id="r", to_delete=lambda: [record.tag])
    assert [STAGE, other] == sorted(lookup.last_stage_ids())


def test_what_others_put_in_place_of_one_image_is_not_seen(join, roles, push):
    """R31: the limit: a stage's name means one image, and who does not keep to that tells nobody."""
    stage_tasks = join()
    digest = push(roles.primary, b"old")
    told(stage_tasks, roles.primary)
    push(roles.primary, b"new")
    assert digest == told(stage_tasks, roles.primary)
