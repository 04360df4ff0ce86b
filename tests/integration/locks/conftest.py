"""Locks of a fleet on a real Redis."""

from __future__ import annotations

import pytest

from stagefleet.credentials import DockerConfig
from stagefleet.locks import RedisLocks
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import LockSettings, Settings


@pytest.fixture
def make_locks(redis_server, cleanup):
    """Makes the locks of one more process."""

    def make(**sections):
        settings = Settings(locks=LockSettings(**sections))
        locks = RedisLocks.connect(redis_server.url, settings)
        cleanup.callback(locks.close)
        return locks

    return make


@pytest.fixture
def locks(make_locks):
    return make_locks()


@pytest.fixture
def client(tmp_path):
    with RegistryClient(Settings(), config=DockerConfig(tmp_path / "config.json")) as client:
        yield client
