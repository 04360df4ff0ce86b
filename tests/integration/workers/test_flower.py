"""A real Flower on a real Redis."""

import json
import os
import signal
import subprocess
import sys

import pytest
import requests

from stagefleet.runs.model import Order
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


SOURCE = 'registry.test/it\'s "@RUN@"/日本'


def test_the_state_of_each_task_is_the_truth_and_its_arguments_say_what_it_is(flower, workers, fleet):
    """O-A4: a failed item is a failed task; a task names stage, operation, source, destination and run."""
    workers.start(processes=1)
    options = {"source": SOURCE, "destination": "mirror.test/app"}
    submission = fleet.ledger.open(Order(operation="wait", options=options, max_attempts=2))
    fleet.ledger.append(submission, ["good", "broken", "flaky"])
    fleet.ledger.start(submission)
    run, _ = fleet.follow(submission.run)
    slow = fleet.submit(1, seconds=60)
    eventually(lambda: fleet.ledger.run(slow).claimed, "the slow one is under way")
    fleet.ledger.cancel(slow, now=True)

    def tasks() -> list[dict[str, str]]:
        answer = requests.get(f"{flower}/api/tasks", auth=("me", "hunter2"), timeout=10)
        return list(answer.json().values())

    def states() -> set[tuple[str, str]]:
        return {(task["args"].strip("(',)"), task["state"]) for task in tasks()}

    expected = {("good", "SUCCESS"), ("broken", "FAILURE"), ("flaky", "FAILURE"), ("item-0", "REVOKED")}
    eventually(lambda: expected <= states(), "each task has its state")
    assert (1, 2) == (run.succeeded, run.failed)
    by_stage = {task["args"].strip("(',)"): task for task in tasks() if task["state"] != "RETRY"}
    for stage in ("good", "broken", "flaky"):
        shown = by_stage[stage]["kwargs"]
        for part in (f"'stage': '{stage}'", "'operation': 'wait'", SOURCE, "mirror.test/app", run.id):
            assert part in shown
    assert "succeeded: 0 bytes" in by_stage["good"]["result"]
    assert "BrokenStageError: broken is broken" in by_stage["broken"]["exception"]
    assert not [record for record in workers.records() if "Traceback" in json.dumps(record)]


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
