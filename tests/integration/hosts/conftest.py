"""Two hosts: each an engine of its own and a worker that works with it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stagefleet import Fleet
from stagefleet.processes import worker_command
from stagefleet.settings import EngineSettings, HttpSettings, RunSettings, Settings
from tests.services import (
    DockerEngine,
    ImageMaker,
    RedisServer,
    Workers,
    archive_of,
    clean_environment,
    stage_id_of,
    stagefleet_command,
)
from tests.services.receiver import SECRET

HOSTS = ("one", "two")
RUNS: dict[str, Any] = {
    "lease_seconds": 6,
    "renewal_seconds": 2,
    "sweep_seconds": 0.5,
    "republish_seconds": 1,
    "backoff_seconds": 0.05,
    "max_attempts": 2,
}
HTTP = {"connect_timeout_seconds": 1, "write_timeout_seconds": 3}  # writes have to fit into a lease


@dataclass(frozen=True)
class Stand:
    """A Redis, and by host an engine and the worker that works with it."""

    redis: RedisServer
    engines: dict[str, DockerEngine]
    workers: dict[str, Workers]


@contextmanager
def start_stand(service_folder: Callable[[str], Path]) -> Iterator[Stand]:
    """Start one, for as long as the block lasts."""
    with ExitStack() as stack:
        redis = RedisServer(service_folder("redis"))
        stack.callback(redis.stop)
        redis.start()
        engines, workers = {}, {}
        for name in HOSTS:
            engine = engines[name] = DockerEngine(service_folder("engine"))
            stack.callback(engine.stop)
            engine.start()
            folder = service_folder("workers")
            environment = {
                "STAGEFLEET_ENGINE__URL": engine.url,
                "STAGEFLEET_ENGINE__HOST": name,
                "STAGEFLEET_RUNS": json.dumps(RUNS),
                "STAGEFLEET_HTTP": json.dumps(HTTP),
                "STAGEFLEET_WEBHOOKS__SECRET": SECRET,
                "DOCKER_CONFIG": str(folder),
            }
            workers[name] = Workers(redis.url, folder, environment=environment, command=worker_command)
            stack.callback(workers[name].kill)
            workers[name].launch()
        for one in workers.values():
            one.wait_until_listening()
        yield Stand(redis, engines, workers)


@pytest.fixture(scope="session")
def stand(service_folder):
    """One for all modules whose tests leave workers running; engines are emptied for each test."""
    with start_stand(service_folder) as stand:
        yield stand


@pytest.fixture
def engines(stand):
    for engine in stand.engines.values():
        engine.renew()
    return stand.engines


@pytest.fixture
def workers(stand):
    return stand.workers


@pytest.fixture
def redis_server(stand):
    return stand.redis


@pytest.fixture
def settings(engines):
    """Those of a client on the first host."""
    return Settings(
        engine=EngineSettings(url=engines["one"].url, host="one"),
        runs=RunSettings(**RUNS),
        http=HttpSettings(backoff_seconds=0.01),
    )


@pytest.fixture
def fleet(redis_server, settings):
    with Fleet.connect(redis_server.url, settings=settings) as fleet:
        yield fleet


@pytest.fixture
def push(registry):
    def push_one(seed, *, into=None, path="stages/app", **options):
        layers = [archive_of({"base": b"shared" * 1000}), archive_of({"own": seed.encode() * 1000})]
        with ImageMaker(into or registry) as maker:
            return maker.push_image(
                path, stage_id_of(seed), **{"layers": layers, "labels": {"werf": "app"}, **options}
            )

    return push_one


@pytest.fixture
def environment(redis_server, engines, tmp_path):
    """That of commands on the first host."""
    return clean_environment(
        STAGEFLEET_REDIS_URL=redis_server.url,
        STAGEFLEET_ENGINE__URL=engines["one"].url,
        STAGEFLEET_ENGINE__HOST="one",
        DOCKER_CONFIG=str(tmp_path),
    )


@pytest.fixture
def command(run_here, environment, tmp_path):
    """Runs a command on the first host in this process."""
    return lambda *arguments: run_here(arguments, environment, tmp_path)


@pytest.fixture
def start_command(environment, tmp_path):
    """Starts a command on the first host; standard input is a pipe."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            stagefleet_command(*arguments),
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        if process.stdin is not None and process.stdin.closed:
            process.stdin = None  # else communicate would flush it
        process.communicate()
