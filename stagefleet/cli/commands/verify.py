"""`stagefleet verify`."""

from __future__ import annotations

from typing import Annotated

import typer

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.session import RunOptions, run_operation, takes_run_options
from stagefleet.names import parse_address


@takes_run_options()
def verify_stages(
    repository: Annotated[str, typer.Argument(metavar="REPO", help=opt.ADDRESSES)],
    stage_ids: opt.StageIdArguments = None,
    *,
    shallow: Annotated[
        bool, typer.Option("--shallow", help="Ask if blobs are there, and read none.")
    ] = False,
    reject: Annotated[
        bool,
        typer.Option("--reject", help="Reject single images that lack content, or have other content."),
    ] = False,
    hosts: opt.Hosts = None,
    options: RunOptions,
) -> None:
    """Verify stages, all when none is named: read every manifest, configuration and layer.

    A stage fails for what is missing, altered or unreadable of it. Each blob is read once.
    """
    named = opt.read_stage_ids(stage_ids, options.from_file)
    operation = stagefleet.VerifyOperation(
        repository=parse_address(repository), shallow=shallow, reject=reject, hosts=tuple(hosts or ())
    )
    if_empty = f"{repository} has no stages" if named is None else "no stage was named"
    with options.open_fleet(repository, hosts=hosts) as fleet:
        run_operation(fleet, operation, named, options, if_empty=if_empty)
