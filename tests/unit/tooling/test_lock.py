from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[3]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_lock_holds_a_version_that_satisfies_each_requirement():
    locked = dict(re.findall(r"^([a-z0-9.-]+)(?:\[[^]]*\])?==([^ ;]+)", LOCK, re.MULTILINE))
    groups = [PROJECT["project"]["dependencies"], PROJECT["dependency-groups"]["dev"]]
    groups += [
        group for extra, group in PROJECT["project"]["optional-dependencies"].items() if extra != "ssh"
    ]
    named = [Requirement(text) for group in groups for text in group]
    wanted = [one for one in named if one.name != "stagefleet"]
    assert [] == [
        str(one) for one in wanted if Version(locked[canonicalize_name(one.name)]) not in one.specifier
    ]


def test_every_locked_package_has_hashes():
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    assert [] == [entry.split("==")[0] for entry in entries if "--hash=sha256:" not in entry]


def test_the_lock_names_no_address_so_that_it_installs_from_any_index():
    assert [] == re.findall(r"^--.*|.*://.*", LOCK, re.MULTILINE)
