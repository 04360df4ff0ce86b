"""The error tree is whole, documented, and survives the way between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest

from stagefleet import errors
from stagefleet.errors import RemoteError, StagefleetError

PAGE = Path(__file__).parents[2] / "docs/python.md"
CLASSES = sorted(
    (
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, StagefleetError)
    ),
    key=lambda error: error.__name__,
)
FIELDS = {
    "is_unknown": True,
    "method": "PUT",
    "host": "localhost",
    "repository": "localhost/a",
    "status": 404,
    "codes": ("BLOB_UNKNOWN",),
    "retry_after_seconds": 1.5,
    "missing": ("sha256:a",),
    "found": "sha256:b",
    "type_name": "KeyError",
}
each_class = pytest.mark.parametrize("error_class", CLASSES, ids=lambda error: error.__name__)


def make(error_class: type[StagefleetError]) -> StagefleetError:
    """An error with each of its fields set."""
    names = {
        name
        for base in error_class.__mro__
        if issubclass(base, StagefleetError) and "__init__" in vars(base)
        for name, parameter in inspect.signature(base).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return error_class("what to do", **{name: FIELDS[name] for name in names})


def documented() -> dict[str, tuple[str, bool]]:
    """The tree as docs/python.md draws it: class -> (parent, whether it is said to be retryable)."""
    tree = {"StagefleetError": ("Exception", False)}
    parents = ["StagefleetError"]
    for line in PAGE.read_text().splitlines():
        match = re.match(r"((?:\|   |    )*)\+-- (\w+)(.*)", line)
        if match is not None:
            depth = len(match[1]) // 4 + 1
            parents[depth:] = [match[2]]
            parent = parents[depth - 1]
            inherited = tree[parent][1] and "(not retryable" not in match[3]
            tree[match[2]] = (parent, inherited or "(retryable" in match[3])
    return tree


def test_the_page_draws_the_whole_tree():
    assert {
        error.__name__: (error.__bases__[0].__name__, error.retryable) for error in CLASSES
    } == documented()


@each_class
def test_each_says_what_it_is_and_ends_in_error(error_class: type[StagefleetError]):
    assert error_class.__name__.endswith("Error")
    assert (error_class.__doc__ or "").strip()


@each_class
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_each_survives_pickling_with_its_fields(error_class: type[StagefleetError], protocol: int):
    error = make(error_class)
    copied = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own bytes

    assert type(error) is type(copied)
    assert str(error) == str(copied) == "what to do"
    assert error.args == copied.args
    assert vars(error) == vars(copied)


@each_class
def test_each_can_be_copied(error_class: type[StagefleetError]):
    error = make(error_class)

    assert vars(error) == vars(copy.copy(error))
    assert str(error) == str(copy.deepcopy(error))


@each_class
def test_exit_codes_are_those_that_commands_promise(error_class: type[StagefleetError]):
    expected = 1
    if issubclass(error_class, errors.UsageError):
        expected = 2
    elif issubclass(error_class, errors.UnreachableError):
        expected = 4

    assert expected == error_class.exit_code


def test_a_malformed_name_is_a_value_error_too():
    assert issubclass(errors.InvalidNameError, ValueError)


def test_a_remote_error_knows_its_class():
    assert "KeyError" == RemoteError("x", type_name="KeyError").type_name
