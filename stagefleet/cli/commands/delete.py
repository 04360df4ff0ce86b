"""`stagefleet delete`."""

from __future__ import annotations

from typing import Annotated

import typer

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.progress import print_plan
from stagefleet.cli.session import RunOptions, run_operation, takes_run_options
from stagefleet.errors import UsageError
from stagefleet.names import parse_address
from stagefleet.operations.delete import InUsePolicy


@takes_run_options()
def delete_stages(
    repository: opt.RepositoryArgument = None,
    stage_ids: opt.StageIdArguments = None,
    *,
    project: opt.ProjectOption = None,
    final: opt.FinalOption = False,
    everything: Annotated[bool, typer.Option("--all", help="Delete every stage.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")] = False,
    referrers: opt.Referrers = False,
    hosts: opt.Hosts = None,
    skip_used: opt.SkipUsed = False,
    remove_containers: opt.RemoveContainers = False,
    force: opt.Force = False,
    options: RunOptions,
) -> None:
    """Delete stages from a repository, and no tag that was not named.

    With --project: out of the project's caches, then out of its primary storage.
    """
    named = opt.read_stage_ids(opt.stage_arguments(repository, stage_ids, project), options.from_file)
    if everything and named is not None:
        raise UsageError("--all deletes every stage: leave out --all, or the stage ids")
    if not everything and named is None:
        raise UsageError("no stage is named: name stages, or use --from-file, or --all for every stage")
    policy = InUsePolicy(skip_used, remove_containers, force)
    if project is not None and (policy != InUsePolicy() or (final and hosts)):
        raise UsageError("--host and what is in use are of a Docker Engine: name docker-daemon:PROJECT")
    with options.open_fleet(repository, hosts=hosts) as fleet:
        of_project = None if project is None else fleet.project(project)
        if of_project is not None and not final:
            operation = of_project.deletion(opt.one_host(hosts), referrers=referrers)
            name = f"{operation.repository}, and of the caches of {project}"
        else:
            address = opt.final_repository(fleet, project) if final else parse_address(repository or "")
            operation = stagefleet.DeleteOperation.of(
                address, policy, referrers=referrers, hosts=tuple(hosts or ())
            )
            name = str(operation.repository)
        runs = of_project or fleet
        if everything and not yes and not options.dry_run:
            opt.require_terminal("delete --all", f"empty {name}")
            count = len(runs.plan(operation, missing_ok=options.missing_ok))
            opt.confirm(f"Delete all {count:,} stages of {name}?", "nothing was deleted")
        if referrers and options.dry_run:
            # What refers to a stage goes with it, unless another tag keeps the image.
            plan = runs.plan(operation, named, missing_ok=options.missing_ok)
            print_plan(plan, as_json=options.json, referrers_in=fleet.project(operation.repository))
            return
        run_operation(fleet, operation, named, options, project=of_project, if_empty="no stage was named")
