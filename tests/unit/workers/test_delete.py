"""What the task of a deletion tells the manager."""

from __future__ import annotations

from typing import cast

from stagefleet.manager import ItemResult, StageManager
from stagefleet.manager.circuit_breakers import CircuitBreakers
from stagefleet.registry.lease import NO_LEASE
from tasks.delete import delete_stage
from tasks.item import Attempt


class Manager:
    """Takes down what each repository is told to be asked for."""

    def __init__(self):
        self.told = {}
        self.circuit_breakers = CircuitBreakers()

    def delete_stage(self, repository, stage_id, *, run_id, to_delete, lease):
        self.told[str(repository)] = list(to_delete())
        return ItemResult()


def test_what_goes_after_the_run_is_asked_for_in_the_repository_and_not_in_caches():
    manager, stage = Manager(), "ab" * 28 + "-1700000000000"
    options = {"repository": "a.example/app", "caches": ["b.example/cache"], "also": ["latest"]}
    attempt = Attempt(
        run_id="r", item=stage, options=options, lease=NO_LEASE, to_delete=lambda: iter([stage])
    )
    delete_stage(cast("StageManager", manager), attempt)
    assert {"b.example/cache": [stage], "a.example/app": [stage, "latest"]} == manager.told
