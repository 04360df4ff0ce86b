"""`stagefleet purge`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

import stagefleet
from stagefleet.bounds import join_first
from stagefleet.cli import options as opt, session
from stagefleet.cli.output import print_json, print_line, say
from stagefleet.cli.progress import EXIT_CODES, RunReport, choose_display, describe_referrer, writing_reports
from stagefleet.errors import UsageError
from stagefleet.names import StorageAddress, parse_address
from stagefleet.operations.delete import InUsePolicy
from stagefleet.runs.messages import queue_of
from stagefleet.runs.models import Outcome, Run, RunState

if TYPE_CHECKING:
    from stagefleet.fleet.chains import PurgedGroup
    from stagefleet.projects.purge_plan import PurgeGroup, PurgePlan  # imports the registry client
    from stagefleet.registry.referrers import Referrer

_SHOWN_UNKNOWN = 5
_SHOWN_UNWEIGHED = 3
_MOST_FAILURES = 100
"""The maximum of failures in the report of a group; the run's outcomes have all."""
_COUNTS = ("total", "succeeded", "failed", "skipped", "cancelled")


@session.takes_run_options(but=("from_file",))
def purge_project(
    repository: Annotated[
        str | None,
        typer.Argument(
            metavar="REPO",
            help="Instead of --project: HOST[:PORT]/PATH, or docker-daemon:PROJECT of this host.",
        ),
    ] = None,
    *,
    project: opt.ProjectOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    referrers: opt.Referrers = False,
    skip_used: opt.SkipUsed = False,
    remove_containers: opt.RemoveContainers = False,
    force: opt.Force = False,
    options: session.RunOptions,
) -> None:
    """Delete everything of a project: its stages, its records, its final stages; and no tag of others."""
    where = _choose(repository, project)
    with options.open_fleet() as fleet:
        of_project = fleet.project(where)
        key, plan = options.idempotency_key, None
        groups = None if key is None or options.dry_run else of_project.purge_under(key)
        if groups is None:
            plan = of_project.plan_purge(
                policy=_find_policy(InUsePolicy(skip_used, remove_containers, force)),
                referrers=referrers,
                sized=options.dry_run,
                missing_ok=options.missing_ok,
            )
            _tell_unknown(plan)
            if options.dry_run:
                _tell_unweighed(plan)
                _print_plan(fleet, plan, as_json=options.json)
                return
            if not yes:
                _confirm(plan, str(where))
        with session.cancelling_on_interrupt(fleet) as interrupts:
            if groups is None:
                assert plan is not None
                groups = of_project.start_purge(
                    plan, options.callback, parallel=options.parallel, idempotency_key=key
                )
            if options.detach:
                _leave(fleet, groups, options)
                return
            runs = [group.run for group in groups if group.run is not None]
            with writing_reports(fleet, runs, options.report):
                state = _follow(fleet, groups, plan, options, interrupts)
    raise typer.Exit(EXIT_CODES.get(state, 0))


def _find_policy(chosen: InUsePolicy) -> InUsePolicy | None:
    """Return the policy that options have chosen; None without any."""
    return None if chosen == InUsePolicy() else chosen


def _choose(repository: str | None, project: str | None) -> str | StorageAddress:
    """Return the project of the command."""
    if (repository is None) == (project is None):
        raise UsageError("name either a repository or --project: that is what will be purged")
    return project or parse_address(repository or "")


def _tell_unknown(plan: PurgePlan) -> None:
    if plan.unknown:
        say(f"tags of nobody, left alone: {join_first(plan.unknown, _SHOWN_UNKNOWN)}")


def _tell_unweighed(plan: PurgePlan) -> None:
    if plan.unweighed:
        images = [f"{image} ({why})" for image, why in plan.unweighed.items()]
        say(f"not weighed, or in part: {join_first(images, _SHOWN_UNWEIGHED)}")


def _confirm(plan: PurgePlan, what: str) -> None:
    opt.require_terminal("purge", f"purge {what}")
    for group in plan.groups:
        if group.items:
            say(f"{len(group.items):,} {group.name} of {group.repository}")
    opt.confirm(f"Delete all {len(plan):,} of {what}?", "nothing was deleted")


def _print_plan(fleet: stagefleet.Fleet, plan: PurgePlan, *, as_json: bool) -> None:
    for group in plan.groups:
        found = _referrers_of(fleet, group)
        if as_json:
            counts = dict.fromkeys(_COUNTS, 0) | {"total": len(group.items)}
            head = {"group": group.name, "repository": str(group.repository), "run": None, "state": "planned"}
            named = {item: [each.as_json() for each in along] for item, along in found.items()}
            more = {"size": group.size, "items": group.items} | ({"referrers": named} if named else {})
            print_json({**head, **counts, "seconds": 0.0, **more})
            continue
        size = "" if group.size is None else f"{decimal(group.size)}, "
        print_line(f"{group.name}: {len(group.items):,} planned, {size}{group.repository}")
        for item in group.items:
            print_line(f"  {item}")
            for referrer in found.get(item, ()):
                print_line(f"  {describe_referrer(referrer)}")
    if as_json:
        counts = dict.fromkeys(_COUNTS, 0) | {"total": len(plan)}
        summary = {"run": None, "state": "planned", **counts, "seconds": 0.0, **_rest(plan)}
        print_json(summary | {"unweighed": dict(plan.unweighed)})
    else:
        print_line(f"dry run: {len(plan):,} planned, {decimal(plan.size or 0)}; nothing was done")


