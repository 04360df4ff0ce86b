"""Two workers that look the same: one host name, one process id, two containers."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from stagefleet.processes import isolated_command, worker_command
from tests.integration.workers.conftest import LIMIT_SECONDS, Workers, eventually
from tests.integration.workers.test_flower import flower  # noqa: F401 - the fixture
from tests.services import stagefleet_command

UNSHARE = ["unshare", *([] if os.getuid() == 0 else ["--map-root-user"]), "--pid", "--fork", "--mount-proc"]


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=20, check=False)
    if probe.returncode != 0:
        pytest.skip("this machine makes no namespaces of process ids")


@pytest.fixture
def start(redis_server, tmp_path) -> Iterator[Callable[[str], Workers]]:
    """Starts a worker as the first process of a container of its own."""
    started: list[Workers] = []

    def start(name: str) -> Workers:
        worker = Workers(redis_server.url, tmp_path / f"{name}.log", {})
        started.append(worker)
        options = ("--processes", "1", "--concurrency", "2", "--queues", "copy")
        worker.start([*UNSHARE, "--kill-child", *worker_command(*options)], cwd=tmp_path)
        return worker

    yield start
    for worker in started:
        worker.close()


def health(environment: dict[str, str], *prefix: str) -> int:
    command = [*prefix, *isolated_command("workers.health")]
    return subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, check=False, timeout=LIMIT_SECONDS
    ).returncode


def doctor(environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        stagefleet_command("doctor", "--json"),
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )
    findings: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    (found,) = [finding["message"] for finding in findings if finding["check"] == "workers of copy"]
    return str(found)


def inside(worker: Workers) -> list[str]:
    """What runs a command in a worker's container."""
    (supervisor,) = worker.pids  # under `unshare`
    return [
        "nsenter",
        f"--target={supervisor}",
        "--pid",
        "--mount",
        *([] if os.getuid() == 0 else ["--user"]),
    ]


def test_workers_that_share_host_name_and_process_id_are_told_apart(start, fleet, flower, tmp_path):  # noqa: F811
    """O-A9, W36: doctor, Flower and the health check see two, and none answers for the other."""
    first, second = start("first"), start("second")
    eventually(lambda: len(fleet.ledger.heartbeats.workers()) == 2, "both beat")
    names = [worker.name for worker in fleet.ledger.heartbeats.workers()]
    assert 2 == len(set(names))
    assert 1 == len({re.sub(r"-[0-9a-f]{8}-[0-9a-f]{6}$", "", name) for name in names}), "they look the same"
    assert "2 processes, 4 items at once" in doctor(first.environment, tmp_path)

    def shown() -> set[str]:
        page = requests.get(f"{flower}/workers", {"json": 1}, auth=("me", "hunter2"), timeout=10)
        return {worker["hostname"] for worker in page.json()["data"]}

    eventually(lambda: set(names) <= shown(), "Flower shows both")
    assert 0 == health(first.environment, *inside(first))
    assert 0 == health(first.environment, *inside(second))
    assert 1 == health(first.environment), "they run elsewhere"

    os.kill(first.pids[0], signal.SIGTERM)  # `unshare` passes none on
    assert 0 == first.wait()
    assert 1 == len(fleet.ledger.heartbeats.workers("copy"))
    assert "1 processes, 2 items at once" in doctor(first.environment, tmp_path)
    assert 0 == health(second.environment, *inside(second))
