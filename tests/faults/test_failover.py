"""A Redis that fails over or refuses for a while, under a real copy: real workers, the real command."""

from __future__ import annotations

import pytest

# The copy is that of the tests of a fleet under fire.
from tests.integration.faults.conftest import (  # noqa: F401 - fixtures are used by name
    STAGES,
    destination,
    environment,
    eventually,
    show,
    source,
    start,
)

PART = 20
GOES_ON_SECONDS = 30
"""How long commands and workers may stand still after a failover."""


@pytest.fixture
def redis_server(make_redis):
    """The primary, until it fails over."""
    return make_redis()


@pytest.fixture
def replica(make_redis, redis_server):
    replica = make_redis(options={"replicaof": f"127.0.0.1 {redis_server.port}"})
    client = replica.client()
    eventually(lambda: client.info("replication")["master_link_status"] == "up", "it is in step")
    return replica


@pytest.fixture
def address(make_proxy, redis_server):
    """What the name in the URL leads to: new connections only, as with DNS or a virtual IP."""
    return make_proxy(redis_server.host)


@pytest.fixture
def workers(make_workers, address, environment):  # noqa: F811 - the fixture of that name
    environment["STAGEFLEET_REDIS_URL"] = f"redis://{address.host}/0"
    return make_workers(f"redis://{address.host}/0", commands=2, environment=environment)


@pytest.fixture
def copy(workers, start, source, destination):  # noqa: F811 - the fixtures of those names
    """A copy of all stages, of which a part is done."""
    command = start("copy", source[0], destination[0], "-j", "2")  # it has to last
    command.read(PART)
    return command


@pytest.fixture
def check(copy, workers, source, destination):  # noqa: F811 - the fixtures of those names
    """Checks that the copy has gone on in time, and has copied every stage; no worker has died."""
    pids = set(workers.pids)

    def check(seconds=GOES_ON_SECONDS):
        copy.read(1, seconds=seconds)
        assert 0 == copy.wait(), copy.errors
        assert source[1] == destination[1]()
        assert pids == set(workers.pids), workers.logged()[-2000:]
        summary = copy.objects[-1]
        assert ("succeeded", STAGES) == (summary["state"], summary["total"])
        assert "Traceback" not in workers.logged()

    return check


def test_a_copy_goes_on_after_a_planned_fail_over(replica, copy, redis_server, address, check):
    """R34: connections to a primary that has become a replica are left; nothing else tells that it did."""
    redis_server.client().execute_command("FAILOVER", "TO", "127.0.0.1", replica.port)
    client = replica.client()
    eventually(lambda: client.info("replication")["role"] == "master", "the replica takes over")
    assert 1 == client.zcard("stagefleet:live"), "the copy is under way"
    address.retarget(replica.host)
    check()


def test_a_copy_goes_on_after_its_primary_has_died(replica, copy, redis_server, address, check):
    """R34: what was connected to a primary that died comes back to the one that took over."""
    redis_server.client().wait(1, 1000)
    redis_server.kill()
    client = replica.client()
    client.replicaof("no", "one")
    assert 1 == client.zcard("stagefleet:live"), "the copy is under way"
    address.retarget(replica.host)
    check()


def test_a_copy_sits_a_full_disk_out(copy, redis_server, check):
    """W34: while Redis takes no writes the command says what it waits for, and goes on when it does."""
    redis_server.fill_disk()
    eventually(lambda: "waiting for Redis" in copy.errors, "the command says what it waits for")
    redis_server.free_disk()
    check()
    assert "MISCONF" in copy.errors
    assert "no worker listens" not in copy.errors


def test_a_copy_sits_a_long_script_out(copy, redis_server, check):
    """R8: BUSY is out of reach for now."""
    client = redis_server.client()
    client.config_set("busy-reply-threshold", 50)
    clock = "local t=redis.call('TIME')[1] while redis.call('TIME')[1]-t < 5 do end"
    client.eval(clock, 0)
    check()


def test_a_copy_goes_on_when_redis_has_memory_again(copy, redis_server, check):
    """R8: OOM is out of reach for now."""
    client = redis_server.client()
    client.config_set("maxmemory", 1)
    eventually(lambda: client.info("stats")["total_error_replies"] > 0, "something is refused")
    client.config_set("maxmemory", 0)
    check()