def _referrers_of(fleet: stagefleet.Fleet, group: PurgeGroup) -> dict[str, list[Referrer]]:
    """Read what refers to each stage of a group, where that goes, too."""
    if not group.options.get("referrers") or not group.items:
        return {}
    found = fleet.project(group.repository).referrers(group.items, missing_ok=True)
    return {str(stage_id): along for stage_id, along in found if along}


def _leave(fleet: stagefleet.Fleet, groups: Sequence[PurgedGroup], options: session.RunOptions) -> None:
    """Print the run of each group, which the fleet goes on with."""
    queue = queue_of("coordinate")
    listening = (queue in worker.queues for worker in fleet.workers() if worker.version.is_compatible)
    if sum(group.run is not None for group in groups) > 1 and not any(listening):
        say(
            f"no worker listens to the queue {queue!r}, without which only the first group goes: start one "
            "that does, with stagefleet worker"
        )
    for group in groups:
        if group.run is None:
            continue
        with session.naming_run(fleet, group.run.id):
            if options.json:
                print_json(_report(group, group.run, []))
            else:
                print_line(f"{group.name}: {group.run.id}")


def _follow(
    fleet: stagefleet.Fleet,
    groups: Sequence[PurgedGroup],
    plan: PurgePlan | None,
    options: session.RunOptions,
    interrupts: session.Interrupts,
) -> str:
    """Follow the run of each group, print the group when it has ended, and return the state of the purge."""
    began = time.monotonic()
    totals = dict.fromkeys(_COUNTS, 0)
    states = set()
    runs = [group.run for group in groups if group.run is not None]
    if runs:
        interrupts.cancel(runs[0].id)
    for group in groups:
        failures: list[Outcome] = []
        run = None
        if group.run is not None:
            interrupts.cancel(group.run.id)
            run = _follow_group(fleet, group.run, failures, options)
        report = _report(group, run, failures)
        with nullcontext() if run is None else session.naming_run(fleet, run.id):
            _print_group(report, as_json=options.json)
        states.add(report["state"])
        for count in _COUNTS:
            totals[count] += report[count]
        if run is not None and run.state is RunState.CANCELLED:
            break
    state = next((worst for worst in ("cancelled", "failed") if worst in states), "succeeded")
    seconds = round(time.monotonic() - began, 3)
    if options.json:
        rest = {"size": None, "unknown": [], "kept": []} if plan is None else _rest(plan)
        print_json({"run": None, "state": state, **totals, "seconds": seconds, **rest})
    else:
        failed = f", {totals['failed']:,} failed" if totals["failed"] else ""
        print_line(f"purge {state}: {totals['succeeded']:,} deleted{failed} in {seconds:.1f} s")
    return state


def _follow_group(
    fleet: stagefleet.Fleet, run: Run, failures: list[Outcome], options: session.RunOptions
) -> Run:
    """Follow the run of one group; an interrupt cancels it, and so the purge."""
    display = choose_display(run, stdout_is_shared=options.json)
    report = RunReport(run, as_json=False, display=display, in_fleet=fleet.keeps_runs)

    def show(outcome: Outcome) -> None:
        report.show(outcome)
        if outcome.error is not None and len(failures) < _MOST_FAILURES:
            failures.append(outcome)

    with report:
        return fleet.wait(run, show, on_notice=report.note)


def _report(group: PurgedGroup, run: Run | None, failures: list[Outcome]) -> dict[str, Any]:
    empty = {"run": None, "state": "succeeded", **dict.fromkeys(_COUNTS, 0), "seconds": 0.0}
    return {
        "group": group.name,
        "repository": group.repository,
        **(empty if run is None else run.summary()),
        "size": group.size,
        "failures": [{key: outcome.as_json()[key] for key in ("item", "error")} for outcome in failures],
    }


def _print_group(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    failed = f", {report['failed']:,} failed" if report["failed"] else ""
    cancelled = f", {report['cancelled']:,} cancelled" if report["cancelled"] else ""
    print_line(f"{report['group']}: {report['succeeded']:,} deleted{failed}{cancelled}")


def _rest(plan: PurgePlan) -> dict[str, Any]:
    """Return the totals for the last JSON object."""
    return {"size": plan.size, "unknown": list(plan.unknown), "kept": list(plan.kept)}
