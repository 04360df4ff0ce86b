"""`stagefleet purge` on a fleet in memory."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from stagefleet.cli.commands import purge
from stagefleet.names import Repository
from stagefleet.projects.purge_plan import PurgeGroup, PurgePlan
from stagefleet.runs.models import WorkerInfo

REPOSITORY = "src.test/app"
FINAL = "dst.test/app"


@pytest.fixture
def group(make_stage):
    def group(name, address, *numbers):
        repository = Repository.parse(address)
        stages = tuple(make_stage(number) for number in numbers)
        return PurgeGroup(name, repository, stages, "delete_stage", {"repository": address}, stages, 10)

    return group


@pytest.fixture(autouse=True)
def plan(in_fleet, registries, group):
    plan = PurgePlan(
        (
            group("stages", REPOSITORY, 0, 1, 2),
            group("custom-tags", REPOSITORY),
            group("final-stages", FINAL, 1),
        ),
        (f"{REPOSITORY}:somebodys",),
        (f"{REPOSITORY}:cleanup",),
    )
    registries.plan_purge = lambda roles, *, policy, referrers, sized: plan
    return plan


def test_groups_go_one_after_the_other(command, fake_worker, make_stage):
    result = command("purge", REPOSITORY, "--yes")
    assert (0, [make_stage(n) for n in (0, 1, 2, 1)]) == (result.code, fake_worker.done)
    assert ["stages: 3 deleted", "custom-tags: 0 deleted", "final-stages: 1 deleted"] == (
        result.out.splitlines()[:3]
    )
    assert "tags of nobody, left alone: src.test/app:somebodys" in result.err


def test_a_report_has_all_groups(command, fake_worker, make_stage):
    fake_worker.failing.add(make_stage(2))
    result = command("purge", REPOSITORY, "--yes", "--report", "purge.json", "--report", "purge.xml")
    report = json.loads(Path("purge.json").read_text())
    assert (1, 3, 1, [1]) == (
        result.code,
        report["total"],
        report["failed"],
        [run["total"] for run in report["following"]],
    )
    assert 2 == Path("purge.xml").read_text().count("</testsuite>")


def test_a_purge_of_nothing_has_no_report(command, registries):
    registries.plan_purge = lambda roles, *, policy, referrers, sized: PurgePlan(
        (), (), (f"{REPOSITORY}:cleanup",)
    )
    result = command("purge", REPOSITORY, "--yes", "--report", "purge.json")
    assert (0, False) == (result.code, Path("purge.json").exists())
    assert "nothing to report on" in result.err


def test_a_failure_is_told_and_keeps_no_other_group_from_going(command, fake_worker, make_stage):
    fake_worker.failing.add(make_stage(2))
    result = command("purge", REPOSITORY, "--yes", "--json")
    *groups, summary = result.objects
    assert (1, 4) == (result.code, len(fake_worker.done))
    assert ["failed", "succeeded", "succeeded"] == [group["state"] for group in groups]
    error = {"type": "ForbiddenError", "message": "the registry forbids it"}
    assert [{"item": make_stage(2), "error": error}] == groups[0]["failures"]
    assert ("failed", 4, 3, 1) == tuple(summary[key] for key in ("state", "total", "succeeded", "failed"))


def test_a_cancelled_group_ends_the_purge(command, fake_worker, ledger):
    fake_worker.on_claim = lambda _: ledger.cancel(next(iter(ledger.runs())).id)
    result = command("purge", REPOSITORY, "-j", "1", "--yes", "--json")
    assert (3, ["stages"]) == (result.code, [group["group"] for group in result.objects[:-1]])
    assert "cancelled" == result.objects[-1]["state"]


def test_an_interrupt_between_two_groups_cancels_the_next(command, fake_worker, ledger, monkeypatch):
    cancel, cancelled = ledger.cancel, threading.Event()
    print_group, is_first = purge._print_group, iter([True])

    def cancel_and_tell(*arguments, **options):
        if was_under_way := cancel(*arguments, **options):
            cancelled.set()
        return was_under_way

    def interrupt(*arguments, **options):
        if next(is_first, False):
            fake_worker.on_claim = lambda _: cancelled.wait(30)
            os.kill(os.getpid(), signal.SIGINT)
        print_group(*arguments, **options)

    monkeypatch.setattr(ledger, "cancel", cancel_and_tell)
    monkeypatch.setattr(purge, "_print_group", interrupt)
    result = command("purge", REPOSITORY, "--yes", "--json")
    assert (3, {"succeeded", "cancelled"}) == (result.code, {run.state for run in ledger.runs()})


def test_detached_it_names_the_run_of_each_group_and_leaves(command, ledger):
    result = command("purge", REPOSITORY, "--yes", "--detach")
    first, last = list(ledger.runs())
    assert (0, [f"stages: {first.id}", f"final-stages: {last.id}"]) == (result.code, result.out.splitlines())
    assert ["running", "submitting"] == [first.state, last.state]
    objects = command("purge", REPOSITORY, "--yes", "--detach", "--json").objects
    assert ["stages", "final-stages"] == [found["group"] for found in objects]


def test_detached_it_tells_that_nobody_starts_the_next_group(command, ledger):
    assert (
        "no worker listens to the queue 'coordinate'" in command("purge", REPOSITORY, "--yes", "--detach").err
    )
    ledger.heartbeats.beat(WorkerInfo("host:1", 1, ("delete", "coordinate")), seconds=60)
    assert "no worker" not in command("purge", REPOSITORY, "--yes", "--detach").err


def test_the_same_key_is_the_same_purge(command, fake_worker, ledger):
    key = ("--idempotency-key", "job", "--yes")
    first = command("purge", REPOSITORY, *key, "--json")
    again = command("purge", REPOSITORY, *key, "--json")
    assert (0, 0, 4) == (first.code, again.code, len(fake_worker.done))
    runs = [found["run"] for found in first.objects if found["run"]]
    assert runs == [found["run"] for found in again.objects if found["run"]]
    assert "nothing was done now" in again.err
    assert 2 == len(list(ledger.runs()))


def test_a_dry_run_starts_nothing(command, ledger, make_stage):
    result = command("purge", REPOSITORY, "--dry-run")
    assert (0, []) == (result.code, list(ledger.runs()))
    assert f"  {make_stage(0)}" in result.out.splitlines()
    assert "dry run: 4 planned, 30 bytes; nothing was done" == result.out.splitlines()[-1]


def test_what_was_not_weighed_is_said_in_one_line_and_ends_nothing(command, plan, registries):
    """x1, W19: a dry run is whole but for a size."""
    names = {f"{REPOSITORY}:odd-{number}": "GET answered 500" for number in range(5)}
    registries.plan_purge = lambda roles, *, policy, referrers, sized: replace(plan, unweighed=names)
    result = command("purge", REPOSITORY, "--dry-run")
    (line,) = [line for line in result.err.splitlines() if "weighed" in line]
    assert (0, True, True) == (result.code, "odd-0 (GET answered 500)" in line, "and 2 more" in line)
    assert names == command("purge", REPOSITORY, "--dry-run", "--json").objects[-1]["unweighed"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "name either a repository or --project"),
        ((REPOSITORY, "--project", "app"), "name either a repository or --project"),
        ((REPOSITORY,), "add --yes to purge src.test/app"),
        ((REPOSITORY, "--yes", "-j", "0"), "--parallel 0"),
    ],
)
def test_what_is_unclear_purges_nothing(command, ledger, arguments, reason):
    result = command("purge", *arguments)
    assert (2, True, []) == (result.code, reason in result.err, list(ledger.runs()))
