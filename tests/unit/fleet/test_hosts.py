"""Which hosts a run is for, and what it does on each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stagefleet.errors import HostNotFoundError, RegistryUnreachableError, StagesNotFoundError, UsageError
from stagefleet.fleet.hosts import FleetHosts
from stagefleet.names import EngineProject, Repository, split_host
from stagefleet.operations.fetch import FetchOperation
from stagefleet.project_addresses import Project
from stagefleet.runs.messages import layout_hosts, live_hosts
from stagefleet.runs.models import WorkerInfo

LIVE = ["a", "b"]


def fetch(project=None):
    project = project or Project.alone(Repository.parse("src.test/app"))
    return FetchOperation.of(project, hosts=("x",))


def choose(asked=None, *, everywhere=False, own="a", live=LIVE):
    connections: Any = SimpleNamespace(
        hosts=lambda: live,
        settings=SimpleNamespace(engine=SimpleNamespace(host_name=own)),
        no_host_advice="start stagefleet worker",
    )
    return FleetHosts(connections, print, pytest.fail).choose(asked, everywhere=everywhere)


def test_hosts_are_those_of_live_workers_with_an_engine():
    workers = [
        WorkerInfo("w:1", 4, ("copy", "fetch", "host.b")),
        WorkerInfo("w:2", 4, ("copy",)),
        WorkerInfo("w:3", 4, ("fetch", "host.a")),
        WorkerInfo("w:4", 4, ("fetch", "host.a")),
    ]
    assert ["a", "b"] == live_hosts(workers)
    layouts = WorkerInfo("w:5", 4, ("copy", "host.c"))
    assert (["a", "b"], ["a", "b", "c"]) == (
        live_hosts([*workers, layouts]),
        layout_hosts([*workers, layouts]),
    )


def test_a_run_is_for_this_host_those_named_or_all():
    assert ("a",) == choose()
    assert ("b", "a") == choose(["b", "a", "b"])
    assert ("a", "b") == choose(everywhere=True)


@pytest.mark.parametrize("asked", [["c"], ["a", "c"]])
def test_a_host_that_is_not_there_is_named_beside_those_that_are(asked):
    with pytest.raises(HostNotFoundError, match=r"host 'c' .*there: a, b\): name one of them, or start"):
        choose(asked)


def test_without_any_host_it_is_said_how_to_make_one():
    for arguments in ({}, {"everywhere": True}):
        with pytest.raises(HostNotFoundError, match=r"there: none.*stagefleet worker"):
            choose(live=[], **arguments)


def test_all_and_some_at_once_are_refused():
    with pytest.raises(UsageError, match="not both"):
        choose(["a"], everywhere=True)


def test_one_string_is_not_taken_for_its_letters():
    with pytest.raises(UsageError, match="list of names"):
        choose("ab")


def test_a_fetch_is_an_item_for_each_stage_and_host(fleet, ledger, make_stage):
    ledger.heartbeats.beat(WorkerInfo("w:1", 4, ("fetch", "host.x")), seconds=60)
    ledger.heartbeats.beat(WorkerInfo("w:2", 4, ("fetch", "host.y")), seconds=60)
    stages = [make_stage(1), make_stage(2)]
    plan = fleet.plan(fetch().on_hosts(fleet.hosts.choose(None, everywhere=True)), stages)
    assert [(stage, host) for stage in stages for host in ("x", "y")] == list(map(split_host, plan.items))


def test_engines_are_refused_where_registries_are_meant_and_the_other_way_round(fleet, ledger, make_stage):
    ledger.heartbeats.beat(WorkerInfo("w:1", 4, ("fetch", "host.x")), seconds=60)
    with pytest.raises(UsageError, match="registries have no hosts"):
        fleet.for_each_copy_stage("src.test/app", "dst.test/app", hosts=["x"])
    with pytest.raises(UsageError, match="through a repository"):
        fleet.for_each_copy_stage("docker-daemon:a", "docker-daemon:b", hosts=["x"])
    with pytest.raises(UsageError, match="another host"):
        fleet.for_each_delete_stage("docker-daemon:a", None, hosts=["x"])
    assert [] == list(fleet.runs())


def test_the_platforms_of_a_fetch_are_options_of_its_run(fleet, ledger, make_stage):
    ledger.heartbeats.beat(WorkerInfo("w:1", 4, ("fetch", "host.x")), seconds=60)
    arguments = {"hosts": ["x"], "detach": True}
    for chosen in ({}, {"platforms": ["linux/arm64", "linux/amd64"]}, {"all_platforms": True}):
        run = fleet.for_each_fetch_stage("src.test/app", [make_stage(1)], **chosen, **arguments)
        options = run.spec.options
        assert chosen == {name: value for name, value in options.items() if "platform" in name}


def test_platforms_that_cannot_be_are_refused_before_anything_starts(fleet, ledger, make_stage):
    ledger.heartbeats.beat(WorkerInfo("w:1", 4, ("fetch", "host.x")), seconds=60)
    for address, words, chosen in (
        ("src.test/app", "'foo' is no platform", {"platforms": ["foo"]}),
        ("src.test/app", "not both", {"platforms": ["linux/arm64"], "all_platforms": True}),
        ("docker-daemon:app", "leave them out", {"platforms": ["linux/arm64"]}),
    ):
        with pytest.raises(UsageError, match=words):
            fleet.for_each_fetch_stage(address, [make_stage(1)], hosts=["x"], **chosen)
    assert [] == list(ledger.runs())


class TestStagesThatAreFetched:
    """Which stages a fetch refuses before anything starts."""

    @pytest.fixture
    def asked(self, registries, monkeypatch):
        """The storages whose tag lists were asked for; those of `down.test` do not answer."""
        asked, list_stages = [], registries.stage_ids

        def note(repository):
            asked.append(str(repository))
            if repository.host == "down.test":
                raise RegistryUnreachableError("down.test does not answer")
            return list_stages(repository)

        monkeypatch.setattr(registries, "stage_ids", note)
        return asked

    @pytest.fixture
    def plan(self, fleet, ledger):
        ledger.heartbeats.beat(WorkerInfo("w:1", 4, ("fetch", "host.x")), seconds=60)

        def plan(stages, *caches, primary="src.test/app"):
            project = Project.alone(Repository.parse(primary), caches=tuple(map(Repository.parse, caches)))
            return len(fleet.plan(fetch(project), stages))

        return plan

    def test_the_tag_list_is_asked_for_once_whatever_is_fetched(self, plan, asked, make_stage):
        assert 5 == plan([make_stage(n) for n in range(5)], "dst.test/app")
        assert ["src.test/app"] == asked

    def test_what_the_primary_lacks_is_refused_with_what_to_do(self, plan, asked, make_stage):
        with pytest.raises(StagesNotFoundError, match=rf"app does not have {make_stage(7)}: see stagefleet"):
            plan([make_stage(1), make_stage(7)])
        assert ["src.test/app"] == asked

    def test_what_a_cache_has_is_fetched(self, plan, asked, registries, make_stage):
        registries.stages["near.test/app"] = [make_stage(7)]
        assert 2 == plan([make_stage(1), make_stage(7)], "dst.test/app", "near.test/app", "far.test/app")
        assert ["src.test/app", "dst.test/app", "near.test/app"] == asked

    def test_a_cache_that_is_down_has_nothing(self, plan, asked, make_stage, caplog):
        with pytest.raises(StagesNotFoundError, match=r"src.test/app, down.test/app do not have"):
            plan([make_stage(7)], "down.test/app")
        assert "cache down.test/app was not looked into" in caplog.text

    def test_a_primary_that_is_down_is_made_up_for_by_caches_alone(self, plan, asked, make_stage):
        assert 1 == plan([make_stage(7)], "dst.test/app", primary="down.test/app")
        with pytest.raises(RegistryUnreachableError):
            plan([make_stage(7)], primary="down.test/app")

    def test_what_an_engine_has_is_known_on_its_host(self, fleet, plan, asked, make_stage):
        assert 1 == len(fleet.plan(fetch(Project.alone(EngineProject("app"))), [make_stage(7)]))
        assert [] == asked
