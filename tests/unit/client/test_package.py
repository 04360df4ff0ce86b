from __future__ import annotations

import subprocess
import sys

import stagefleet


def test_every_public_name_is_there():
    assert set(stagefleet.__all__) == set(stagefleet._HOMES)
    for name in stagefleet.__all__:
        assert getattr(stagefleet, name).__name__ == name
    assert set(stagefleet.__all__) <= set(dir(stagefleet))


def test_importing_the_package_loads_none_of_its_libraries():
    code = "import sys, stagefleet; print(*{'redis', 'requests', 'pydantic', 'typer'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "" == loaded.stdout.strip()


def test_the_front_door_loads_no_celery():
    code = "import sys, stagefleet.cli.app; print(*{'celery', 'kombu', 'config', 'tasks'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "" == loaded.stdout.strip()
