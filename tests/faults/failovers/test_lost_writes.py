"""A copy goes on when Redis comes back without its last writes, on real parts all the way."""

import os

import pytest

from tests.integration.faults.conftest import STAGES, eventually
from tests.services import Workers

PART = 40


@pytest.fixture
def workers(service_folder, address, environment, cleanup):
    """Two `stagefleet worker`, as on two machines."""
    workers = Workers(
        f"redis://{address.host}/0", service_folder("workers"), commands=2, environment=environment
    )
    cleanup.callback(workers.stop)
    return workers.start()


@pytest.fixture
def copy(workers, start, source, destination):
    """A copy of all 200 stages, of which a part is done."""
    command = start("copy", source[0], destination[0], "--parallel", "8")
    command.read(PART)
    return command


@pytest.fixture
def check(source, destination, show, workers):
    """Checks that a copy has copied every stage, said so of each, and that nobody died of it."""

    def check(copy, pids):
        assert 0 == copy.wait(), copy.errors
        *outcomes, summary = copy.objects
        assert source[1] == destination[1]()
        assert set(source[1]) == {outcome["item"] for outcome in outcomes}
        shown = show(summary["run"])
        counts = ("state", "total", "failed", "cancelled", "claimed", "published")
        assert ("succeeded", STAGES, 0, 0, 0, 0) == tuple(shown[name] for name in counts)
        assert STAGES == shown["succeeded"] + shown["skipped"]
        assert pids == set(workers.pids), "no worker may die of it"

    return check


def test_a_replica_that_lags_takes_over(copy, check, workers, address, redis_server, make_redis):
    """R2, R3, R4: the writes of some seconds are lost, and each stage is copied and told of all the same."""
    pids = set(workers.pids)
    replica = make_redis()
    client = replica.client()
    client.replicaof("127.0.0.1", redis_server.port)
    eventually(
        lambda: client.info("replication").get("master_link_status") == "up", "it has what the primary has"
    )
    client.replicaof("no", "one")
    copy.read(PART)  # of which the replica knows nothing
    address.retarget(replica.host)
    address.cut()
    check(copy, pids)


def test_a_restart_loses_the_end_of_the_file(copy, check, workers, redis_server):
    """R2, R3, R4: as after the crash of a host, with what was not on its disk."""
    pids = set(workers.pids)
    (log,) = redis_server.folder.glob("appendonlydir/*.incr.aof")
    size = log.stat().st_size
    copy.read(PART)
    redis_server.kill()
    os.truncate(log, (size + log.stat().st_size) // 2)
    redis_server.start()
    check(copy, pids)
