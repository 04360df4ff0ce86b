"""Regular expressions keep to what every supported Python matches rightly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    path for folder in ("stagefleet", "config", "tasks", "workers") for path in (ROOT / folder).rglob("*.py")
)
POSSESSIVE_GROUP = re.compile(r"(?<!\\)\)(?:[*+?]|\{[0-9,]+\})\+|\(\?>")


@pytest.mark.parametrize("text", [r"(?:ab?c)*+", r"(a|b)++", r"(a)?+", r"(?:a){1,3}+", r"(?>a)"])
def test_a_possessive_group_is_found(text):
    assert POSSESSIVE_GROUP.search(text)


def test_no_pattern_has_a_possessive_group():
    """Python before 3.11.5 lets such a group match what it must not (python/cpython#106052).

    On Debian 12, which has 3.11.2, a tag list of more than a piece was refused as no JSON.
    """
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if POSSESSIVE_GROUP.search(line)
    ]
    assert SOURCES
    assert [] == found
