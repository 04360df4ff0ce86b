"""Real worker processes on a real Redis."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stagefleet.errors import RedisUnreachableError
from stagefleet.runs.coordinator import watch
from stagefleet.runs.models import Outcome, Run, RunSpec
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import RunSettings, Settings, WorkerSettings
from tests.services import clean_environment, setting_variables

SCRIPT = Path(__file__).with_name("noop_worker.py")
LIMIT_SECONDS = 40.0
T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str) -> T:
    """Wait until something holds; the wait has an end, and says what it waited for."""
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < give_up_at:
        try:
            answer = condition()
        except RedisUnreachableError:
            answer = None
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {LIMIT_SECONDS:.0f} s: {what}")


class Workers:
    """A supervisor and its processes.

    Args:
        redis_url: The fleet's Redis.
        log: Where stderr goes.
        settings: What else stands in the settings, by variable.
    """

    def __init__(self, redis_url: str, log: Path, settings: dict[str, str]) -> None:
        self.log = log
        self.environment = clean_environment(STAGEFLEET_REDIS_URL=redis_url) | settings
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str] | None = None, cwd: Path | None = None, processes: int = 2) -> None:
        with self.log.open("ab") as stderr:
            process = self.process = subprocess.Popen(
                command or [sys.executable, str(SCRIPT), "supervise", str(processes)],
                env=self.environment,
                stderr=stderr,
                cwd=cwd,
            )
        eventually(lambda: self.said("ready") or process.poll() is not None, "the workers listen")
        assert process.poll() is None, self.log.read_text()

    def records(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{")]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [record for record in self.records() if record["event"] == event]

    @property
    def pids(self) -> list[int]:
        """The worker processes, without the supervisor."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(LIMIT_SECONDS)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()  # its processes follow: their life line ends
            self.process.wait()


class Fleet:
    """A ledger as a client has it."""

    def __init__(self, redis_url: str, settings: Settings) -> None:
        self.ledger = RedisLedger.connect(redis_url, settings)

    def submit(self, count: int, *, parallel: int = 8, **options: Any) -> str:
        submission = self.ledger.open(RunSpec(operation="wait", options=options, parallel=parallel))
        self.ledger.append(submission, [f"item-{number}" for number in range(count)])
        self.ledger.start(submission)
        return submission.run_id

    def follow(self, run_id: str) -> tuple[Run, list[Outcome]]:
        outcomes: list[Outcome] = []
        return watch(self.ledger, run_id, on_progress=outcomes.append), outcomes


@pytest.fixture
def settings():
    """Short leases: what is lost comes back within seconds."""
    return Settings(
        runs=RunSettings(lease_seconds=3, renewal_seconds=1, sweep_seconds=0.5, republish_seconds=2),
        worker=WorkerSettings(concurrency=4, drain_seconds=4),
    )


@pytest.fixture
def redis_server(make_redis):
    """One of the test's own, which survives its restart."""
    return make_redis(append_only=True)


@pytest.fixture
def fleet(redis_server, settings):
    fleet = Fleet(redis_server.url, settings)
    yield fleet
    fleet.ledger.close()


@pytest.fixture
def workers(redis_server, settings, tmp_path):
    variables = setting_variables(settings, "runs", "worker")
    workers = Workers(redis_server.url, tmp_path / "worker.log", variables)
    yield workers
    workers.close()
