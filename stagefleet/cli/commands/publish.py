"""`stagefleet publish`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.report import print_plan
from stagefleet.cli.run_options import RunOptions, detach_or_follow, takes_run_options
from stagefleet.cli.session import say
from stagefleet.errors import UsageError
from stagefleet.names import Repository, parse_address

if TYPE_CHECKING:
    from stagefleet import Fleet, Project
    from stagefleet.operations.base import Plan
    from stagefleet.runs.models import Run

__all__ = ["publish_stages"]


@takes_run_options()
def publish_stages(
    stage_ids: opt.StageIdArguments = None,
    *,
    project: opt.ProjectOption = None,
    primary: Annotated[str | None, typer.Option(metavar="REPO", help="Instead of --project.")] = None,
    final: Annotated[str | None, typer.Option(metavar="REPO", help="Together with --primary.")] = None,
    cache: Annotated[list[str] | None, typer.Option(metavar="REPO", help="As --final; repeatable.")] = None,
    should_be_built: Annotated[
        bool, typer.Option("--should-be-built", help="What the final storage lacks is an error.")
    ] = False,
    caches: Annotated[
        bool, typer.Option("--caches", help="Into the caches too; what fails there is a warning.")
    ] = False,
    hosts: opt.Hosts = None,
    options: RunOptions,
) -> None:
    """Publish stages of a project: copy them from its primary storage into the final one.

    What was published before is used as it is. A project without a final storage has its caches filled with
    --caches alone. Out of a Docker Engine: that of this host, or of the one named with --host.
    """
    named = opt.read_stage_ids(stage_ids, options.from_file)
    if primary is not None and final is None and not (cache and caches):
        raise UsageError("--primary says where from: say where to with --final, or with --cache and --caches")
    which = _choose(project, primary, final, cache)
    with options.open_fleet() as fleet:
        publication = _Publication(
            fleet, which, named, should_be_built=should_be_built, caches=caches, host=opt.one_host(hosts)
        )
        if options.dry_run:
            print_plan(publication.plan(options), as_json=options.json)
            return
        run = publication.start(options)
        if not run.total:
            say("there is nothing to publish")
        detach_or_follow(fleet, run, options)


def _choose(
    project: str | None, primary: str | None, final: str | None, cache: list[str] | None
) -> str | Project:
    """Return the project of a command.

    Raises:
        UsageError: The command names none, or two.
    """
    if project is not None:
        if primary or final or cache:
            raise UsageError("--project says which storages: leave out --primary, --final and --cache")
        return project
    if primary is None:
        raise UsageError("which project? name one with --project, or its storages with --primary and --final")
    return stagefleet.Project.alone(
        parse_address(primary),
        None if final is None else Repository.parse(final),
        tuple(map(Repository.parse, cache or ())),
    )


class _Publication:
    """The stages to publish, and the targets: the final storage, the caches, or both."""

    def __init__(
        self,
        fleet: Fleet,
        project: str | Project,
        stage_ids: list[str] | None,
        *,
        should_be_built: bool,
        caches: bool,
        host: str | None,
    ) -> None:
        self._fleet = fleet
        self._project = project
        self._stage_ids = stage_ids
        self._should_be_built = should_be_built
        self._caches = caches
        self._host = host
        self._into_final = not caches or should_be_built or fleet.resolve_project(project).final is not None

    def plan(self, options: RunOptions) -> Plan:
        if self._into_final:
            return self._fleet.plan_publish_stage(
                self._project,
                self._stage_ids,
                fill_caches=self._caches,
                host=self._host,
                missing_ok=options.missing_ok,
            )
        return self._fleet.plan_cache_stage(
            self._project, self._stage_ids, host=self._host, missing_ok=options.missing_ok
        )

    def start(self, options: RunOptions) -> Run:
        if not self._into_final:
            return self._fleet.for_each_cache_stage(
                self._project, self._stage_ids, options.callback, host=self._host, **options.arguments
            )
        return self._fleet.for_each_publish_stage(
            self._project,
            self._stage_ids,
            options.callback,
            should_be_built=self._should_be_built,
            fill_caches=self._caches,
            host=self._host,
            **options.arguments,
        )
