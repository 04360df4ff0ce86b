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
        ("stagefleet", {"pydantic", "requests", "typer"}, 120),
        ("stagefleet.cli", {"pydantic", "typer", "email", "importlib.metadata"}, 130),
        ("stagefleet.fleet.fleet", {"rich", "typer", "requests"}, 400),
        ("stagefleet.cli.app", {"config", "requests", "tasks"}, 480),
    ],
)
def test_a_module_loads_no_package_that_it_does_not_need(module, without, at_most):
    loaded = modules_with(module)
    assert set() == loaded & (_NEVER | without)
    assert len(loaded) <= at_most
