"""What the task of a deletion tells the manager."""

from __future__ import annotations

from typing import cast

from stagefleet.manager import Produced, StageManager
from stagefleet.manager.outages import CacheOutages
from stagefleet.registry.leash import UNLEASHED
from tasks.base import Job
from tasks.delete import delete_stage


class Manager:
    """Takes down what each repository is told to be asked for."""

    def __init__(self):
        self.told = {}
        self.outages = CacheOutages()

    def delete_stage(self, repository, stage_id, *, run, asked, leash):
        self.told[str(repository)] = list(asked())
        return Produced()


def test_what_goes_after_the_run_is_asked_for_in_the_repository_and_not_in_caches():
    manager, stage = Manager(), "ab" * 28 + "-1700000000000"
    options = {"repository": "a.example/app", "caches": ["b.example/cache"], "also": ["latest"]}
    job = Job(run="r", item=stage, options=options, leash=UNLEASHED, asked=lambda: iter([stage]))
    delete_stage(cast("StageManager", manager), job)
    assert {"b.example/cache": [stage], "a.example/app": [stage, "latest"]} == manager.told
