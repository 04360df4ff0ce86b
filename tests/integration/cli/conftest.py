"""The command as a shell starts it, and in the tests' own process where that makes no difference."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

import pytest

from tests.services import ImageMaker, clean_environment, stage_id_of, stagefleet_command

WAIT_SECONDS = 60
HASTE = {
    "STAGEFLEET_HTTP__BACKOFF_SECONDS": "0.01",
    "STAGEFLEET_RUNS__BACKOFF_SECONDS": "0.05",
    "STAGEFLEET_RUNS__SWEEP_SECONDS": "0.5",
    "STAGEFLEET_WORKER__PROCESSES": "1",
}
"""Short pauses before a second try, and one process in the worker of an embedded command."""


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def objects(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def environment(tmp_path):
    """Nothing of the user's: neither settings nor logins; no command waits long before it tries again."""
    return clean_environment(HOME=str(tmp_path), DOCKER_CONFIG=str(tmp_path), **HASTE)


@pytest.fixture
def fleet(environment, redis_server, make_workers):
    """Commands find a Redis, and a worker listens there."""
    make_workers(redis_server.url, environment={"DOCKER_CONFIG": environment["DOCKER_CONFIG"], **HASTE})
    environment["STAGEFLEET_REDIS_URL"] = redis_server.url


@pytest.fixture
def start(environment, tmp_path):
    """Starts a command; what a test leaves running is killed."""
    started = []

    def start(*arguments, **variables):
        process = subprocess.Popen(
            stagefleet_command(*arguments),
            env=environment | variables,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def finish():
    def finish(process):
        out, err = process.communicate(timeout=WAIT_SECONDS)
        return Result(process.returncode, out, err)

    return finish


@pytest.fixture
def shell_command(start, finish):
    """Runs a command in a process of its own."""
    return lambda *arguments, **variables: finish(start(*arguments, **variables))


@pytest.fixture
def command(run_here, environment, tmp_path):
    """Runs a command in this process."""

    def run(*arguments, **variables):
        done = run_here(arguments, environment | variables, tmp_path)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def push_stages():
    """Pushes stages that share one layer; gives the digest of each by its stage id."""

    def push(registry, path, count):
        with ImageMaker(registry) as maker:
            pushed = [
                maker.push_image(
                    path,
                    stage_id_of(f"{path} {number}", 1_700_000_000_000 + number),
                    layers=[b"shared", f"own {number}".encode()],
                )
                for number in range(count)
            ]
        return {image.tag: image.digest for image in pushed}

    return push


@pytest.fixture
def digests_in():
    """The digest of each tag of a repository."""

    def digests(registry, path):
        with ImageMaker(registry) as maker:
            return {tag: maker.digest(path, tag) for tag in maker.tags(path)}

    return digests
