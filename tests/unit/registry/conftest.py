import socket
from contextlib import ExitStack

import pytest

from stagefleet.credentials import DockerConfig
from stagefleet.names import Repository
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import HttpSettings, Settings
from tests.unit.registry.raw import RawServer
from tests.unit.registry.scripted import ScriptedServer


@pytest.fixture
def serve():
    """Starts scripted servers; they end with the test."""
    with ExitStack() as stack:
        yield lambda script, **more: stack.enter_context(ScriptedServer(script, **more).running())


@pytest.fixture
def naps():
    """How long the client slept, in seconds."""
    return []


@pytest.fixture
def client(tmp_path, naps, monkeypatch):
    """A client without logins, whose waits take no time."""
    http = HttpSettings(retries=3, backoff_seconds=0.01, backoff_limit_seconds=0.04, read_timeout_seconds=5)
    client = RegistryClient(Settings(http=http), config=DockerConfig(tmp_path / "config.json"))
    monkeypatch.setattr(
        client._http_client, "pause", lambda seconds, lease, *_: (naps.append(seconds), lease.check())
    )
    with client:
        yield client


@pytest.fixture
def repository_at():
    return lambda server: Repository.parse(f"{server.host}/group/app")


@pytest.fixture
def short_slices(monkeypatch):
    """Makes waits look at their lease more often."""
    for module in ("leases", "registry.http.waits", "credentials"):
        monkeypatch.setattr(f"stagefleet.{module}.SLICE_SECONDS", 0.05)


@pytest.fixture
def start():
    """Starts raw servers; they end with the test."""
    with ExitStack() as stack:
        yield lambda serve, **more: stack.enter_context(RawServer(serve, **more).running())


@pytest.fixture
def connect(tmp_path):
    """Makes clients that try once; takes settings."""
    with ExitStack() as stack:

        def connect(*, registries=None, **http):
            settings = Settings(
                http=HttpSettings(**{"retries": 0, "connect_timeout_seconds": 30, **http}),
                registries=registries or {},
            )
            config = DockerConfig(tmp_path / "config.json")
            return stack.enter_context(RegistryClient(settings, config=config))

        yield connect


@pytest.fixture
def black_hole():
    """An address that answers no connection: its listener's queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.settimeout(0)
            filling.connect_ex(address)
        yield address
