"""`stagefleet list`, `copy` and `delete`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from stagefleet.cli import options as opt
from stagefleet.cli.report import as_line, print_line, print_plan
from stagefleet.cli.run_options import RunOptions, detach_or_follow, takes_run_options
from stagefleet.cli.session import open_fleet, say
from stagefleet.engine.in_use_policy import InUsePolicy
from stagefleet.errors import StageNotFoundError, UsageError
from stagefleet.fleet.fleet import Fleet
from stagefleet.images import StageDescription
from stagefleet.names import StageId
from stagefleet.operations.base import Plan
from stagefleet.runs.models import Run
from stagefleet.storages.isolation import OnLeftOut, left_out

__all__ = ["copy_stages", "delete_stages", "list_stages"]

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


def list_stages(
    repository: opt.RepositoryArgument = None,
    *,
    project: opt.ProjectOption = None,
    final: opt.FinalOption = False,
    long: Annotated[bool, typer.Option("-l", "--long", help="Describe each stage.")] = False,
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
    with open_fleet(parallel=options.parallel) as fleet:
        where = _listed(fleet, repository, project, final=final, missing_ok=missing_ok)
        if not long and not json:
            for stage_id in where.stage_ids():
                print_line(str(stage_id))
            return
        show = _json_line if json else _long_line
        omitted = _LeftOut()
        for description in where.describe_stages(omitted.note):
            print_line(show(description))
    if omitted.failed:
        raise typer.Exit(1)


@dataclass(slots=True)
class _LeftOut:
    """The stages that a list skips.

    Attributes:
        failed: The number of existing stages that could not be described.
    """

    failed: int = 0

    def note(self, stage_id: StageId, error: Exception) -> None:
        say(left_out(stage_id, error))
        self.failed += not isinstance(error, StageNotFoundError)


@dataclass(frozen=True, slots=True)
class _Listed:
    """The storage to list: a repository, or the primary storage of a project through its caches."""

    fleet: Fleet
    repository: str | None
    project: str
    missing_ok: bool

    def stage_ids(self) -> Iterable[StageId]:
        if self.repository is not None:
            return self.fleet.stage_ids(self.repository, missing_ok=self.missing_ok)
        return self.fleet.project_stage_ids(self.project, missing_ok=self.missing_ok)

    def describe_stages(self, on_left_out: OnLeftOut) -> Iterable[StageDescription]:
        if self.repository is not None:
            return self.fleet.describe_stages(
                self.repository, on_left_out=on_left_out, missing_ok=self.missing_ok
            )
        return self.fleet.describe_project_stages(
            self.project, on_left_out=on_left_out, missing_ok=self.missing_ok
        )


def _listed(
    fleet: Fleet, repository: str | None, project: str | None, *, final: bool, missing_ok: bool
) -> _Listed:
    if final:
        missing_ok = opt.may_be_new(fleet, project, missing_ok)
        repository = str(fleet.final_repository(opt.of_project(project, "--final")))
    elif repository is None and project is None:
        raise UsageError(opt.NO_REPOSITORY)
    return _Listed(fleet, repository, project or "", missing_ok)


def _json_line(description: StageDescription) -> str:
    return as_line(description.as_json())


def _long_line(description: StageDescription) -> str:
    info = description.info
    made = "-" if info.created_at is None else info.created_at.strftime("%Y-%m-%d %H:%M:%S")
    image = info.image_id.partition(":")[2][:12]
    return f"{description.stage_id!s:<70}  {made:<19}  {decimal(info.size):>10}  {image}"


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


@takes_run_options()
def delete_stages(
    repository: opt.RepositoryArgument = None,
    stage_ids: opt.StageIdArguments = None,
    *,
    project: opt.ProjectOption = None,
    final: opt.FinalOption = False,
    everything: Annotated[bool, typer.Option("--all", help="Delete every stage.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")] = False,
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
    with options.open_fleet() as fleet:
        deletion = _Deletion.of(fleet, repository, project, final=final)
        policy = InUsePolicy(skip_used, remove_containers, force)
        if project is None:
            deletion = deletion.in_engine({"hosts": hosts} if hosts else {}, policy)
        elif policy != InUsePolicy() or (final and hosts):
            raise UsageError("--host and what is in use are of a Docker Engine: name docker-daemon:PROJECT")
        elif hosts:
            deletion = deletion.in_engine({"host": opt.one_host(hosts)}, policy)
        if options.dry_run:
            print_plan(deletion.plan(named, options), as_json=options.json)
            return
        if everything and not yes:
            _confirm(deletion, options)
        detach_or_follow(fleet, deletion.start(named, options), options)


@dataclass(frozen=True, slots=True)
class _Deletion:
    """The storages to delete stages from: a repository, all storages of a project, or its final one.

    Attributes:
        name: Its name for messages.
        where: The repository or project, as an argument of the two calls.
        plan_of: Plans a dry run.
        start_of: Starts a run.
        engine: The host arguments of the two calls.
        policy: The policy for stages in use in an engine; None if not given.
    """

    name: str
    where: str
    plan_of: Callable[..., Plan]
    start_of: Callable[..., Run]
    engine: Mapping[str, Any] = field(default_factory=dict)
    policy: InUsePolicy | None = None

    @classmethod
    def of(cls, fleet: Fleet, repository: str | None, project: str | None, *, final: bool) -> _Deletion:
        if final:
            where = opt.of_project(project, "--final")
            name = str(fleet.final_repository(where))
            return cls(name, where, fleet.plan_delete_final_stage, fleet.for_each_delete_final_stage)
        if project is not None:
            name = f"{fleet.resolve_project(project).primary}, and of the caches of {project}"
            return cls(name, project, fleet.plan_delete_project_stage, fleet.for_each_delete_project_stage)
        where = repository or ""
        return cls(where, where, fleet.plan_delete_stage, fleet.for_each_delete_stage)

    def in_engine(self, engine: Mapping[str, Any], policy: InUsePolicy) -> _Deletion:
        """Return a copy with the arguments for engines."""
        return replace(self, engine=engine, policy=None if policy == InUsePolicy() else policy)

    def plan(self, named: list[str] | None, options: RunOptions) -> Plan:
        return self.plan_of(self.where, named, missing_ok=options.missing_ok, **self.engine)

    def start(self, named: list[str] | None, options: RunOptions) -> Run:
        policy = {} if self.policy is None else {"policy": self.policy}
        arguments: dict[str, Any] = {**options.arguments, **self.engine, **policy}
        return self.start_of(self.where, named, options.callback, **arguments)


def _confirm(deletion: _Deletion, options: RunOptions) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            f"delete --all asks on a terminal, and this is none: add --yes to empty {deletion.name}"
        )
    count = len(deletion.plan(None, options))
    if not typer.confirm(f"Delete all {count:,} stages of {deletion.name}?", err=True):
        raise UsageError("nothing was deleted")
