"""`stagefleet delete`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.report import print_plan
from stagefleet.cli.run_options import RunOptions, detach_or_follow, takes_run_options
from stagefleet.engine.in_use_policy import InUsePolicy
from stagefleet.errors import UsageError

if TYPE_CHECKING:
    from stagefleet import Fleet
    from stagefleet.operations.base import Plan
    from stagefleet.runs.models import Run

__all__ = ["delete_stages"]


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
