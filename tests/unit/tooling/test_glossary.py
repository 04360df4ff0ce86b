"""The names of the product use the words of `docs/glossary.md`, or plain ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PRODUCT = ("stagefleet", "config", "tasks", "workers")
PLAIN = frozenset((Path(__file__).parent / "plain_words.txt").read_text().split())
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/glossary.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| word |", "| --- "))
]
MODULES = sorted(path for top in PRODUCT for path in (ROOT / top).rglob("*.py"))


def words_of(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def singular(word: str) -> str:
    for ending, end in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("s", "")):
        if word.endswith(ending) and not word.endswith("ss"):
            return word.removesuffix(ending) + end
    return word


GLOSSARY = frozenset(singular(word) for row in ROWS for word in words_of(row[0]))
BANNED = frozenset(word for row in ROWS for word in words_of(row[3]))


def classes() -> dict[str, Path]:
    return {
        node.name: path
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }


CLASSES = classes()


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_the_words_of_a_module_s_name_are_words_of_the_field(path):
    assert set() == {
        word for word in words_of(path.stem) if {word, singular(word)}.isdisjoint(GLOSSARY | PLAIN)
    }


@pytest.mark.parametrize("name", sorted(name for name in CLASSES if not name.startswith("_")))
def test_the_words_of_a_class_are_words_of_the_field(name):
    assert set() == {word for word in words_of(name) if {word, singular(word)}.isdisjoint(GLOSSARY | PLAIN)}


def test_no_name_has_a_word_that_another_one_stands_for():
    names = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and BANNED.intersection(words_of(node.name))
    }
    assert set() == names | {str(path) for path in MODULES if BANNED.intersection(words_of(path.stem))}


def test_no_plain_word_is_in_the_glossary_too():
    assert set() == PLAIN & (GLOSSARY | BANNED)


def test_each_plain_word_is_in_a_name():
    used = {word for name in [*CLASSES, *(path.stem for path in MODULES)] for word in words_of(name)}
    assert set() == PLAIN - used - {singular(word) for word in used}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_classes_of_the_glossary_exist(row):
    public = {"StorageAddress"}  # an alias
    assert set() == set(re.findall(r"`(\w+)`", row[2])) - set(CLASSES) - public
