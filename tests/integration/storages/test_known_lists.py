"""The last known tag list of a whole fleet: who answers from it, and what keeps it true enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from stagefleet import Fleet
from stagefleet.leases import NO_LEASE
from stagefleet.names import Repository
from stagefleet.project_addresses import Project
from stagefleet.records.models import RejectedStage
from stagefleet.redis_client import connect_redis
from stagefleet.settings import Settings
from stagefleet.shared_state.implementations import MemorySharedState
from stagefleet.shared_state.remembered_stages import RememberedStages
from tests.integration.storages.pushing import DIGEST, OTHER, ids, lists, push, stage
from tests.services import RedisServer
from tests.services.images import push_image
from tests.stage_tasks import StageTasks


@pytest.fixture
def roles(registry):
    return Project("app", Repository(registry.host, "app/primary"), Repository(registry.host, "app/final"))


@pytest.fixture
def join(client, redis_server: RedisServer) -> Iterator[Callable[[], StageTasks]]:
    """Lets another process join the fleet; what they have in common is Redis."""
    connections = []

    def make() -> StageTasks:
        connections.append(connect_redis(redis_server.url))
        return StageTasks(client, MemorySharedState(), RememberedStages.on(connections[-1], Settings()))

    yield make
    for connection in connections:
        connection.close()


@pytest.fixture
def ours(join, roles):
    """A process that has listed the primary storage, and described its two stages."""
    push(roles.primary, stage(1), stage(2))
    stage_tasks = join()
    assert [stage(1), stage(2)] == ids(stage_tasks.project(roles).lookup.by_digest(DIGEST))
    return stage_tasks


@pytest.fixture
def theirs(join, ours):
    """Another one, which has asked no registry yet."""
    return join()


def delete(stage_tasks, repository, stage_id):
    stage_tasks.delete_stage(repository, stage_id, run_id="r", to_delete=lambda: [str(stage_id)])


def test_what_one_process_listed_answers_in_all(theirs, roles, registry):
    lookup = theirs.project(roles).lookup
    before = registry.requests()

    assert [stage(1), stage(2)] == ids(lookup.by_digest_as_known(DIGEST))
    assert [stage(1), stage(2)] == list(lookup.last_stage_ids())
    to_delete = registry.requests()[len(before) :]
    # Each is looked at, and whether a record rejects it, which a GET has to confirm where HEAD knows of none;
    # no list is asked for, and no manifest got.
    assert ["HEAD"] * 4 + ["GET"] * 2 == sorted((method for method, _, _ in to_delete), reverse=True)
    assert [404, 404] == [status for method, _, status in to_delete if method == "GET"]


def test_a_digest_that_is_not_on_it_is_asked_afresh(theirs, roles, registry):
    push(roles.primary, stage(3, OTHER))
    lookup = theirs.project(roles).lookup

    assert [stage(3, OTHER)] == ids(lookup.by_digest_as_known(OTHER))
    before = lists(registry, roles.primary)
    assert [stage(3, OTHER)] == ids(lookup.by_digest_as_known(OTHER))
    assert before == lists(registry, roles.primary)


def test_what_the_fleet_deletes_is_gone_for_all(ours, theirs, roles, registry):
    delete(ours, roles.primary, stage(1))
    lookup = theirs.project(roles).lookup
    before = lists(registry, roles.primary)

    assert [stage(2)] == list(lookup.last_stage_ids())
    assert [stage(2)] == ids(lookup.by_digest_as_known(DIGEST))
    assert before == lists(registry, roles.primary)
    assert [None] == theirs.storages.open(roles.primary).known([stage(1)])


@pytest.mark.parametrize("how", ["deleted", "rejected"])
def test_what_others_did_away_with_is_no_answer(theirs, join, client, roles, how):
    if how == "deleted":
        delete(StageTasks(client, MemorySharedState()), roles.primary, stage(1))
    else:
        push_image(roles.primary.host, roles.primary.path, stage(1).rejected_tag, layers=[b"record"])
    assert [stage(1), stage(2)] == list(theirs.project(roles).lookup.last_stage_ids())

    assert [stage(2)] == ids(theirs.project(roles).lookup.by_digest_as_known(DIGEST))
    assert [stage(2)] == list(join().project(roles).lookup.last_stage_ids())
    assert [None] == theirs.storages.open(roles.primary).known([stage(1)])


@pytest.mark.parametrize("how", ["with its record", "as broken"])
def test_what_the_fleet_rejects_is_gone_for_all(ours, theirs, roles, how):
    if how == "as broken":
        ours.storages.open(roles.primary).reject(stage(1), project="app", lease=NO_LEASE)
    else:
        ours.records.write(roles.primary, "app", RejectedStage(stage(1)))

    assert [stage(2)] == list(theirs.project(roles).lookup.last_stage_ids())
    assert [None] == theirs.storages.open(roles.primary).known([stage(1)])
    assert [stage(2)] == ids(theirs.project(roles).lookup.by_digest_as_known(DIGEST))


def test_what_an_embedded_fleet_deletes_is_gone_for_its_own_process(roles):
    push(roles.primary, stage(1), stage(2))
    with Fleet.embedded(settings=Settings()) as fleet:
        lookup = fleet.project(roles).lookup
        assert [stage(1), stage(2)] == ids(fleet.project(roles).describe_stages())
        assert 1 == fleet.for_each_delete_stage(roles.primary, [stage(1)]).succeeded

        assert [stage(2)] == ids(fleet.project(roles).describe_stages(iter(lookup.last_stage_ids())))
        assert [] == ids(fleet.describe_stages(roles.primary, [stage(1)]))


@pytest.mark.usefixtures("ours")
def test_workers_bring_the_list_up_to_date(redis_server, make_workers, roles, registry):
    source = Repository(registry.host, "elsewhere/app")
    push(source, stage(3), stage(4, OTHER))
    make_workers(redis_server.url)
    with Fleet.connect(redis_server.url, settings=Settings()) as fleet:
        assert 2 == fleet.for_each_copy_stage(source, roles.primary).succeeded
        assert 1 == fleet.for_each_delete_stage(roles.primary, [stage(1)]).succeeded
        lookup = fleet.project(roles).lookup
        before = lists(registry, roles.primary)

        assert [stage(2), stage(3), stage(4, OTHER)] == list(lookup.last_stage_ids())
        assert [stage(2), stage(3)] == [
            found.stage_id for found in fleet.project(roles).describe_stages(iter([stage(2), stage(3)]))
        ]
        assert [stage(2), stage(3)] == ids(lookup.by_digest_as_known(DIGEST))
        assert before + 1 == lists(registry, roles.primary)  # what is rejected, once
