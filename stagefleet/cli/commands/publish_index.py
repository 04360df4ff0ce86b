"""`stagefleet publish-index`."""

from __future__ import annotations

from typing import Annotated

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.report import print_json, print_line
from stagefleet.cli.session import open_fleet
from stagefleet.errors import UsageError
from stagefleet.names import Reference, StageId
from stagefleet.platforms import Platform


def publish_index(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="HOST[:PORT]/PATH", show_default=False)],
    stage_id: Annotated[
        str, typer.Argument(metavar="DIGEST", help="The id of the multi-platform stage.", show_default=False)
    ],
    *,
    platform: Annotated[
        list[str],
        typer.Option(
            "--platform",
            metavar="OS/ARCH=IMAGE",
            help="The image of a platform: a STAGE_ID of REPO, or REPOSITORY:TAG; repeatable.",
            show_default=False,
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
