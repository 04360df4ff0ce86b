"""docs/seed-map.md tells where everything of the seed went: no row is missing, and none points nowhere."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, get_type_hints

import pytest
import typer

from stagefleet.cli.app import app
from stagefleet.fleet.callbacks import RunArguments
from stagefleet.runs.messages import task_name
from workers.context import ITEM_FUNCTIONS

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "seed-map.md"
COMMAND_LINE = typer.main.get_command(app)

INTERFACE = re.findall(
    r"\w+",
    """
    InitCache
    GetStagesStorage GetFinalStagesStorage GetSecondaryStagesStorageList GetCacheStagesStorageList
    GetImageInfoGetter
    EnableParallel MaxNumberOfWorkers GenerateStageUniqueID
    GetImageInfo
    LockStageImage
    GetStagesByDigest GetStagesByDigestWithCache
    GetStagesByDigestFromStagesStorage GetStagesByDigestFromStagesStorageWithCache
    GetStageDescriptionList GetStageDescriptionListWithCache GetFinalStageDescriptionList
    FetchStage SelectSuitableStage
    CopySuitableByDigestStage CopyStageIntoCacheStorages CopyStageIntoFinalStorage
    ForEachDeleteStage ForEachDeleteFinalStage
    ForEachRmImageMetadata ForEachRmManagedImage
    ForEachGetImportMetadata ForEachRmImportMetadata
    ForEachGetStageCustomTagMetadata ForEachDeleteStageCustomTag
    """,
)
BESIDE = [
    "GetServiceValuesRepo",
    "RetryOnUnexpectedStagesStorageState",
    "ConvertStageDescriptionForStagesStorage",
]
SEED = [*INTERFACE, *BESIDE]
"""All that the seed offers; it is not kept here, so its names are."""


class Row(NamedTuple):
    """What the table says of one name of the seed."""

    name: str
    python: list[str]
    tasks: list[str]
    commands: list[str]
    tests: list[str]


def read_rows(text: str) -> Iterator[Row]:
    for line in text.splitlines():
        cells = [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split(" | ")]
        if line.startswith("| `"):
            (name,), *others = cells
            yield Row(name, *others)


ROWS = list(read_rows(DOCUMENT.read_text()))


def resolve(name: str) -> None:
    """Follow a dotted name, and an argument in brackets after it.

    Raises:
        LookupError: It leads nowhere.
    """
    path, _, argument = name.rstrip(")").partition("(")
    found = follow(path)
    if argument and not takes(found, argument):
        raise LookupError(f"{path} takes no {argument}")


def follow(path: str) -> object:
    first, *parts = path.split(".")
    found: object = load(first)
    for number, part in enumerate(parts, start=1):
        if hasattr(found, part):
            found = getattr(found, part)
        elif inspect.ismodule(found):
            found = load(".".join([first, *parts[:number]]))
        elif part in getattr(found, "model_fields", {}):
            found = None  # a setting is no attribute of its class, and has no parts
        else:
            raise LookupError(path)
    return found


def load(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise LookupError(module) from error


def takes(function: object, argument: str) -> bool:
    """Whether a function has a parameter of its own."""
    assert callable(function)
    parameters = inspect.signature(function).parameters
    return argument in parameters or ("run" in parameters and argument in get_type_hints(RunArguments))


def find_command(line: str) -> None:
    """Look for a command, and for the options in it.

    Raises:
        LookupError: The command line does not have it.
    """
    program, *words = line.split()
    assert "stagefleet" == program
    command = COMMAND_LINE
    for word in words:
        options = {option for parameter in command.params for option in parameter.opts}
        commands = getattr(command, "commands", {})
        if word not in (options if word.startswith("-") else commands):
            raise LookupError(f"{line}: no {word}")
        command = commands.get(word, command)


@cache
def names_in(file: str) -> frozenset[str]:
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    return frozenset(named_in(ast.parse(path.read_text()).body))


def named_in(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (f"{node.name}::{name}" for name in named_in(node.body))


def find_test(node_id: str) -> None:
    """Look for a test where pytest would.

    Raises:
        LookupError: There is none.
    """
    file, _, name = node_id.partition("::")
    if not name.rpartition("::")[2].startswith("test_") or name not in names_in(file):
        raise LookupError(node_id)


def test_every_name_of_the_seed_has_one_row_and_nothing_else_has():
    assert 34 == len(SEED)
    assert sorted(SEED) == sorted(row.name for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_leads_somewhere(row):
    assert row.python
    assert row.tests
    for name in row.python:
        resolve(name)
    assert set() == set(row.tasks) - set(map(task_name, ITEM_FUNCTIONS))
    for line in row.commands:
        find_command(line)
    for node_id in row.tests:
        find_test(node_id)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_held_by_a_test_on_real_parts(row):
    assert any(node_id.startswith("tests/integration/") for node_id in row.tests)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_the_seed_does_for_each_is_a_method_of_the_fleet_with_a_task_and_a_command(row):
    if row.name.startswith("ForEach"):
        assert all(re.fullmatch(r"stagefleet\.(Fleet|fleet\..*)\.for_each_\w+", name) for name in row.python)
        assert row.tasks
        assert row.commands


@pytest.mark.parametrize(
    "name",
    [
        "nowhere.at_all",
        "stagefleet.nowhere",
        "stagefleet.Fleet.for_each_nothing",
        "stagefleet.projects.lookup.StageLookup.nothing",
        "stagefleet.settings.RunSettings.nothing",
        "stagefleet.Fleet.for_each_copy_stage(nothing)",
    ],
)
def test_a_name_that_leads_nowhere_is_noticed(name):
    with pytest.raises(LookupError):
        resolve(name)


@pytest.mark.parametrize(
    "line", ["stagefleet nothing", "stagefleet records nothing", "stagefleet copy --nothing"]
)
def test_a_command_that_does_not_exist_is_noticed(line):
    with pytest.raises(LookupError):
        find_command(line)


@pytest.mark.parametrize(
    "node_id",
    [
        "tests/unit/nowhere.py::test_nothing",
        "tests/unit/tooling/test_seed_map.py::test_nothing",
        "tests/unit/tooling/test_seed_map.py::Nothing::test_a_row_leads_somewhere",
        "tests/unit/tooling/test_seed_map.py::resolve",
        "tests/unit/tooling/test_seed_map.py",
    ],
)
def test_a_test_that_does_not_exist_is_noticed(node_id):
    with pytest.raises(LookupError):
        find_test(node_id)
