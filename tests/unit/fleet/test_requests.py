"""Requests for runs: a wrong argument is named as it was written, with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from stagefleet.errors import UsageError
from stagefleet.fleet.requests import RunRequest
from stagefleet.operations.catalog import REQUESTS

STAGE = f"{1:056x}-1700000000000"
GOOD: dict[str, dict[str, Any]] = {
    "copy": {"source": "a.test/app", "destination": "b.test/app"},
    "delete": {"repository": "a.test/app"},
    "describe": {"primary": "a.test/app"},
    "fetch": {"primary": "a.test/app", "hosts": ["h"]},
    "publish": {"primary": "a.test/app", "final": "f.test/app"},
    "verify": {"repository": "a.test/app"},
    "remove_records": {"repository": "a.test/app", "kind": "managed-image"},
}
OF_ALL = ("parallel", "idempotency_key", "on_outcome_url", "on_outcome_task", "on_finish_url", "missing_ok")
WRONG: list[Any] = [5, 1.5, -1, "x y", "", [1], ["x", 1], {"a": 1}, None, True]
LIBRARYS_WORDS = ("Input", "should", "valid", "instance", "Value error", "type", "str", "dict", "tuple")


def parse(operation: str, **arguments: Any) -> RunRequest:
    items = {REQUESTS[operation].items: [STAGE]}
    return RunRequest.parse((), {"operation": operation} | GOOD[operation] | items | arguments)


@pytest.mark.parametrize("operation", GOOD)
def test_what_is_right_is_taken(operation):
    assert operation == parse(operation).name


def test_all_requests_are_tried():
    assert set(REQUESTS) == set(GOOD)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (operation, name)
        for operation, request in REQUESTS.items()
        for name in (*request.arguments, request.items, *OF_ALL)
    ],
)
def test_a_wrong_value_is_refused_in_one_plain_line(operation, name):
    """Whatever the value is, and whatever the argument: no words of the library that checks it."""
    for value in WRONG:
        try:
            parse(operation, **{name: value})
        except UsageError as error:
            told = str(error)
            assert "\n" not in told
            assert not [word for word in LIBRARYS_WORDS if f" {word} " in f" {told} "], told
            names_it = told.startswith((f"{name}: ", f"{name}[", "project: "))
            assert names_it or value is None or value == "", told  # as if it were left out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"stage_ids": [STAGE, 1]}, "stage_ids[1]: write a text, in quotes"),
        ({"stage_ids": STAGE}, 'stage_ids: write a list, as ["A", "B"]'),
        ({"source": 5}, "source: write an address, in quotes, as HOST/PATH"),
        ({"verify": "perhaps"}, "verify: write true or false"),
        ({"parallel": 0}, "parallel: write 1 or more"),
        ({"parallel": "many"}, "parallel: write a whole number"),
        ({"hosts": ["h", None]}, "hosts[1]: write a text, in quotes"),
    ],
)
def test_it_says_what_to_write(arguments, told):
    with pytest.raises(UsageError) as refused:
        parse("copy", **arguments)
    assert told == str(refused.value)


def test_the_items_are_named_as_the_request_has_them():
    wanted = {"operation": "delete", "repository": "a.test/app"}
    for more, told in (
        ({"stage_ids": [1]}, "items[0]: write a text, in quotes"),
        ({}, "items: delete needs it"),
    ):
        with pytest.raises(UsageError) as refused:
            RunRequest.parse((), wanted | more, items_as="items")
        assert told == str(refused.value)


@pytest.mark.parametrize("nothing", [None, "", []])
def test_a_storage_of_no_value_is_one_that_is_left_out(nothing):
    assert parse("publish", caches=nothing) == parse("publish")
