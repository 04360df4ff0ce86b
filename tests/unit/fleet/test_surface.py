"""How much there is to know of the front door."""

from __future__ import annotations

import inspect

import pytest

from stagefleet import Fleet
from stagefleet.fleet.project import FleetProject
from stagefleet.fleet.records import FleetRecords


def public(kind):
    return [name for name in dir(kind) if not name.startswith("_")]


@pytest.mark.parametrize("kind", [Fleet, FleetProject, FleetRecords])
def test_a_class_has_at_most_25_public_methods(kind):
    assert len(public(kind)) <= 25


def test_the_fleet_has_three_attributes_beside_its_methods(fleet):
    assert {"hosts", "keeps_runs", "settings"} == set(public(fleet)) - set(public(Fleet))


@pytest.mark.parametrize("kind", [Fleet, FleetProject, FleetRecords])
def test_what_is_named_for_each_takes_what_every_run_takes(kind):
    for name in public(kind):
        if name.startswith("for_each_"):
            assert (
                inspect.Parameter.VAR_KEYWORD == inspect.signature(getattr(kind, name)).parameters["run"].kind
            )
