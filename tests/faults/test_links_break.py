"""Links between workers and Redis that break, hang and lie; a Redis that ends and forgets its scripts."""

import random

import pytest

from tests.integration.workers.conftest import eventually

COUNT = 200


@pytest.fixture
def proxy(make_proxy, redis_server):
    return make_proxy(redis_server.host)


@pytest.fixture
def workers(make_faulty_workers, proxy):
    """Workers whose way to Redis leads through the proxy; the client's does not."""
    return make_faulty_workers(f"redis://{proxy.host}/0")


@pytest.fixture
def part(workers, fleet):
    """A run of which a part is done."""
    workers.begin()
    run = fleet.submit(COUNT, seconds=0.05)
    eventually(lambda: fleet.ledger.run(run).succeeded >= COUNT // 10, "a part is done")
    return run


def at_steps(fleet, run, disturb):
    """Disturb a run at each tenth of it."""

    def wait_for(done):
        eventually(lambda: fleet.ledger.run(run).succeeded >= done, f"{done} are done")

    for done in range(COUNT // 5, COUNT * 9 // 10, COUNT // 10):
        wait_for(done)
        disturb()


def test_a_black_hole_with_pops_pending(workers, proxy, fleet, check):
    workers.begin()
    proxy.blackhole(on=True)
    run = fleet.submit(40)
    eventually(lambda: workers.said("out_of_reach"), "the workers notice")
    proxy.cut()
    proxy.blackhole(on=False)
    pids = set(workers.pids)
    check(run, 40)
    assert pids == set(workers.pids)


def test_connections_killed_again_and_again(workers, redis_server, fleet, part, check):
    client = redis_server.client()
    at_steps(fleet, part, lambda: client.client_kill_filter(_type="normal", skipme=True))
    check(part, COUNT)
    assert 0 == workers.deaths


def test_answers_lost_at_random(workers, proxy, fleet, part, check):
    chance = random.Random(1)
    at_steps(fleet, part, lambda: proxy.cut_after(chance.randint(1, 20_000)))
    check(part, COUNT)
    assert 0 == workers.deaths


def test_scripts_forgotten_again_and_again(workers, redis_server, fleet, part, check):
    client = redis_server.client()
    at_steps(fleet, part, client.script_flush)
    assert {1} == {outcome.attempts for outcome in check(part, COUNT)}


def test_redis_killed_and_started_again(workers, redis_server, fleet, part, check):
    redis_server.kill()
    redis_server.start()
    check(part, COUNT)
    assert 0 == workers.deaths


def test_nothing_is_mended_where_nothing_broke(workers, redis_server, fleet, check):
    workers.begin()
    client = redis_server.client()
    for _ in range(10):
        run = fleet.submit(COUNT, parallel=8)
        check(run, COUNT)
        # A message that is published twice was taken for lost: the run has waited for the sweep.
        assert COUNT == int(client.hget(f"stagefleet:run:{run}", "messages"))
