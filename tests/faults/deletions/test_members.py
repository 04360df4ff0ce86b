"""Members that wait for an index whose worker is killed, or whose Redis is away for a while."""

import threading

import pytest

from stagefleet.names import StageId
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings
from tests.services import Answer, ImageMaker, push_image, push_index, stage_id_of
from tests.services.processes import wait_until

PATH = "team/app"
WAIT_SECONDS = 60
HASTE = {
    "STAGEFLEET_RUNS__LEASE_SECONDS": "8",
    "STAGEFLEET_RUNS__RENEWAL_SECONDS": "2",
    "STAGEFLEET_RUNS__SWEEP_SECONDS": "0.5",
    "STAGEFLEET_HTTP__CONNECT_TIMEOUT_SECONDS": "2",
    "STAGEFLEET_HTTP__WRITE_TIMEOUT_SECONDS": "4",
}


@pytest.fixture
def start_workers(make_workers, redis_server, environment):
    variables = {"DOCKER_CONFIG": environment["DOCKER_CONFIG"], **HASTE}
    return lambda: make_workers(redis_server.url, environment=variables)


def only_one_is_claimed(redis_server, run):
    """Whether the others have been claimed, and handed back behind it."""
    ledger = RedisLedger.connect(redis_server.url, Settings())
    stands = ledger.run(run)
    ledger.close()
    return (1, 0) == (stands.claimed, stands.published)


@pytest.mark.parametrize("trouble", ["killed worker", "Redis stopped"])
def test_members_go_after_the_index_whatever_happens_to_its_item(
    command, registry, redis_server, make_front, start_workers, trouble
):
    """R25: the wait for an index outlives the index's worker and a Redis that is away, and then ends."""
    stages = [stage_id_of(f"member {number}", 1_700_000_000_000 + number) for number in range(3)]
    members = [push_image(registry, PATH, stage, layers=[stage.encode()]) for stage in stages]
    index = StageId.parse(stage_id_of("index")).digest
    top = push_index(registry, PATH, index, members)
    came, over = threading.Event(), threading.Event()

    def hold(method, path):
        if over.is_set() or method != "DELETE" or not path.endswith(top.digest):
            return None
        came.set()
        over.wait(WAIT_SECONDS)
        return Answer(503)

    front = make_front(registry.host, hold)
    workers = start_workers()
    variables = {"STAGEFLEET_REDIS_URL": redis_server.url, **HASTE}
    ran = command("delete", f"{front.host}/{PATH}", *stages, index, "--detach", **variables)
    assert 0 == ran.code, ran.err
    run = ran.out.split()[-1]
    assert came.wait(WAIT_SECONDS)
    wait_until(lambda: only_one_is_claimed(redis_server, run), "the members are handed back")
    if trouble == "killed worker":
        workers.kill_command()
        over.set()
        start_workers()
    else:
        redis_server.pause()
        over.set()
        redis_server.resume()
    watched = command("runs", "watch", run, "--json", **variables)
    *outcomes, summary = watched.objects
    assert (0, 4) == (watched.code, summary["succeeded"]), watched.err
    assert index == outcomes[0]["item"]
    assert [1, 1, 1] == [outcome["attempts"] for outcome in outcomes[1:]]
    with ImageMaker(registry) as maker:
        assert [] == maker.tags(PATH)
        assert [None] * 4 == [maker.manifest(PATH, image.digest) for image in (top, *members)]
