"""The image, built once from deploy/Dockerfile, and what its containers meet: registries, Redis, workers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.image.base import DOCKERFILE, ROOT, find_base
from tests.image.containers import NETWORK, Mirror, wait_for_log
from tests.services import DockerEngine, RedisServer, RegistryServer
from tests.services.docker_command import DockerCommand
from tests.services.images import push_stages

IMAGE = "stagefleet:test"
LOGIN = ("ci", "a password of CI's")
STAGES = 4
BUILD_SECONDS = 900

_BUILT = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def docker(service_folder: Callable[[str], Path]) -> Iterator[DockerCommand]:
    """The `docker` command, with an engine of its own."""
    engine = DockerEngine(service_folder("engine")).start()
    yield DockerCommand(engine, service_folder("docker-command"))
    engine.stop()


@pytest.fixture(scope="session")
def base(docker: DockerCommand, request: pytest.FixtureRequest) -> str:
    """The name of the base image."""
    found = find_base(docker)
    request.config.stash[_BUILT] = found.words
    return found.name


@pytest.fixture(scope="session")
def image(docker: DockerCommand, base: str) -> str:
    """The image's name."""
    arguments = ["--build-arg", f"PYTHON={base}", "--build-arg", "REVISION=0123abc"]
    docker.answer(
        "build", *NETWORK, *arguments, "--file", DOCKERFILE, "--tag", IMAGE, ROOT, seconds=BUILD_SECONDS
    )
    return IMAGE


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say on what the image was built: it decides what the tests have shown."""
    if _BUILT in config.stash:
        terminalreporter.write_line(f"the image's base: {config.stash[_BUILT]}")


@pytest.fixture(autouse=True)
def _no_containers_left(docker: DockerCommand) -> Iterator[None]:
    yield
    if left := docker.answer("ps", "--all", "--quiet").split():
        docker.answer("rm", "--force", "--volumes", *left)


@pytest.fixture
def make_folder(service_folder: Callable[[str], Path]) -> Callable[[str], Path]:
    """Makes folders that any user of a container may use, as CI systems hand them to their containers."""

    def make(name: str) -> Path:
        made = service_folder(name)
        made.mkdir()
        made.chmod(0o777)
        return made

    return make


@pytest.fixture
def mirror(registry: RegistryServer, make_registry: Callable[..., RegistryServer]) -> Mirror:
    """Stages in one registry, and another one that asks for a login."""
    other = make_registry(htpasswd=dict([LOGIN]))
    pushed = push_stages(registry, "app/stages", STAGES)
    login = base64.b64encode(":".join(LOGIN).encode()).decode()
    return Mirror(
        source_registry=registry,
        registry=other,
        source=f"{registry.host}/app/stages",
        destination=f"{other.host}/app/stages",
        stages=tuple(sorted(str(stage.tag) for stage in pushed)),
        logins=json.dumps({"auths": {other.host: {"auth": login}}}),
    )


@pytest.fixture
def logins(mirror: Mirror, make_folder: Callable[[str], Path]) -> list[str]:
    """The options that give a container the logins."""
    folder = make_folder("logins")
    (folder / "config.json").write_text(mirror.logins)
    return ["-v", f"{folder}:/docker:ro", "-e", "DOCKER_CONFIG=/docker"]


@pytest.fixture
def fleet(docker: DockerCommand, image: str, redis_server: RedisServer, logins: list[str]) -> str:
    """The URL of the Redis of a fleet with one worker, which is a container of the image."""
    options = [*NETWORK, *logins, "-e", f"STAGEFLEET_REDIS_URL={redis_server.url}"]
    container = docker.answer("run", "--detach", *options, image, "worker", "--processes", "1")
    wait_for_log(docker, container, '"ready"')
    return redis_server.url
