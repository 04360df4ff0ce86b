"""A real Flower on a real Redis."""

import html
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from stagefleet.processes import isolated_command
from stagefleet.runs.models import RunSpec
from tests.integration.workers.conftest import LIMIT_SECONDS, eventually


@contextmanager
def start_flower(redis_url: str, folder: Path, **more: str) -> Iterator[str]:
    """Start Flower with a login, in a directory with a configuration of Flower's own; gives its address.

    More variables of its environment may be named without their prefix, `STAGEFLEET_`.
    """
    (folder / "flowerconfig.py").write_text("raise SystemExit('read from the current directory')\n")
    log = folder / "flower.log"
    environment = {
        "PATH": os.environ["PATH"],
        "STAGEFLEET_REDIS_URL": redis_url,
        "STAGEFLEET_FLOWER__USER": "me",
        "STAGEFLEET_FLOWER__PASSWORD": "hunter2",
        "STAGEFLEET_FLOWER__PURGE_OFFLINE_WORKERS_SECONDS": "10",
        "FLOWER_PORT": "nonsense",
    } | {f"STAGEFLEET_{name}": text for name, text in more.items()}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*isolated_command("config.flower"), "--port", "0"],
            env=environment,
            cwd=folder,
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


@pytest.fixture
def flower(redis_server, tmp_path):
    """Flower's address."""
    with start_flower(redis_server.url, tmp_path) as address:
        yield address


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
    submission = fleet.ledger.open(RunSpec(operation="wait", options=options, max_attempts=2))
    fleet.ledger.append(submission, ["good", "broken", "flaky"])
    fleet.ledger.start(submission)
    run, _ = fleet.follow(submission.run_id)
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
    (retried,) = (task for task in tasks() if task["state"] == "RETRY")
    assert "ItemFailedError('RegistryUnavailableError: flaky: answered 503')" == retried["exception"]
    assert {None} == {task["traceback"] for task in tasks()}
    assert not [record for record in workers.records() if "Traceback" in json.dumps(record)]


def rows_of(flower: str) -> list[dict[str, str]]:
    """What fills the table of the tasks' page."""
    asked = {"draw": 1, "start": 0, "length": 15, "columns[0][data]": "name", "order[0][column]": 0}
    answer = requests.post(f"{flower}/tasks/datatable", asked, auth=("me", "hunter2"), timeout=10)
    rows: list[dict[str, str]] = answer.json()["data"]
    return rows


def test_the_pages_say_what_a_task_is_and_how_it_ended_and_forget_a_lost_worker(flower, workers, fleet):
    """O-A4: the table has the columns, the rows and a task's own page what stands in them."""
    workers.start(processes=1)
    submission = fleet.ledger.open(
        RunSpec(operation="wait", options={"source": SOURCE, "destination": "mirror.test/app"})
    )
    fleet.ledger.append(submission, ["good", "broken"])
    fleet.ledger.start(submission)
    fleet.follow(submission.run_id)

    def page(path: str) -> str:
        return html.unescape(requests.get(f"{flower}/{path}", auth=("me", "hunter2"), timeout=10).text)

    eventually(lambda: {"SUCCESS", "FAILURE"} == {row["state"] for row in rows_of(flower)}, "both are told")
    columns = re.findall(r'data-column="(\w+)"', page("tasks"))
    assert {"state", "kwargs", "result", "exception", "uuid"} <= set(columns)
    assert "overflow-wrap: anywhere" in page("tasks"), "on one line each they cannot be read"
    for row in rows_of(flower):
        stage = "good" if row["state"] == "SUCCESS" else "broken"
        parts = (f"'stage': '{stage}'", "'operation': 'wait'", SOURCE, "mirror.test/app", submission.run_id)
        told = "succeeded: 0 bytes" if stage == "good" else "BrokenStageError: broken is broken"
        assert told in (row["result"] or row["exception"])
        for shown in (row["kwargs"], page(f"task/{row['uuid']}")):
            assert [] == [part for part in parts if part not in shown]
        assert told in page(f"task/{row['uuid']}")

    def listed() -> list[str]:
        answer = requests.get(f"{flower}/workers?json=1", auth=("me", "hunter2"), timeout=10)
        return [worker["hostname"] for worker in answer.json()["data"]]

    assert 1 == len(listed())
    workers.close()
    eventually(lambda: not listed(), "a worker that is gone leaves")


EVERYBODY = "0.0.0.0"  # noqa: S104 - what has to be refused


@pytest.mark.parametrize("address", [EVERYBODY, "::", "", "192.0.2.1", "flower.example.com"])
def test_flower_does_not_start_open_to_others(redis_server, address):
    """R29: without a login Flower listens on loopback alone."""
    result = subprocess.run(
        [*isolated_command("config.flower"), "--port", "0", "--address", address],
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
