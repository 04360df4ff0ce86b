"""`stagefleet list`, `copy` and `delete`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.filesize import decimal

from stagefleet.cli import options as opt
from stagefleet.cli.following import leave_or_follow
from stagefleet.cli.report import print_json, print_line, print_plan
from stagefleet.cli.session import open_fleet, say
from stagefleet.client import Fleet
from stagefleet.errors import UsageError
from stagefleet.stages import StageDescription

__all__ = ["copy_stages", "delete_stages", "list_stages"]

RepositoryArgument = Annotated[
    str, typer.Argument(metavar="REPO", help="HOST[:PORT]/PATH", show_default=False)
]
Source = Annotated[str, typer.Argument(metavar="SRC", help="HOST[:PORT]/PATH", show_default=False)]
Destination = Annotated[str, typer.Argument(metavar="DST", help="HOST[:PORT]/PATH", show_default=False)]


def list_stages(
    repository: RepositoryArgument,
    *,
    long: Annotated[bool, typer.Option("-l", "--long", help="Describe each stage.")] = False,
    parallel: opt.Parallel = None,
    json: opt.Json = False,
) -> None:
    """List the stages of a repository."""
    options = opt.RunOptions(parallel=parallel, json=json)
    with open_fleet(parallel=options.parallel) as fleet:
        if not long and not json:
            for stage_id in fleet.stage_ids(repository):
                print_line(str(stage_id))
            return
        for description in fleet.describe_stages(repository):
            if json:
                print_json(description.as_json())
            else:
                print_line(_long_line(description))


def _long_line(description: StageDescription) -> str:
    info = description.info
    made = "-" if info.created_at is None else info.created_at.strftime("%Y-%m-%d %H:%M:%S")
    image = info.image_id.partition(":")[2][:12]
    return f"{description.stage_id!s:<70}  {made:<19}  {decimal(info.size):>10}  {image}"


def copy_stages(
    source: Source,
    destination: Destination,
    stage_ids: opt.StageIdArguments = None,
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare digests too, and copy again what differs.")
    ] = False,
    parallel: opt.Parallel = None,
    from_file: opt.FromFile = None,
    detach: opt.Detach = False,
    idempotency_key: opt.IdempotencyKey = None,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    embedded: opt.Embedded = False,
) -> None:
    """Copy stages from one repository to another: all that it lacks when none is named."""
    options = opt.RunOptions(parallel, detach, idempotency_key, dry_run, json, embedded)
    named = opt.read_stage_ids(stage_ids, from_file)
    with _open(options) as fleet:
        if dry_run:
            print_plan(fleet.plan_copy_stage(source, destination, named, verify=verify), as_json=json)
            return
        run = fleet.for_each_copy_stage(
            source, destination, named, verify=verify, idempotency_key=idempotency_key, detach=True
        )
        if not run.total:
            say(f"{source} has no stages" if named is None else "no stage was named")
        leave_or_follow(fleet, run, options)


def delete_stages(
    repository: RepositoryArgument,
    stage_ids: opt.StageIdArguments = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Delete every stage.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")] = False,
    parallel: opt.Parallel = None,
    from_file: opt.FromFile = None,
    detach: opt.Detach = False,
    idempotency_key: opt.IdempotencyKey = None,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    embedded: opt.Embedded = False,
) -> None:
    """Delete stages from a repository, and no tag that was not named."""
    options = opt.RunOptions(parallel, detach, idempotency_key, dry_run, json, embedded)
    named = opt.read_stage_ids(stage_ids, from_file)
    if everything and named is not None:
        raise UsageError("--all deletes every stage: leave out --all, or the stage ids")
    if not everything and named is None:
        raise UsageError("no stage is named: name stages, or use --from-file, or --all for every stage")
    with _open(options) as fleet:
        if dry_run:
            print_plan(fleet.plan_delete_stage(repository, named), as_json=json)
            return
        if everything and not yes:
            _confirm(fleet, repository)
        run = fleet.for_each_delete_stage(repository, named, idempotency_key=idempotency_key, detach=True)
        leave_or_follow(fleet, run, options)


def _confirm(fleet: Fleet, repository: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            f"delete --all asks on a terminal, and this is none: add --yes to empty {repository}"
        )
    count = len(fleet.plan_delete_stage(repository, None))
    if not typer.confirm(f"Delete all {count:,} stages of {repository}?", err=True):
        raise UsageError("nothing was deleted")


def _open(options: opt.RunOptions) -> Fleet:
    needs_fleet = "--detach" if options.detach else "--idempotency-key" if options.key is not None else None
    return open_fleet(embedded=options.embedded, parallel=options.parallel, needs_fleet=needs_fleet)
