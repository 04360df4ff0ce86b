"""`stagefleet copy`."""

from __future__ import annotations

from typing import Annotated

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.report import print_plan
from stagefleet.cli.run_options import RunOptions, detach_or_follow, takes_run_options
from stagefleet.cli.session import say
from stagefleet.errors import UsageError

__all__ = ["copy_stages"]

Source = Annotated[
    str | None,
    typer.Argument(metavar="SRC", help="HOST[:PORT]/PATH or docker-daemon:PROJECT", show_default=False),
]
Destination = Annotated[
    str | None,
    typer.Argument(metavar="DST", help="HOST[:PORT]/PATH or docker-daemon:PROJECT", show_default=False),
]
FromProject = Annotated[
    str | None,
    typer.Option(
        "--from-project",
        metavar="NAME",
        help="Instead of SRC and DST: from a project's secondary storages into its primary.",
        show_default=False,
    ),
]


@takes_run_options()
def copy_stages(
    source: Source = None,
    destination: Destination = None,
    stage_ids: opt.StageIdArguments = None,
    *,
    from_project: FromProject = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare digests too, and copy again what differs.")
    ] = False,
    hosts: opt.Hosts = None,
    options: RunOptions,
) -> None:
    """Copy stages from one repository to another: the named ones, else all that the destination lacks."""
    if from_project is not None:
        if verify:
            raise UsageError("--verify does not go with --from-project")
        arguments = [word for word in (source, destination, *(stage_ids or ())) if word is not None]
        _take(from_project, opt.read_stage_ids(arguments, options.from_file), opt.one_host(hosts), options)
        return
    if source is None or destination is None:
        missing = "SRC" if source is None else "DST"
        raise UsageError(f"Missing argument '{missing}'; or name a project with --from-project")
    named = opt.read_stage_ids(stage_ids, options.from_file)
    with options.open_fleet() as fleet:
        if options.dry_run:
            plan = fleet.plan_copy_stage(
                source, destination, named, verify=verify, hosts=hosts, missing_ok=options.missing_ok
            )
            print_plan(plan, as_json=options.json)
            return
        run = fleet.for_each_copy_stage(
            source, destination, named, options.callback, verify=verify, hosts=hosts, **options.arguments
        )
        if not run.total:
            say(f"{source} has no stages" if named is None else "no stage was named")
        detach_or_follow(fleet, run, options)


def _take(project: str, named: list[str] | None, host: str | None, options: RunOptions) -> None:
    """Copy the stages that a project's primary storage lacks from its secondary ones."""
    with options.open_fleet() as fleet:
        if options.dry_run:
            plan = fleet.plan_take_stage(project, named, host=host, missing_ok=options.missing_ok)
            print_plan(plan, as_json=options.json)
            return
        run = fleet.for_each_take_stage(project, named, options.callback, host=host, **options.arguments)
        if not run.total:
            say(f"the primary storage of {project} lacks nothing that its secondaries have")
        detach_or_follow(fleet, run, options)
