"""An engine, a registry and what speaks to both."""

from __future__ import annotations

import gc
import itertools
import json
import warnings

import pytest

from stagefleet.credentials import DockerConfig
from stagefleet.engine import Engine
from stagefleet.engine_address import EngineAddress
from stagefleet.locks import MemoryLocks
from stagefleet.names import EngineProject, Repository, StageId
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import EngineSettings, HttpSettings, Settings
from stagefleet.storages.docker_engine import EngineHost, EngineStorage
from stagefleet.testing import MemoryLastUsed
from tests.services import ImageMaker, archive_of, stage_id_of
from tests.stage_tasks import StageTasks

PROJECT = "app"
LABELS = {"werf": PROJECT}
RETRIES = 1
BASE = archive_of({"base": b"what all stages share" * 100})


@pytest.fixture
def docker_config(tmp_path):
    """Writes logins, by host; none where none are given."""
    numbers = itertools.count()

    def write(**auths):
        file = tmp_path / f"config-{next(numbers)}.json"
        entries = {host: {"username": user, "password": password} for host, (user, password) in auths.items()}
        file.write_text(json.dumps({"auths": entries}))
        return DockerConfig(file)

    return write


@pytest.fixture
def connect(docker_config, cleanup):
    """Connects to an engine; options as `EngineSettings`."""

    def make(server, config=None, **options):
        connection = Engine(
            EngineAddress(server.url), EngineSettings(**options), config=config or docker_config()
        )
        cleanup.callback(connection.close)
        return connection

    return make


@pytest.fixture
def connection(engine, connect):
    return connect(engine, timeout_seconds=10)


@pytest.fixture
def storage(connection):
    return EngineStorage(EngineHost(connection, "here", MemoryLocks()), EngineProject(PROJECT))


@pytest.fixture
def client(docker_config, cleanup):
    settings = Settings(http=HttpSettings(backoff_seconds=0.01, retries=RETRIES))
    client = RegistryClient(settings, config=docker_config())
    cleanup.callback(client.close)
    return client


@pytest.fixture
def locks(cleanup):
    locks = MemoryLocks()
    cleanup.callback(locks.close)
    return locks


@pytest.fixture
def last_used():
    return MemoryLastUsed()


@pytest.fixture
def make_host(client, connection, locks, last_used):
    """Makes what works with the images of an engine; that of the test by default."""

    def make(engine=connection):
        return StageTasks(client, locks=locks, host=EngineHost(engine, "here", locks, last_used))

    return make


@pytest.fixture
def host(make_host):
    return make_host()


@pytest.fixture
def repository(registry):
    return Repository.parse(f"{registry.host}/stages/app")


@pytest.fixture
def push(registry):
    """Pushes a stage that an engine can unpack; returns it with its id."""

    def push_one(seed, *, into=None, path="stages/app", **options):
        stage_id = StageId.parse(stage_id_of(seed))
        options.setdefault("layers", [BASE, archive_of({"own": seed.encode() * 1000})])
        with ImageMaker(into or registry) as maker:
            pushed = maker.push_image(path, str(stage_id), **{"labels": LABELS, **options})
        return stage_id, pushed

    return push_one


@pytest.fixture
def lose_blob():
    """Takes a blob out of a registry that goes on believing in it."""

    def lose(server, digest):
        name = digest.partition(":")[2]
        (server.root / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data").unlink()

    return lose


@pytest.fixture
def leaked_sockets():
    """docker-py leaves a socket open when it cannot connect: collected here, where nobody minds."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
