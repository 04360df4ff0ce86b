"""`stagefleet list`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.output import as_line, print_json, print_line, say
from stagefleet.cli.progress import describe_referrer
from stagefleet.cli.session import RunOptions, open_fleet
from stagefleet.errors import StageNotFoundError, UsageError
from stagefleet.names import StageId, StorageAddress, parse_address
from stagefleet.storages.isolation import left_out

if TYPE_CHECKING:
    from stagefleet.images import StageDescription
    from stagefleet.registry.referrers import Referrer


def list_stages(
    repository: opt.RepositoryArgument = None,
    *,
    project: opt.ProjectOption = None,
    final: opt.FinalOption = False,
    long: Annotated[bool, typer.Option("-l", "--long", help="Describe each stage.")] = False,
    referrers: Annotated[
        bool, typer.Option("--referrers", help="With the signatures and other artifacts that refer to each.")
    ] = False,
    parallel: opt.Parallel = None,
    missing_ok: opt.MissingOk = False,
    json: opt.Json = False,
) -> None:
    """List the stages of a repository, or of a project.

    With -l and --json a stage that cannot be described is left out and named, and the exit code is 1.
    """
    options = RunOptions(parallel=parallel, json=json)
    if project is not None and repository is not None:
        raise UsageError(f"--project says what is listed: leave out {repository}")
    if referrers and long:
        raise UsageError("--referrers does not go with -l: list the stages twice")
    with open_fleet(repository, parallel=options.parallel) as fleet:
        stage_ids, describe_stages = _listed(fleet, repository, project, final=final, missing_ok=missing_ok)
        if referrers:
            of_project = fleet.project(_named(fleet, repository, project, final=final))
            for stage_id, found in of_project.referrers(parallel=parallel, missing_ok=missing_ok):
                _print_referrers(stage_id, found, as_json=json)
            return
        if not long and not json:
            for stage_id in stage_ids():
                print_line(str(stage_id))
            return
        omitted = _LeftOut()
        for description in describe_stages(on_left_out=omitted.note):
            print_line(as_line(description.as_json()) if json else _long_line(description))
    if omitted.failed:
        raise typer.Exit(1)


def _named(
    fleet: stagefleet.Fleet, repository: str | None, project: str | None, *, final: bool
) -> str | StorageAddress:
    """Return the storage, or the project, whose stages are listed."""
    if final:
        return opt.final_repository(fleet, project)
    return parse_address(repository) if repository is not None else project or ""


def _print_referrers(stage_id: StageId, referrers: Sequence[Referrer], *, as_json: bool) -> None:
    if as_json:
        print_json({"stage_id": str(stage_id), "referrers": [each.as_json() for each in referrers]})
        return
    print_line(str(stage_id))
    for each in referrers:
        print_line(describe_referrer(each))


@dataclass(slots=True)
class _LeftOut:
    """The stages that a list skips; `failed` are those that exist and could not be described."""

    failed: int = 0

    def note(self, stage_id: StageId, error: Exception) -> None:
        say(left_out(stage_id, error))
        self.failed += not isinstance(error, StageNotFoundError)


def _listed(
    fleet: stagefleet.Fleet, repository: str | None, project: str | None, *, final: bool, missing_ok: bool
) -> tuple[Callable[..., Iterable[StageId]], Callable[..., Iterable[StageDescription]]]:
    """Return the functions that list and describe: a repository, or a project through its caches."""
    if final:
        missing_ok = opt.may_be_new(fleet, project, missing_ok)
        repository = str(opt.final_repository(fleet, project))
    elif repository is None and project is None:
        raise UsageError(opt.NO_REPOSITORY)
    if repository is None:
        of_project = fleet.project(project or "")
        return (
            partial(of_project.stage_ids, missing_ok=missing_ok),
            partial(of_project.describe_stages, missing_ok=missing_ok),
        )
    return (
        partial(fleet.stage_ids, repository, missing_ok=missing_ok),
        partial(fleet.describe_stages, repository, missing_ok=missing_ok),
    )


def _long_line(description: StageDescription) -> str:
    info = description.info
    made = "-" if info.created_at is None else info.created_at.strftime("%Y-%m-%d %H:%M:%S")
    image = info.image_id.partition(":")[2][:12]
    return f"{description.stage_id!s:<70}  {made:<19}  {decimal(info.size):>10}  {image}"
