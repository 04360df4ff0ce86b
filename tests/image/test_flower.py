"""Flower in the image, as compose.yaml starts it."""

from __future__ import annotations

import requests

from tests.image.containers import NETWORK, OPENSHIFT, exit_code
from tests.services import free_port
from tests.services.processes import wait_until


def test_flower_answers_and_ends_at_docker_stop(docker, image, redis_server):
    url = f"http://127.0.0.1:{(port := free_port())}"
    variables = {
        "REDIS_URL": redis_server.url,
        "FLOWER__PORT": port,
        "FLOWER__USER": "me",
        "FLOWER__PASSWORD": "x",
    }
    options = [part for name, value in variables.items() for part in ("-e", f"STAGEFLEET_{name}={value}")]
    container = docker.answer("run", "--detach", *NETWORK, *OPENSHIFT, *options, image, "flower")

    def answers():
        assert docker.answer("inspect", "-f", "{{.State.Running}}", container) == "true", docker(
            "logs", container
        )
        try:
            return requests.get(f"{url}/healthcheck", timeout=10).status_code == requests.codes.ok
        except requests.ConnectionError:
            return False

    wait_until(answers, "Flower answers", seconds=90)
    assert requests.codes.unauthorized == requests.get(f"{url}/tasks", timeout=10).status_code
    docker.answer("stop", "--time", 60, container)
    assert 0 == exit_code(docker, container)
