from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[3]
LOCK = (ROOT / "requirements.lock").read_text()
DOCS_LOCK = (ROOT / "scripts/docs.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def unsatisfied(lock, groups):
    locked = dict(re.findall(r"^([a-z0-9.-]+)(?:\[[^]]*\])?==([^ ;]+)", lock, re.MULTILINE))
    named = [Requirement(text) for group in groups for text in group]
    wanted = [one for one in named if one.name != "stagefleet"]
    return [str(one) for one in wanted if Version(locked[canonicalize_name(one.name)]) not in one.specifier]


def test_the_lock_holds_a_version_that_satisfies_each_requirement():
    groups = [PROJECT["project"]["dependencies"], PROJECT["dependency-groups"]["dev"]]
    groups += [
        group for extra, group in PROJECT["project"]["optional-dependencies"].items() if extra != "ssh"
    ]
    assert [] == unsatisfied(LOCK, groups)


def test_the_site_has_a_lock_of_its_own():
    assert [] == unsatisfied(DOCS_LOCK, [PROJECT["dependency-groups"]["docs"]])


@pytest.mark.parametrize(("lock", "at_least"), [(LOCK, 50), (DOCS_LOCK, 20)])
def test_every_locked_package_has_hashes(lock, at_least):
    entries = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert len(entries) > at_least
    assert [] == [entry.split("==")[0] for entry in entries if "--hash=sha256:" not in entry]


@pytest.mark.parametrize("lock", [LOCK, DOCS_LOCK])
def test_the_lock_names_no_address_so_that_it_installs_from_any_index(lock):
    assert [] == re.findall(r"^--.*|.*://.*", lock, re.MULTILINE)
