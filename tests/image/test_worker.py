"""The image as a worker: its health check, and how `docker stop` ends it."""

from __future__ import annotations

import json

import pytest

from tests.image.containers import NETWORK, OPENSHIFT, START_SECONDS, exit_code, wait_for_log
from tests.services.processes import wait_until

GRACE_SECONDS = 45
"""As compose.yaml and docs/ci.md have it."""
PROBES = ("--health-interval", "1s", "--health-retries", "1000")
"""So that nothing waits for half a minute; the command is the image's own."""


@pytest.fixture
def start(docker, image, redis_server, logins):
    """Starts a container in the background."""
    options = ["--detach", *NETWORK, *logins, *OPENSHIFT, *PROBES]
    options += ["-e", f"STAGEFLEET_REDIS_URL={redis_server.url}"]
    return lambda *arguments, more=(): docker.answer("run", *options, *more, image, *arguments)


def wait_for_health(docker, container, expected):
    def health():
        state = json.loads(docker.answer("inspect", "-f", "{{json .State}}", container))
        assert state["Running"], docker("logs", container)
        return expected == state["Health"]["Status"]

    wait_until(health, f"the container is {expected}", seconds=90)


@pytest.mark.parametrize("init", [(), ("--init",)], ids=["alone", "init"])
def test_a_worker_is_healthy_once_it_beats(docker, start, init):
    container = start("worker", "--processes", "1", more=init)
    assert "starting" == docker.answer("inspect", "-f", "{{.State.Health.Status}}", container)
    wait_for_health(docker, container, "healthy")
    probe = docker("exec", container, "stagefleet", "health")
    assert (0, "1 worker processes live here\n") == (probe.returncode, probe.stdout)


def test_a_container_that_is_no_worker_is_healthy_while_it_runs(docker, start):
    wait_for_health(docker, start("tail", "-f", "/dev/null"), "healthy")


def test_docker_stop_ends_an_idle_worker_with_0(docker, start):
    container = start("worker", "--processes", "2")
    wait_for_log(docker, container, '"ready"')
    docker.answer("stop", "--time", GRACE_SECONDS, container)
    assert 0 == exit_code(docker, container)
    assert '"stopping"' in docker("logs", container).stderr


def test_docker_stop_in_the_middle_of_a_run_loses_nothing(docker, start, mirror):
    worker = start("worker", "--processes", "1", more=["-e", "STAGEFLEET_WORKER__DRAIN_SECONDS=2"])
    wait_for_log(docker, worker, '"ready"')
    with mirror.with_gate() as (gated, gate):
        command = start("copy", "--json", gated.source, gated.destination)
        assert gate.reached.wait(START_SECONDS)
        docker.answer("stop", "--time", GRACE_SECONDS, worker)
        assert 0 == exit_code(docker, worker)
        assert "item_handed_back" in docker("logs", worker).stderr
        gate.open.set()
        docker.answer("start", worker)
        assert 0 == exit_code(docker, command), docker("logs", command).stderr
    outcomes = [json.loads(line) for line in docker("logs", command).stdout.splitlines()[:-1]]
    assert list(mirror.stages) == mirror.copied() == sorted(outcome["item"] for outcome in outcomes)
    assert {"succeeded"} == {outcome["state"] for outcome in outcomes}
