"""Copies of one stage between a real engine and a real registry by several processes: they take turns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagefleet.engine import Engine
from stagefleet.engine_address import EngineAddress
from stagefleet.errors import LockTimeoutError
from stagefleet.leases import NO_LEASE
from stagefleet.locks import RedisLocks
from stagefleet.names import EngineProject, Repository, StageId
from stagefleet.operations.delete import InUsePolicy
from stagefleet.settings import EngineSettings, LockSettings, Settings
from stagefleet.storages.docker_engine import EngineHost
from tests.integration.engine.conftest import LABELS
from tests.services import stage_id_of
from tests.stage_tasks import StageTasks

APP = EngineProject("app")
ONE = StageId.parse(stage_id_of("one"))


class PausingEngine(Engine):
    """Stops before it pulls or pushes, until it may go on; the transfer itself is the engine's own."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.reached, self.may_go = threading.Event(), threading.Event()
        self.transfers = 0

    def _transfer(self, *args):
        self.transfers += 1
        self.reached.set()
        assert self.may_go.wait(20)
        return super()._transfer(*args)


@pytest.fixture
def pausing(engine, docker_config, cleanup):
    made = PausingEngine(EngineAddress(engine.url), EngineSettings(), config=docker_config())
    cleanup.callback(made.close)
    yield made
    made.may_go.set()


@pytest.fixture
def make_tasks(client, pausing, redis_server, cleanup):
    """Makes the tasks of one more worker on the host."""

    def make(**sections):
        locks = RedisLocks.connect(redis_server.url, Settings(locks=LockSettings(**sections)))
        cleanup.callback(locks.close)
        return StageTasks(client, locks=locks, host=EngineHost(pausing, "here", locks))

    return make


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture(params=["into the engine", "out of the engine"])
def way(request, engine, repository, push):
    """Where the stage is, and where it is to go."""
    if request.param == "into the engine":
        assert ONE == push("one")[0]
        return repository, APP
    engine.import_image(f"app:{ONE}", labels=LABELS)
    return APP, repository


def copy(stage_tasks, way, run):
    return stage_tasks.copy_stage(*way, ONE, run_id=run, verify=False, lease=NO_LEASE)


def delete(stage_tasks, place):
    if place == APP:
        return stage_tasks.delete_stage(APP, ONE, InUsePolicy(), run_id="d", lease=NO_LEASE)
    return stage_tasks.delete_stage(place, ONE, run_id="d", to_delete=lambda: [str(ONE)])


def wait_until_somebody_waits(locks):
    for _ in range(1000):
        if any(info.waiting for info in locks.locks()):
            return
        threading.Event().wait(0.01)
    pytest.fail("nobody waits")


def test_who_waited_for_anothers_copy_finds_the_stage_there(make_tasks, pausing, pool, way):
    processes = [make_tasks() for _ in range(3)]
    first = pool.submit(copy, processes[0], way, "one")
    assert pausing.reached.wait(10)
    others = [pool.submit(copy, stage_tasks, way, "two") for stage_tasks in processes[1:]]
    wait_until_somebody_waits(processes[0].stage_locks._locks)
    pausing.may_go.set()

    assert not first.result(20).skipped
    assert [(True, 0)] * 2 == [(other.result(20).skipped, other.result().bytes) for other in others]
    assert 1 == pausing.transfers
    assert [] == processes[0].stage_locks._locks.locks()


def test_a_stage_is_neither_deleted_nor_copied_over_while_it_is_copied(
    make_tasks, pausing, pool, way, repository, push
):
    first = pool.submit(copy, make_tasks(), way, "one")
    assert pausing.reached.wait(10)
    others = make_tasks(wait_seconds=0.1)

    for place in way:
        with pytest.raises(LockTimeoutError, match="run one"):
            delete(others, place)
    if way[1] == repository:  # from registry to registry, by a worker without an engine
        elsewhere = Repository(repository.host, "elsewhere/app")
        push("one", path=elsewhere.path)
        with pytest.raises(LockTimeoutError, match="run one"):
            others.copy_stage(elsewhere, repository, ONE, run_id="two")

    pausing.may_go.set()
    first.result(20)
    for place in way:
        delete(others, place)
    assert ([], []) == (list(others.stage_ids(repository)), list(others.stage_ids(APP)))
