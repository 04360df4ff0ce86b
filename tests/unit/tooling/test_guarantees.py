"""Holds `docs/guarantees.md` to the tests that it names."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/guarantees.md"
PROOF = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PROOFS_LAST = re.compile(r"\((?:`tests/[\w/]+\.py::\w+`(?:, )?)+\)\.?$")


def _blocks() -> list[str]:
    """The page's paragraphs and list items after its introduction, each on one line."""
    _, _, body = PAGE.read_text(encoding="utf-8").partition("\n## ")
    text = re.sub(r"^## .*$", "", f"## {body}", flags=re.MULTILINE)
    return [
        " ".join(block.split())
        for paragraph in re.split(r"\n\s*\n", text)
        for block in re.split(r"^- ", paragraph, flags=re.MULTILINE)
        if block.strip()
    ]


@cache
def _tests_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))


def test_every_sentence_ends_with_the_tests_that_show_it() -> None:
    assert [] == [block for block in _blocks() if not PROOFS_LAST.search(block)]


@pytest.mark.parametrize("proof", sorted(set(PROOF.findall(PAGE.read_text(encoding="utf-8")))), ids="::".join)
def test_every_named_test_is_there(proof: tuple[str, str]) -> None:
    path, name = proof

    assert (ROOT / path).is_file(), f"there is no {path}"
    assert name in _tests_of(path)
