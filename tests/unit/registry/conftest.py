from contextlib import ExitStack

import pytest

from stagefleet.names import Repository
from stagefleet.registry import DockerConfig, RegistryClient
from stagefleet.settings import HttpSettings, Settings
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
        client._caller, "pause", lambda seconds, leash, *_: (naps.append(seconds), leash.check())
    )
    with client:
        yield client


@pytest.fixture
def repository_at():
    return lambda server: Repository.parse(f"{server.host}/group/app")
