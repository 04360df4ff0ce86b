from __future__ import annotations

import pytest

from stagefleet.fleet.callbacks import RemoteCallback
from stagefleet.names import Repository
from stagefleet.project_addresses import Project
from stagefleet.projects.purge_plan import PurgeGroup, PurgePlan

REPOSITORY = Repository("src.test", "app")


@pytest.fixture
def asked(registries, make_stage):
    """Which storages a plan was made for."""
    asked = []
    stages = (make_stage(1), make_stage(2))
    options = {"repository": str(REPOSITORY)}

    def plan_purge(roles, *, policy, referrers, sized):
        asked.append((roles, sized))
        groups = [
            PurgeGroup(name, REPOSITORY, items, "delete_stage", options, items)
            for name, items in (("stages", stages), ("custom-tags", ()), ("final-stages", stages[:1]))
        ]
        return PurgePlan(tuple(groups), (), ())

    registries.plan_purge = plan_purge
    return asked


def test_a_repository_alone_is_the_project_of_its_name(fleet, fake_worker, asked):
    done = fleet.project(REPOSITORY).purge()
    assert [(Project("app", REPOSITORY), False)] == asked
    assert ["stages", "custom-tags", "final-stages"] == [purged.name for purged in done]
    assert [2, None, 1] == [purged.run and purged.run.succeeded for purged in done]


def test_each_outcome_and_each_group_is_called_back_for(fleet, fake_worker, asked, make_stage):
    heard = []
    fleet.project(REPOSITORY).purge(
        lambda outcome: heard.append(outcome.item),
        on_group=lambda purged: heard.append(purged.name),
        parallel=1,
    )
    first, second = make_stage(1), make_stage(2)
    assert [first, second, "stages", "custom-tags", first, "final-stages"] == heard


def test_the_fleet_calls_for_each_group_and_at_the_end_of_each(fleet, fake_worker, asked):
    fleet.project(REPOSITORY).purge(RemoteCallback(finish_url="https://ci.example/end"))
    assert ["https://ci.example/end"] * 2 == [run.spec.finish_url for run in fleet.runs()]


def test_what_a_callback_raises_ends_the_purge(fleet, fake_worker, asked):
    def refuse(outcome):
        raise KeyError(outcome.item)

    with pytest.raises(KeyError):
        fleet.project(REPOSITORY).purge(refuse)
    assert 1 == len(list(fleet.runs()))
