"""One fleet for all registries of the suite: a Redis, a worker, and a client of it."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stagefleet import Fleet
from stagefleet.settings import Settings
from tests.contract.registries.products import PRODUCTS, Product
from tests.services import ImageMaker, RedisServer, RegistryServer, Workers

WORKER = Path(__file__).with_name("brisk_worker.py")
_NUMBERS = itertools.count()
_HASTE = {"http": {"backoff_seconds": 0.01}, "runs": {"backoff_seconds": 0.05, "sweep_seconds": 0.5}}


def _worker_command(*options: object) -> list[str]:
    return [sys.executable, str(WORKER), *map(str, options)]


@pytest.fixture(scope="module")
def services() -> Iterator[ExitStack]:
    """What ends with the tests of a module."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def make_server(service_folder: Callable[[str], Path], services: ExitStack) -> Callable[..., RegistryServer]:
    """Starts registries for a module; arguments as `RegistryServer`."""

    def make(**options: Any) -> RegistryServer:
        server = RegistryServer(service_folder("registry"), **options)
        services.callback(server.stop)
        return server.start()

    return make


@pytest.fixture(scope="module")
def logins(service_folder: Callable[[str], Path]) -> Path:
    """The folder of Docker's configuration file, for client and worker."""
    folder = service_folder("docker")
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def fleet(service_folder: Callable[[str], Path], services: ExitStack, logins: Path) -> Iterator[Fleet]:
    """A client of a fleet with a Redis and a worker of its own."""
    redis = RedisServer(service_folder("redis"))
    services.callback(redis.stop)
    redis.start()
    environment = {
        "DOCKER_CONFIG": str(logins),
        "STAGEFLEET_HTTP": json.dumps(_HASTE["http"]),
        "STAGEFLEET_RUNS": json.dumps(_HASTE["runs"]),
    }
    workers = Workers(
        redis.url,
        service_folder("workers"),
        concurrency=8,
        environment=environment,
        command=_worker_command,
    )
    services.callback(workers.kill)
    workers.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_CONFIG", str(logins))
        settings = Settings.model_validate({"redis_url": redis.url, **_HASTE})
        with Fleet.connect(settings=settings, on_notice=print) as client:
            yield client


@pytest.fixture(scope="module", params=PRODUCTS)
def product(
    request: pytest.FixtureRequest,
    make_server: Callable[..., RegistryServer],
    service_folder: Callable[[str], Path],
    logins: Path,
) -> Iterator[Product]:
    """Each registry of the suite in turn."""
    with PRODUCTS[request.param](make_server, service_folder("product")) as made:
        (logins / "config.json").write_text(json.dumps({"auths": {made.host: made.login}}))
        yield made


@pytest.fixture(scope="module")
def elsewhere(make_server: Callable[..., RegistryServer]) -> RegistryServer:
    """Another registry, where stages come from and go to."""
    return make_server()


@dataclass(frozen=True)
class Repositories:
    """Repositories of one test, in the registry under test."""

    product: Product
    maker: ImageMaker
    group: str

    def address(self, name: str) -> str:
        """Name a repository as clients do."""
        return f"{self.product.host}/{self.path(name)}"

    def path(self, name: str) -> str:
        """Name a repository as the maker of images does."""
        return f"{self.group}/{name}"

    def digests(self, name: str) -> dict[str, str | None]:
        """Return the digest of each tag of a repository."""
        path = self.path(name)
        return {tag: self.maker.digest(path, tag) for tag in self.maker.tags(path)}


@pytest.fixture
def repositories(product: Product) -> Iterator[Repositories]:
    """Repositories of this test's own."""
    with product.maker() as maker:
        yield Repositories(product, maker, f"test{next(_NUMBERS)}")
