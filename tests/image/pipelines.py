"""The examples of docs/ci.md, as their CI systems read them, with the repositories of the tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.image.containers import Mirror

_PAGE = Path(__file__).parents[2] / "docs" / "ci.md"
_SOURCES = ("$CI_REGISTRY_IMAGE/stages", "ghcr.io/OWNER/app/stages", "registry.example.com/app/stages")
_DESTINATION = "mirror.example.com/app/stages"


def examples(language: str) -> list[str]:
    """The code blocks of the page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", _PAGE.read_text(), re.MULTILINE | re.DOTALL)


def pipelines() -> dict[str, Any]:
    """The top level of the page's YAML, all blocks together."""
    found: dict[str, Any] = {}
    for block in examples("yaml"):
        found |= yaml.safe_load(block)
    return found


def for_tests(script: str, mirror: Mirror) -> str:
    """A script of an example with the repositories of the tests in place of its own."""
    for source in _SOURCES:
        script = script.replace(source, mirror.source)
    script = script.replace(_DESTINATION, mirror.destination)
    assert "example.com" not in script, script
    return script
