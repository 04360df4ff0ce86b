"""Copies and deletions of one stage by several processes: they take turns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagefleet import Fleet
from stagefleet.attempt import Attempt
from stagefleet.errors import LockLostError, LockTimeoutError, StageNotFoundError
from stagefleet.locks.stage_locks import StageLocks
from stagefleet.names import Repository, StageId
from stagefleet.records.models import RejectedStage
from stagefleet.redis_client import connect_redis
from stagefleet.settings import LockSettings, Settings
from stagefleet.shared_state.implementations import RedisSharedState
from tests.services.images import push_image
from tests.stage_tasks import StageTasks

STAGE = StageId("a" * 56, 1700000000000)
LOCK_CALLS_A_COPY = 2
"""Both locks are taken in one step, and let go of in one."""
SHARED_STATE_CALLS_A_COPY = 2


class PausingLease:
    """Stops its work before the write that takes effect, until it may go on."""

    def __init__(self):
        self.reached, self.may_go = threading.Event(), threading.Event()

    def check(self):
        return

    def require(self, seconds):
        self.reached.set()
        assert self.may_go.wait(20)


@pytest.fixture
def source(registry):
    push_image(registry.host, "source/app", str(STAGE), layers=[b"base" * 1000, b"own" * 1000])
    return Repository(registry.host, "source/app")


@pytest.fixture
def destination(registry):
    return Repository(registry.host, "destination/app")


@pytest.fixture
def make_tasks(client, redis_server, make_locks, cleanup):
    """Makes the tasks of one more process."""

    def make(**sections):
        client_of_redis = connect_redis(redis_server.url)
        cleanup.callback(client_of_redis.close)
        shared_state = RedisSharedState(client_of_redis, prefix="t:")
        return StageTasks(client, shared_state, locks=make_locks(**sections))

    return make


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def lease():
    made = PausingLease()
    yield made
    made.may_go.set()


def delete(stage_tasks, repository, *, lease=None):
    kwargs = {} if lease is None else {"lease": lease}
    return stage_tasks.delete_stage(repository, STAGE, run_id="d", to_delete=lambda: [str(STAGE)], **kwargs)


def wait_until_somebody_waits(locks):
    for _ in range(1000):
        if any(info.waiting for info in locks.locks()):
            return
        threading.Event().wait(0.01)
    pytest.fail("nobody waits")


def requests_to(registry, method, repository, kind):
    return [
        path
        for verb, path, status in registry.requests()
        if verb == method and f"/{repository.path}/{kind}/" in path and status < 300
    ]


def test_who_waited_for_anothers_copy_of_the_stage_sends_nothing(
    registry, make_tasks, locks, source, destination, pool, lease
):
    first = pool.submit(make_tasks().copy_stage, source, destination, STAGE, run_id="one", lease=lease)
    assert lease.reached.wait(10)
    others = [
        pool.submit(make_tasks().copy_stage, source, destination, STAGE, run_id=f"other {number}")
        for number in range(3)
    ]
    wait_until_somebody_waits(locks)
    lease.may_go.set()

    assert not first.result(20).skipped
    assert [(True, 0)] * 3 == [(other.result(20).skipped, other.result().bytes) for other in others]
    assert 1 == len(requests_to(registry, "PUT", destination, "manifests"))
    assert [] == locks.locks()


def test_a_stage_is_not_deleted_while_it_is_copied(make_tasks, source, destination, pool, lease):
    copy = pool.submit(make_tasks().copy_stage, source, destination, STAGE, run_id="one", lease=lease)
    assert lease.reached.wait(10)
    deleting = make_tasks(wait_seconds=0.1)

    for repository in (source, destination):
        with pytest.raises(LockTimeoutError, match="run one") as refusal:
            delete(deleting, repository)
        assert refusal.value.retryable

    lease.may_go.set()
    copy.result(20)
    delete(deleting, source)
    assert [] == list(deleting.stage_ids(source))
    assert [STAGE] == list(deleting.stage_ids(destination))


def test_an_index_is_not_published_while_others_are_at_its_stage(redis_server, locks, source):
    index = StageId(STAGE.digest)
    settings = Settings(redis_url=redis_server.url, locks=LockSettings(wait_seconds=0.1))
    with Fleet.connect(settings=settings) as fleet:
        with (
            StageLocks(locks).lock_exclusively(source, index, attempt=Attempt("one")),
            pytest.raises(LockTimeoutError, match="run one"),
        ):
            fleet.publish_index(source, index, {"linux/amd64": STAGE})
        assert [STAGE] == list(fleet.stage_ids(source))

        fleet.publish_index(source, index, {"linux/amd64": STAGE})
        assert {STAGE, index} == set(fleet.stage_ids(source))
    assert [] == locks.locks()


def test_a_rejected_stage_is_not_deleted_while_it_is_copied(make_tasks, source, destination, pool, lease):
    copy = pool.submit(make_tasks().copy_stage, source, destination, STAGE, run_id="one", lease=lease)
    assert lease.reached.wait(10)
    deleting = make_tasks(wait_seconds=0.1).records
    deleting.write(source, "app", RejectedStage(STAGE))

    def delete_rejected():
        to_delete = [str(STAGE)]
        return deleting.delete_rejected_stage(source, STAGE, run_id="d", to_delete=lambda: to_delete)

    with pytest.raises(LockTimeoutError, match="run one"):
        delete_rejected()

    lease.may_go.set()
    copy.result(20)
    delete_rejected()
    assert [] == list(deleting.ids(source))
    assert [STAGE] == list(make_tasks().stage_ids(destination))


def test_a_copy_waits_for_a_deletion_and_finds_the_stage_gone(
    make_tasks, locks, source, destination, pool, lease
):
    deletion = pool.submit(delete, make_tasks(), source, lease=lease)
    assert lease.reached.wait(10)
    copy = pool.submit(make_tasks().copy_stage, source, destination, STAGE, run_id="one")
    wait_until_somebody_waits(locks)
    lease.may_go.set()

    deletion.result(20)
    with pytest.raises(StageNotFoundError):
        copy.result(20)


def test_copies_of_one_stage_into_several_places_do_not_wait_for_each_other(
    registry, make_tasks, source, pool, lease
):
    elsewhere = [Repository(registry.host, f"elsewhere/{number}") for number in range(2)]
    slow = pool.submit(make_tasks().copy_stage, source, elsewhere[0], STAGE, run_id="one", lease=lease)
    assert lease.reached.wait(10)

    assert not make_tasks(wait_seconds=0.1).copy_stage(source, elsewhere[1], STAGE, run_id="two").skipped

    lease.may_go.set()
    slow.result(20)


def test_copies_there_and_back_do_not_wait_for_each_other_for_ever(make_tasks, source, destination, pool):
    stage_tasks = make_tasks()
    stage_tasks.copy_stage(source, destination, STAGE, run_id="first")
    ways = [(source, destination), (destination, source)] * 10
    copies = [
        pool.submit(make_tasks(wait_seconds=15).copy_stage, *way, STAGE, run_id=str(number))
        for number, way in enumerate(ways)
    ]

    for copy in copies:
        copy.result(30)


def test_a_copy_whose_lock_was_taken_stops_before_its_manifest(
    make_tasks, locks, source, destination, pool, lease
):
    stage_tasks = make_tasks(lease_seconds=0.8, renewal_seconds=0.1)
    copy = pool.submit(stage_tasks.copy_stage, source, destination, STAGE, run_id="one", lease=lease)
    assert lease.reached.wait(10)
    for info in locks.locks():
        assert 1 == locks.force_release(info.name)
    stage_tasks.stage_locks._locks._renewer.renew()
    lease.may_go.set()

    with pytest.raises(LockLostError) as lost:
        copy.result(20)
    assert lost.value.retryable
    assert [] == list(stage_tasks.stage_ids(destination))


def test_a_copy_asks_redis_twice_for_its_locks(registry, redis_server, make_tasks, source):
    stage_tasks = make_tasks(lease_seconds=1000, renewal_seconds=400)  # no renewal gets into the count
    places = [Repository(registry.host, f"place/{number}") for number in range(6)]
    stage_tasks.copy_stage(source, places[0], STAGE, run_id="r")
    before = redis_server.client().info("commandstats")["cmdstat_evalsha"]["calls"]

    for place in places[1:]:
        stage_tasks.copy_stage(source, place, STAGE, run_id="r")

    to_delete = redis_server.client().info("commandstats")["cmdstat_evalsha"]["calls"] - before
    assert 5 * (LOCK_CALLS_A_COPY + SHARED_STATE_CALLS_A_COPY) == to_delete
