"""`stagefleet describe`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.report import print_plan
from stagefleet.cli.run_options import RunOptions, detach_or_follow, takes_run_options
from stagefleet.cli.session import say
from stagefleet.names import parse_address

if TYPE_CHECKING:
    from stagefleet import Fleet, Project

__all__ = ["describe_stages"]


@takes_run_options()
def describe_stages(
    repository: opt.RepositoryArgument = None,
    stage_ids: opt.StageIdArguments = None,
    *,
    project: opt.ProjectOption = None,
    final: opt.FinalOption = False,
    hosts: opt.Hosts = None,
    options: RunOptions,
) -> None:
    """Let the fleet describe stages, all when none is named.

    With --json the results are the descriptions. The fleet remembers them, so that list -l asks for none of
    them again. With --project: the stages of the project's primary storage, through its caches.
    """
    named = opt.read_stage_ids(opt.stage_arguments(repository, stage_ids, project), options.from_file)
    host = opt.one_host(hosts)
    with options.open_fleet() as fleet:
        which = _choose(fleet, repository, project, final=final)
        if final:
            options = replace(options, missing_ok=opt.may_be_new(fleet, project, options.missing_ok))
        if options.dry_run:
            plan = fleet.plan_describe_stage(which, named, host=host, missing_ok=options.missing_ok)
            print_plan(plan, as_json=options.json)
            return
        if final and project is not None and options.parallel is None:
            # as a single storage it has no project, so set the project's limit here
            options = replace(options, parallel=fleet.settings.project(project).parallel)
        run = fleet.for_each_describe_stage(which, named, options.callback, host=host, **options.arguments)
        if not run.total:
            say("there is nothing to describe")
        detach_or_follow(fleet, run, options)


def _choose(fleet: Fleet, repository: str | None, project: str | None, *, final: bool) -> str | Project:
    """Return the project of the command; a single storage is a project of its own."""
    if final:
        return stagefleet.Project.alone(fleet.final_repository(opt.of_project(project, "--final")))
    return stagefleet.Project.alone(parse_address(repository or "")) if project is None else project
