"""Options of a run, as a task reads them: parsed once a run, and refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from stagefleet.attempt import Attempt
from stagefleet.errors import UsageError
from stagefleet.operations.catalog import OPERATIONS, parse_operation
from stagefleet.operations.copy import CopyOperation

ENDS = {"source": "a.test/app", "destination": "b.test/app"}
PROJECT = {
    "project": "app",
    "primary": "a.test/app",
    "final": "f.test/app",
    "caches": ["c.test/app"],
    "secondaries": ["s.test/app"],
}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "copy_stage": [
        ENDS | {"verify": False},
        ENDS | {"source": "docker-daemon:app", "verify": True, "hosts": ["h"]},
    ],
    "delete_stage": [
        {"repository": "a.test/app"},
        {"repository": "a.test/app", "caches": ["c.test/app"], "also": ["v1"]},
        {"repository": "docker-daemon:app", "skip_used": True, "hosts": ["h"]},
    ],
    "prune_stage": [
        {"repository": "b.test/app", "source": "a.test/app", "max_percent": 10.0},
    ],
    "describe_stage": [PROJECT],
    "fetch_stage": [
        PROJECT | {"hosts": ["h"]},
        PROJECT | {"platforms": ["linux/arm64"], "hosts": ["h"]},
        PROJECT | {"all_platforms": True, "hosts": ["h"]},
    ],
    "publish_stage": [PROJECT, PROJECT | {"should_be_built": True, "image": "web"}],
    "cache_stage": [PROJECT | {"final": None}],
    "take_stage": [PROJECT],
    "verify_stage": [
        {"repository": "a.test/app"},
        {"repository": "docker-daemon:app", "shallow": True, "reject": True, "hosts": ["h"]},
    ],
    "rm_image_metadata": [{"repository": "a.test/app", "image": ""}],
    "rm_managed_image": [{"repository": "a.test/app"}],
    "get_import_metadata": [{"repository": "docker-daemon:app", "hosts": ["h"]}],
    "rm_import_metadata": [{"repository": "a.test/app"}],
    "get_stage_custom_tag_metadata": [{"repository": "a.test/app"}],
    "delete_stage_custom_tag": [
        {"repository": "a.test/app"},
        {"repository": "a.test/app", "final": "f.test/app"},
    ],
    "delete_rejected_stage": [{"repository": "a.test/app"}, {"repository": "a.test/app", "unfinished": True}],
    "rm_record": [{"repository": "a.test/app", "kind": "client-id"}],
}
"""The forms that the ledger keeps; other releases write and read them, too."""


def test_every_operation_has_a_form():
    assert set(OPERATIONS) == set(OPTIONS)


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, forms in OPTIONS.items() for options in forms]
)
def test_what_the_ledger_keeps_is_read_and_written_alike(name, options):
    operation = parse_operation(name, options | {"of_a_later_release": 1})
    assert options == operation.options
    assert operation == Attempt("r", options=options).parsed(type(operation))


@pytest.mark.parametrize(
    "options", [{}, ENDS | {"source": "nowhere"}, ENDS | {"source": ENDS["destination"]}]
)
def test_what_cannot_be_read_is_refused_by_the_attempt(options):
    with pytest.raises(UsageError, match="source"):
        Attempt("r", options=options).parsed(CopyOperation)
