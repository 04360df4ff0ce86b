"""The command as a shell starts it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

import pytest

from tests.services import ImageMaker, clean_environment, stage_id_of, stagefleet_command

WAIT_SECONDS = 60


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
    """Nothing of the user's: neither settings nor logins."""
    return clean_environment(HOME=str(tmp_path), DOCKER_CONFIG=str(tmp_path))


@pytest.fixture
def fleet(environment, redis_server, make_workers):
    """Commands find a Redis, and a worker listens there."""
    make_workers(redis_server.url, environment={"DOCKER_CONFIG": environment["DOCKER_CONFIG"]})
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
def command(start, finish):
    return lambda *arguments, **variables: finish(start(*arguments, **variables))


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
