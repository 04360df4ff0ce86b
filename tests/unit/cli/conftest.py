"""Runs commands in this process, on a fleet in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from stagefleet.cli import run_command

# The fleet in memory is the client's own.
from tests.unit.fleet.conftest import (  # noqa: F401 - fixtures are used by name
    _short_waits,
    fake_worker,
    ledger,
    make_stage,
    notices,
    registries,
    services,
    settings,
)


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def objects(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in ("STAGEFLEET_REDIS_URL", "STAGEFLEET_CONFIG", "STAGEFLEET_LOG__LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def in_fleet(monkeypatch, services):  # noqa: F811 - the fixture of that name
    """Commands find a Redis URL, and behind it the fleet in memory."""
    monkeypatch.setenv("STAGEFLEET_REDIS_URL", "redis://user:secret@redis.test:6379/0")

    def connect(url, settings):  # noqa: F811 - the parameter of that name
        services.settings = services.settings.model_copy(
            update={"runs": services.settings.runs.model_copy(update={"parallel": settings.runs.parallel})}
        )
        return services

    monkeypatch.setattr("stagefleet.fleet.fleet.Connections", connect)


@pytest.fixture
def without_fleet(monkeypatch, services):  # noqa: F811 - the fixture of that name
    """Commands find no Redis URL; what they would start is the fleet in memory."""

    def start(settings, *, on_start):  # noqa: F811 - the parameter of that name
        on_start()
        return services

    monkeypatch.setattr("stagefleet.fleet.fleet.EmbeddedConnections", start)


@pytest.fixture
def command(capsys):
    def run(*arguments):
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run
