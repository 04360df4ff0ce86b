"""Stages on two hosts: two engines, two workers, and what jobs there hold."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest

from stagefleet.errors import HostNotFoundError, RemoteError, UsageError
from stagefleet.names import Repository
from stagefleet.operations.delete import InUsePolicy
from stagefleet.project_addresses import Project
from stagefleet.runs.models import ItemState, Outcome, RunState
from tests.services import ImageMaker, archive_of, stage_id_of
from tests.services.processes import wait_until

WAIT_SECONDS = 60


def tags(engines):
    return {name: engine.tags() for name, engine in engines.items()}


def test_stages_go_to_the_hosts_that_were_named_and_to_no_others(fleet, engines, registry, push):
    image = push("a")
    name = f"{registry.host}/stages/app:{image.tag}"
    outcomes: list[Outcome] = []
    run = fleet.for_each_fetch_stage(f"{registry.host}/stages/app", [image.tag], outcomes.append)
    assert (RunState.SUCCEEDED, 1) == (run.state, run.succeeded)
    assert {"one": [name], "two": []} == tags(engines)
    assert [(image.tag, "one", ItemState.SUCCEEDED)] == [
        (outcome.item, outcome.host, outcome.state) for outcome in outcomes
    ]
    run = fleet.for_each_fetch_stage(
        f"{registry.host}/stages/app", [image.tag], outcomes.append, all_hosts=True
    )
    assert {"one": [name], "two": [name]} == tags(engines)
    assert {("one", ItemState.SKIPPED), ("two", ItemState.SUCCEEDED)} == {
        (outcome.host, outcome.state) for outcome in outcomes[1:]
    }
    assert ["one", "two"] == fleet.hosts.names()


def test_a_cache_serves_all_hosts_and_is_refilled(fleet, engines, workers, registry, make_registry, push):
    cache = make_registry()
    image = push("a")
    primary = Repository.parse(f"{registry.host}/stages/app")
    project = Project("app", primary, caches=(Repository.parse(f"{cache.host}/near"),))
    assert fleet.for_each_fetch_stage(project, [image.tag], hosts=["one"]).state is RunState.SUCCEEDED
    with ImageMaker(cache) as maker:
        assert image.digest == maker.digest("near", image.tag), workers["one"].logged()
    registry.stop()
    assert fleet.for_each_fetch_stage(project, [image.tag], hosts=["two"]).state is RunState.SUCCEEDED
    assert [f"{primary}:{image.tag}"] == engines["two"].tags()


def test_a_host_that_is_not_there_is_refused_with_those_that_are(fleet, registry, push):
    image = push("a")
    with pytest.raises(HostNotFoundError, match="hosts that are there: one, two"):
        fleet.for_each_fetch_stage(f"{registry.host}/stages/app", [image.tag], hosts=["one", "three"])


def test_a_stage_that_comes_back_is_fetched_by_the_next_try(fleet, engines, registry, push):
    tag = push("late").tag
    engines["one"].pause()  # it is there when it is planned, and gone when it is fetched
    try:
        run = fleet.for_each_fetch_stage(f"{registry.host}/stages/app", [tag], detach=True)
        shutil.rmtree(registry.root)
    finally:
        engines["one"].resume()
    wait_until(lambda: fleet.run(run.id).waiting == 1, "the first try has failed")
    push("late")
    assert RunState.SUCCEEDED is fleet.wait(run.id).state
    assert [f"{registry.host}/stages/app:{tag}"] == engines["one"].tags()


def test_stages_go_from_one_host_through_a_repository_to_the_other(fleet, engines, registry):
    tag = stage_id_of("built here")
    image_id = engines["one"].import_image(f"app:{tag}", labels={"werf": "app"})
    assert [tag] == [str(stage_id) for stage_id in fleet.stage_ids("docker-daemon:app")]
    assert [image_id] == [found.info.image_id for found in fleet.describe_stages("docker-daemon:app")]
    there = f"{registry.host}/stages/app"
    assert 1 == fleet.for_each_copy_stage("docker-daemon:app", there).succeeded
    assert 1 == fleet.for_each_copy_stage("docker-daemon:app", there).skipped
    assert 1 == fleet.for_each_copy_stage(there, "docker-daemon:app", hosts=["two"]).succeeded
    assert image_id == engines["two"].image_id(f"app:{tag}")
    with pytest.raises(UsageError, match="another host"):
        fleet.for_each_delete_stage("docker-daemon:app", None, hosts=["two"])
    assert 1 == fleet.for_each_delete_stage("docker-daemon:app", [tag], hosts=["two"]).succeeded
    assert {"one": [f"app:{tag}"], "two": []} == tags(engines)


def test_what_a_job_holds_stays_until_it_ends(fleet, engines, registry):
    tag = stage_id_of("held")
    engines["one"].import_image(f"app:{tag}", labels={"werf": "app"})
    with fleet.hosts.pin_stage("docker-daemon:app", tag) as hold:
        hold.check()
        outcomes: list[Outcome] = []
        fleet.for_each_delete_stage("docker-daemon:app", [tag], outcomes.append)
        assert ["ImageInUseError"] == [outcome.error.type for outcome in outcomes if outcome.error]
        skipping = InUsePolicy(skip_used=True)
        assert 1 == fleet.for_each_delete_stage("docker-daemon:app", [tag], policy=skipping).skipped
    assert 1 == fleet.for_each_delete_stage("docker-daemon:app", [tag]).succeeded
    assert [] == engines["one"].tags()


def test_a_stage_that_cannot_be_fetched_is_not_held(fleet):
    with (
        pytest.raises(RemoteError, match="not what it was"),
        fleet.hosts.pin_stage("docker-daemon:app", stage_id_of("gone")),
    ):
        pytest.fail("nothing is held")


@pytest.mark.parametrize("ending", ["its input closes", "it is told to end", "it is killed"])
def test_a_command_holds_what_it_fetched_until(fleet, engines, start_command, ending):
    tag = stage_id_of("held")
    engines["one"].import_image(f"app:{tag}", labels={"werf": "app"})
    command = start_command("fetch", "docker-daemon:app", tag, "--hold", "--json")
    summary = [json.loads(command.stdout.readline()) for _ in range(2)][1]
    assert ("succeeded", 1) == (summary["state"], summary["skipped"])
    assert "holding 1 images" in command.stderr.readline()
    assert 1 == fleet.for_each_delete_stage("docker-daemon:app", [tag]).failed
    if ending == "its input closes":
        command.stdin.close()
        assert 0 == command.wait(WAIT_SECONDS)
    elif ending == "it is told to end":
        command.send_signal(signal.SIGTERM)
        assert 0 == command.wait(WAIT_SECONDS)
    else:
        command.kill()
        command.wait(WAIT_SECONDS)
        wait_until(lambda: not fleet._connections.locks.locks(), "the lease is over")
    assert 1 == fleet.for_each_delete_stage("docker-daemon:app", [tag]).succeeded


def test_every_fetch_is_noted_and_read_back(fleet, workers, registry, push, command):
    first, second = push("used first"), push("used second")
    repository = f"{registry.host}/stages/app"
    names = [f"{repository}:{image.tag}" for image in (second, first)]
    before_ms = time.time_ns() // 1_000_000
    for image, options in ((first, {"all_hosts": True}), (second, {}), (first, {})):
        run = fleet.for_each_fetch_stage(repository, [image.tag], **options)
        assert RunState.SUCCEEDED is run.state
    assert 1 == run.skipped  # it was there: that is a use, too

    noted = [used for used in fleet.hosts.last_used("one") if used.image in names]
    assert names == [used.image for used in noted]
    assert before_ms <= noted[0].last_used_ms <= noted[1].last_used_ms
    assert [names[1]] == [used.image for used in fleet.hosts.last_used("two") if used.image in names]
    assert fleet.hosts.last_used() == fleet.hosts.last_used("one")

    done = command("hosts", "one", "--last-used", "--json")
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(used.image, used.last_used_ms) for used in noted] == [
        (line["image"], line["last_used_ms"]) for line in shown if line["image"] in names
    ]
    done = command("hosts")
    assert ["one", "two"] == done.stdout.splitlines()


def test_what_was_removed_has_no_record_any_more(fleet, engines, workers):
    tag = stage_id_of("used and removed")
    engines["one"].import_image(f"app:{tag}", labels={"werf": "app"})
    fleet.for_each_fetch_stage("docker-daemon:app", [tag])
    assert f"app:{tag}" in [used.image for used in fleet.hosts.last_used("one")]
    assert 1 == fleet.for_each_delete_stage("docker-daemon:app", [tag]).succeeded
    assert f"app:{tag}" not in [used.image for used in fleet.hosts.last_used("one")]


def test_the_command_says_what_to_do_about_a_used_stage(engines, workers, command):
    tag = stage_id_of("used")
    engines["one"].import_image(f"app:{tag}", labels={"werf": "app"})
    engines["one"].run_container(f"app:{tag}", "job-17")
    done = command("delete", "docker-daemon:app", tag)
    assert 1 == done.returncode
    assert f"{tag} on one failed" in done.stderr
    assert "container job-17" in done.stderr
    assert "--skip-used" in done.stderr
    done = command("delete", "docker-daemon:app", tag, "--remove-containers", "--force")
    assert (0, []) == (done.returncode, engines["one"].tags())


def test_a_dry_run_of_a_fetch_says_where_it_would_go(command, workers, registry, push):
    image = push("a")
    arguments = ("fetch", f"{registry.host}/stages/app", image.tag, "--all-hosts", "--dry-run", "--json")
    done = command(*arguments)
    planned = [json.loads(line) for line in done.stdout.splitlines()]
    assert [("one", "planned"), ("two", "planned")] == [(line["host"], line["state"]) for line in planned[:2]]
    assert 2 == planned[2]["total"]


def test_a_fetch_to_an_unknown_host_is_wrong_use(command, workers, registry):
    done = command("fetch", f"{registry.host}/stages/app", stage_id_of("a"), "--host", "nowhere")
    assert 2 == done.returncode
    assert "hosts that are there: one, two" in done.stderr


def test_a_stage_that_no_storage_has_is_wrong_use(fleet, command, workers, registry, push):
    push("a")
    place, runs = f"{registry.host}/stages/app", [run.id for run in fleet.runs()]
    for options in ((), ("--dry-run",), ("--hold",)):
        done = command("fetch", place, stage_id_of("unknown"), *options)
        assert 2 == done.returncode
        (line,) = done.stderr.splitlines()
        assert f"{place} does not have {stage_id_of('unknown')}: see stagefleet list {place}" in line
    assert runs == [run.id for run in fleet.runs()]


def test_a_host_gets_the_platforms_that_were_named_and_another_all_of_them(
    fleet, engines, workers, command, registry
):
    tag = stage_id_of("many platforms", None)
    with ImageMaker(registry) as maker:
        members = [
            maker.push_image(
                "stages/app",
                None,
                layers=[archive_of({"own": architecture.encode()})],
                platform={"os": "linux", "architecture": architecture},
            )
            for architecture in ("amd64", "arm64")
        ]
        maker.push_index("stages/app", tag, members)
    place = f"{registry.host}/stages/app"
    own, other = f"{place}:{tag}", f"{place}:{tag}.linux.arm64"
    outcomes: list[Outcome] = []
    run = fleet.for_each_fetch_stage(place, [tag], outcomes.append, platforms=["linux/arm64"])
    assert 1 == run.succeeded
    assert [{"linux/arm64": other}] == [outcome.result["platforms"] for outcome in outcomes if outcome.result]
    with fleet.hosts.pin_stage(place, tag, platforms=["linux/arm64"], hosts=["one"]) as hold:
        hold.check()
    done = command("fetch", place, tag, "--all-platforms", "--host", "two", "--json")
    outcome, summary = map(json.loads, done.stdout.splitlines())
    assert (0, "succeeded") == (done.returncode, summary["state"])
    assert {"linux/amd64": own, "linux/arm64": other} == outcome["result"]["platforms"]
    assert {"one": [other], "two": [own, other]} == tags(engines)
    done = command("fetch", place, tag, "--platform", "linux/s390x")
    assert 1 == done.returncode
    assert "no image for linux/s390x: it has linux/amd64, linux/arm64" in done.stderr
