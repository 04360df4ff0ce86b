"""The examples for CI systems name commands and options that exist; tests/image runs them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.unit.tooling.test_deploy import check_command_line

ROOT = Path(__file__).parents[3]
PAGES = ("README.md", "docs/ci.md")


def blocks(page, language):
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def scripts(page):
    """What the jobs of a page give to a shell."""
    for block in blocks(page, "yaml"):
        for job in (found := yaml.safe_load(block)).get("jobs", found).values():
            yield from job.get("before_script", [])
            yield from job.get("script", [])
            yield from job.get("after_script", [])
            yield from (step["run"] for step in job.get("steps", []) if "run" in step)
    for block in blocks(page, "groovy"):
        yield from re.findall(r"sh '''\n(.*?)'''", block, re.DOTALL)
        yield from re.findall(r"sh '([^'\n]+)'", block)


def commands(page):
    for script in scripts(page):
        for line in script.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            if words[:1] == ["stagefleet"]:
                yield words[1 : words.index(">")] if ">" in words else words[1:]


@pytest.mark.parametrize(("page", "count"), [("README.md", 4), ("docs/ci.md", 7)])
def test_each_command_of_the_examples_can_be_parsed(page, count):
    found = list(commands(page))
    assert count == len(found)
    for arguments in found:
        check_command_line(arguments)


def test_the_job_of_the_readme_is_that_of_the_page():
    readme, page = (yaml.safe_load(blocks(name, "yaml")[0]) for name in PAGES)
    assert "mirror-stages" in readme
    assert page == readme
