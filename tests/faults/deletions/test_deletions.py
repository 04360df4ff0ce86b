"""Workers that are killed in the middle of a deletion, and what the next run makes of what they left."""

import threading

import pytest

from tests.services import Answer, ImageMaker, push_image

PATH = "team/app"
WAIT_SECONDS = 60


class Hold:
    """Holds the first request of a kind, until whoever sent it is dead."""

    def __init__(self, is_meant):
        self.is_meant = is_meant
        self.came = threading.Event()
        self.over = threading.Event()

    def __call__(self, method, path):
        if self.over.is_set() or not self.is_meant(method, path.rpartition("/")[2]):
            return None
        self.came.set()
        self.over.wait(WAIT_SECONDS)
        return Answer(503)


@pytest.fixture
def killed(command, registry, redis_server, make_workers, make_front, environment):
    """Deletes a stage and kills the worker, with all its processes, at a request."""

    def killed(stage, is_meant):
        hold = Hold(is_meant)
        front = make_front(registry.host, hold)
        workers = make_workers(redis_server.url, environment={"DOCKER_CONFIG": environment["DOCKER_CONFIG"]})
        ran = command(
            "delete", f"{front.host}/{PATH}", stage, "--detach", STAGEFLEET_REDIS_URL=redis_server.url
        )
        assert 0 == ran.code, ran.err
        assert hold.came.wait(WAIT_SECONDS)
        workers.kill_command()
        hold.over.set()
        return front

    return killed


def tags(registry):
    with ImageMaker(registry) as maker:
        return set(maker.tags(PATH))


def test_a_worker_killed_in_a_probe_leaves_tags_that_the_next_run_removes(
    command,
    registry,
    killed,
    push_stages,
):
    """R48: they stayed for ever."""
    stage, other = push_stages(registry, PATH, 2)
    front = killed(stage, lambda method, name: method == "DELETE" and "probe" in name)
    assert 2 == sum("probe" in tag for tag in tags(registry))
    ran = command("delete", f"{front.host}/{PATH}", other)
    assert (0, {stage}) == (ran.code, tags(registry)), ran.err


@pytest.mark.parametrize("killed_before", ["placeholder", "its deletion"])
def test_a_worker_killed_while_it_moves_a_stage_aside_hides_none(
    command,
    registry,
    killed,
    push_stages,
    killed_before,
):
    """R12: the stage is there or gone, and the next run finishes what was left."""
    (stage, digest), (other, _) = push_stages(registry, PATH, 2).items()
    released = push_image(registry, PATH, "release", layers=[b"shared", b"own 0"])
    assert digest == released.digest
    moved = threading.Event()

    def is_meant(method, name):
        if method == "PUT" and name == stage:
            moved.set()
            return killed_before == "placeholder"
        return method == "DELETE" and moved.is_set()

    front = killed(stage, is_meant)
    assert {f"{stage}-rejected", stage, "release", other} == tags(registry)
    listed = command("list", f"{registry.host}/{PATH}").out.split()
    is_there = killed_before == "placeholder"
    assert ({stage, other} if is_there else {other}) == set(listed)
    ran = command("delete", f"{front.host}/{PATH}", other)
    assert (0, {"release"} | ({stage} if is_there else set())) == (ran.code, tags(registry)), ran.err
    with ImageMaker(registry) as maker:
        assert digest == maker.digest(PATH, "release")
