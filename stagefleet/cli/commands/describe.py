"""`stagefleet describe`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.session import RunOptions, run_operation, takes_run_options
from stagefleet.names import parse_address

if TYPE_CHECKING:
    from stagefleet.fleet.project import FleetProject


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
    chosen = opt.one_host(hosts)
    with options.open_fleet(repository, hosts=hosts) as fleet:
        of_project = _choose(fleet, repository, project, final=final)
        if final:
            options = replace(options, missing_ok=opt.may_be_new(fleet, project, options.missing_ok))
            if options.parallel is None:
                # as a single storage it has no project, so set the project's limit here
                options = replace(options, parallel=fleet.project(project or "").parallel)
        operation = stagefleet.DescribeOperation.of(of_project.storages, hosts=chosen)
        run_operation(
            fleet, operation, named, options, project=of_project, if_empty="there is nothing to describe"
        )


def _choose(
    fleet: stagefleet.Fleet, repository: str | None, project: str | None, *, final: bool
) -> FleetProject:
    """Return the project of the command; a single storage is a project of its own."""
    if not final:
        return fleet.project(parse_address(repository or "") if project is None else project)
    return fleet.project(opt.final_repository(fleet, project))
