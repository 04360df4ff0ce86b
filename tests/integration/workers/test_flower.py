"""A real Flower on a real Redis."""

import json
import os
import signal
import subprocess
import sys

import pytest
import requests

from tests.integration.workers.conftest import LIMIT_SECONDS, eventually


@pytest.fixture
def flower(redis_server, tmp_path):
    """Flower with a login, in a directory with a configuration of Flower's own; its address."""
    (tmp_path / "flowerconfig.py").write_text("raise SystemExit('read from the current directory')\n")
    log = tmp_path / "flower.log"
    environment = {
        "PATH": os.environ["PATH"],
        "STAGEFLEET_REDIS_URL": redis_server.url,
        "STAGEFLEET_FLOWER__USER": "me",
        "STAGEFLEET_FLOWER__PASSWORD": "hunter2",
        "FLOWER_PORT": "nonsense",
    }
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "config.flower", "--port", "0"],
            env=environment,
            cwd=tmp_path,
            stderr=stderr,
        )
    try:
        line = eventually(
            lambda: [text for text in log.read_text().splitlines() if '"ready"' in text], "ready"
        )
        yield json.loads(line[0])["url"]
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(LIMIT_SECONDS)
        assert "hunter2" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_flower_asks_for_the_login_and_shows_the_workers(flower, workers, fleet):
    workers.start(processes=1)
    login = ("me", "hunter2")
    assert 401 == requests.get(f"{flower}/api/workers", timeout=10).status_code
    assert 401 == requests.get(f"{flower}/api/workers", auth=("me", "guess"), timeout=10).status_code
    assert 200 == requests.get(f"{flower}/healthcheck", timeout=10).status_code
    fleet.follow(fleet.submit(3))

    def tasks() -> dict[str, dict[str, str]]:
        answer = requests.get(f"{flower}/api/tasks", auth=login, timeout=10)
        return answer.json() if len(answer.json()) == 3 else {}

    shown = eventually(tasks, "the tasks are shown")
    assert {"stagefleet.wait"} == {task["name"] for task in shown.values()}
    assert {"('item-0',)", "('item-1',)", "('item-2',)"} == {task["args"] for task in shown.values()}
    eventually(
        lambda: {"SUCCESS"} == {task["state"] for task in tasks().values()}, "they are shown as succeeded"
    )


EVERYBODY = "0.0.0.0"  # noqa: S104 - what has to be refused


@pytest.mark.parametrize("address", [EVERYBODY, "::", "", "192.0.2.1", "flower.example.com"])
def test_flower_does_not_start_open_to_others(redis_server, address):
    """R29: without a login Flower listens on loopback alone."""
    result = subprocess.run(
        [sys.executable, "-I", "-m", "config.flower", "--port", "0", "--address", address],
        env={"PATH": os.environ["PATH"], "STAGEFLEET_REDIS_URL": redis_server.url},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )

    assert 2 == result.returncode
    (line,) = result.stderr.splitlines()
    assert "without a login" in line
    assert "flower.password" in line
