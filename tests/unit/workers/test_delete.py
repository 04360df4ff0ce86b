"""What the task of a deletion tells the storages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.leases import NO_LEASE
from stagefleet.storages.storages import CircuitBreakers, Storages
from tasks.delete import delete_stage


class FakeStorages:
    """Takes down what each repository is told to be asked for."""

    def __init__(self):
        self.told = {}
        self.having: set[str] = set()
        self.circuit_breakers = CircuitBreakers()

    def open(self, repository):
        return FakeStorage(self, str(repository))


@dataclass
class FakeStorage:
    storages: FakeStorages
    name: str

    def delete(self, stage_id, attempt):
        self.storages.told[self.name] = list(attempt.to_delete())
        return ItemResult() if self.name in self.storages.having else NOT_THERE


def test_what_goes_after_the_run_is_asked_for_in_the_repository_and_not_in_caches():
    storages, stage = FakeStorages(), "ab" * 28 + "-1700000000000"
    options = {"repository": "a.example/app", "caches": ["b.example/cache"], "also": ["latest"]}
    attempt = Attempt(
        run_id="r", item=stage, options=options, lease=NO_LEASE, to_delete=lambda: iter([stage])
    )
    delete_stage(cast("Storages", storages), attempt)
    assert {"b.example/cache": [stage], "a.example/app": [stage, "latest"]} == storages.told


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
    storages, stage = FakeStorages(), "ab" * 28 + "-1700000000000"
    storages.having = set(having)
    options = {"repository": "a.example/app", "caches": ["b.example/cache"]}
    attempt = Attempt(
        run_id="r",
        item=stage,
        options=options,
        lease=NO_LEASE,
        to_delete=lambda: iter([stage]),
        number=number,
    )
    assert expected == delete_stage(cast("Storages", storages), attempt)
