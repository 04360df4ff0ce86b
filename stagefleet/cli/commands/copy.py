"""`stagefleet copy`."""

from __future__ import annotations

from typing import Annotated

import typer

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.session import RunOptions, run_operation, takes_run_options
from stagefleet.errors import UsageError
from stagefleet.names import parse_address

Source = Annotated[str | None, typer.Argument(metavar="SRC", help=opt.ADDRESSES)]
Destination = Annotated[str | None, typer.Argument(metavar="DST", help=opt.ADDRESSES)]
FromProject = Annotated[
    str | None,
    typer.Option(
        "--from-project",
        metavar="NAME",
        help="Instead of SRC and DST: from a project's secondary storages into its primary.",
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
    operation = stagefleet.CopyOperation(
        source=parse_address(source),
        destination=parse_address(destination),
        verify=verify,
        hosts=tuple(hosts or ()),
    )
    if_empty = f"{source} has no stages" if named is None else "no stage was named"
    with options.open_fleet(source, destination, hosts=hosts) as fleet:
        run_operation(fleet, operation, named, options, if_empty=if_empty)


def _take(name: str, named: list[str] | None, hosts: tuple[str, ...], options: RunOptions) -> None:
    """Copy the stages that a project's primary storage lacks from its secondary ones."""
    with options.open_fleet() as fleet:
        project = fleet.project(name)
        operation = stagefleet.TakeOperation.of(project.storages, hosts=hosts)
        if_empty = f"the primary storage of {name} lacks nothing that its secondaries have"
        run_operation(fleet, operation, named, options, project=project, if_empty=if_empty)
