"""Image names for deployments: of the final storage if there is one, else of the primary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stagefleet.names import StageId
from stagefleet.project import Project

TagRule = Callable[[str, str], str]
"""Makes a custom tag of an image's name and the tag of its stage."""


@dataclass(frozen=True, slots=True)
class DeployedImage:
    """An image as a deployment names it; `image` is the project's name, "" for the nameless one."""

    image: str
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.repository}:{self.tag}"


def deployed_image(
    project: Project, image: str, stage_id: StageId, tag_rule: TagRule | None = None
) -> DeployedImage:
    """Return the deployment's name of the image whose last stage is `stage_id`."""
    tag = str(stage_id)
    return DeployedImage(
        image, project.deployed.image_name, tag if tag_rule is None else tag_rule(image, tag)
    )
