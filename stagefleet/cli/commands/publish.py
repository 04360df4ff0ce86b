"""`stagefleet publish` and `stagefleet publish-index`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.output import print_json, print_line
from stagefleet.cli.session import RunOptions, open_fleet, run_operation, takes_run_options
from stagefleet.errors import UsageError
from stagefleet.images import Platform
from stagefleet.names import Reference, Repository, StageId, parse_address

if TYPE_CHECKING:
    from stagefleet.operations.base import ProjectOperation


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
    referrers: Annotated[
        bool,
        typer.Option(
            "--referrers/--no-referrers", help="Signatures and other artifacts of the stages go along."
        ),
    ] = True,
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
    which, chosen = _choose(project, primary, final, cache), opt.one_host(hosts)
    with options.open_fleet() as fleet:
        of_project = fleet.project(which)
        operation: ProjectOperation
        if caches and not should_be_built and of_project.storages.final is None:
            operation = stagefleet.CacheOperation.of(of_project.storages, hosts=chosen)
        else:
            operation = stagefleet.PublishOperation.of(
                of_project.storages,
                hosts=chosen,
                should_be_built=should_be_built,
                fill_caches=caches,
                referrers=referrers,
            )
        run_operation(
            fleet, operation, named, options, project=of_project, if_empty="there is nothing to publish"
        )


def _choose(
    project: str | None, primary: str | None, final: str | None, cache: list[str] | None
) -> str | stagefleet.Project:
    """Return the project of a command."""
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


def publish_index(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="HOST[:PORT]/PATH")],
    stage_id: Annotated[str, typer.Argument(metavar="DIGEST", help="The id of the multi-platform stage.")],
    *,
    platform: Annotated[
        list[str],
        typer.Option(
            "--platform",
            metavar="OS/ARCH=IMAGE",
            help="The image of a platform: a STAGE_ID of REPO, or REPOSITORY:TAG; repeatable.",
        ),
    ],
    json: opt.Json = False,
) -> None:
    """Publish a multi-platform stage over platform images that are there."""
    images: dict[str | Platform, str | StageId | Reference] = {}
    for text in platform:
        name, equals, image = text.partition("=")
        if not equals:
            raise UsageError(f"--platform {text}: write OS/ARCH=IMAGE, as linux/amd64=STAGE_ID")
        parsed = Platform.parse(name)
        if parsed in images:
            raise UsageError(f"--platform {parsed} is there twice: name one image for each platform")
        images[parsed] = image
    with open_fleet() as fleet:
        description = fleet.publish_index(repository, stage_id, images)
    if json:
        print_json(description)
    else:
        print_line(f"{description['name']}  {description['repo_digest'].partition('@')[2]}")
