"""What the task of a deletion tells the manager."""

from __future__ import annotations

from typing import cast

import pytest

from stagefleet.attempt import NOT_THERE, ItemResult
from stagefleet.leases import NO_LEASE
from stagefleet.projects.circuit_breakers import CircuitBreakers
from stagefleet.storages.manager import StageManager
from tasks.delete import delete_stage
from tasks.item import Attempt


class Manager:
    """Takes down what each repository is told to be asked for."""

    def __init__(self):
        self.told = {}
        self.having: set[str] = set()
        self.circuit_breakers = CircuitBreakers()

    def delete_stage(self, repository, stage_id, *, run_id, to_delete, lease):
        self.told[str(repository)] = list(to_delete())
        return ItemResult() if str(repository) in self.having else NOT_THERE


def test_what_goes_after_the_run_is_asked_for_in_the_repository_and_not_in_caches():
    manager, stage = Manager(), "ab" * 28 + "-1700000000000"
    options = {"repository": "a.example/app", "caches": ["b.example/cache"], "also": ["latest"]}
    attempt = Attempt(
        run_id="r", item=stage, options=options, lease=NO_LEASE, to_delete=lambda: iter([stage])
    )
    delete_stage(cast("StageManager", manager), attempt)
    assert {"b.example/cache": [stage], "a.example/app": [stage, "latest"]} == manager.told


@pytest.mark.parametrize(
    ("having", "number", "expected"),
    [
        ((), 1, NOT_THERE),
        (("a.example/app",), 1, ItemResult()),
        (("b.example/cache",), 1, ItemResult()),
        ((), 2, ItemResult()),
    ],
)
def test_what_was_nowhere_at_the_first_attempt_was_not_deleted(having, number, expected):
    """A later attempt cannot know that: an earlier one may have ended after its request."""
    manager, stage = Manager(), "ab" * 28 + "-1700000000000"
    manager.having = set(having)
    options = {"repository": "a.example/app", "caches": ["b.example/cache"]}
    attempt = Attempt(
        run_id="r",
        item=stage,
        options=options,
        lease=NO_LEASE,
        to_delete=lambda: iter([stage]),
        number=number,
    )
    assert expected == delete_stage(cast("StageManager", manager), attempt)
