"""Real workers that call a real receiver."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from stagefleet.processes import worker_command
from stagefleet.runs.models import Callback, Run, RunSpec
from tests.integration.workers.conftest import (  # noqa: F401 - fixtures
    Fleet,
    Workers,
    eventually,
    fleet,
    redis_server,
    settings,
    workers,
)
from tests.services import RedisServer, Workers as UsersWorkers
from tests.services.receiver import SECRET, WebhookReceiver

WEBHOOKS = {"secret": SECRET, "timeout_seconds": 2, "backoff_seconds": 0.1, "give_up_seconds": 60}


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture
def start_workers(workers: Workers) -> Callable[..., Workers]:  # noqa: F811 - the fixture
    """Starts workers, with what else stands in their settings for webhooks."""

    def start(**webhooks: Any) -> Workers:
        workers.environment["STAGEFLEET_WEBHOOKS"] = json.dumps({**WEBHOOKS, **webhooks})
        workers.start(processes=1)
        return workers

    return start


@pytest.fixture
def submit(fleet: Fleet, receiver: WebhookReceiver) -> Callable[..., str]:  # noqa: F811 - the fixture
    """Submits a run that the receiver is told of."""

    def submit(count: int, **order: Any) -> str:
        fields = {
            "callback": Callback.WEBHOOK,
            "callback_target": f"{receiver.url}/outcome",
            "finish_url": f"{receiver.url}/finish",
            "parallel": 4,
            **order,
        }
        submission = fleet.ledger.open(RunSpec(operation="wait", **fields))
        fleet.ledger.append(submission, [f"item-{number}" for number in range(count)])
        fleet.ledger.start(submission)
        return submission.run_id

    return submit


@pytest.fixture
def wait_for_end(fleet: Fleet) -> Callable[[str], Run]:  # noqa: F811 - the fixture
    def wait(run_id: str) -> Run:
        eventually(lambda: fleet.ledger.run(run_id).state.is_final, "the run ends")
        return fleet.ledger.run(run_id)

    return wait


@dataclass(frozen=True)
class Stand:
    """A Redis, and a worker there that does what users' workers do."""

    redis: RedisServer
    workers: UsersWorkers


@pytest.fixture(scope="module")
def stand(service_folder):
    """One a module: its tests harm neither."""
    redis = RedisServer(service_folder("redis"))
    environment = {"STAGEFLEET_WEBHOOKS__SECRET": SECRET}
    try:
        redis.start()
        folder = service_folder("workers")
        workers = UsersWorkers(redis.url, folder, environment=environment, command=worker_command)
        try:
            yield Stand(redis, workers.start())
        finally:
            workers.kill()
    finally:
        redis.stop()
