"""The names that are handed to a deployment: the final storage's where there is one, else the primary's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stagefleet.names import DockerDaemon, StageId
from stagefleet.roles import Roles

__all__ = ["DeployedImage", "TagRule", "deployed_image", "deployed_repository"]

TagRule = Callable[[str, str], str]
"""Makes a custom tag of an image's name and the tag of its stage."""


@dataclass(frozen=True, slots=True)
class DeployedImage:
    """An image as a deployment names it.

    Attributes:
        image: What the project calls it; "" for the nameless image.
        repository: Where it is pulled from.
        tag: Its tag there.
    """

    image: str
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.repository}:{self.tag}"


def deployed_repository(roles: Roles) -> str:
    """The repository that a deployment pulls from; of a Docker Engine, the project's name there."""
    address = roles.deployed
    return address.project if isinstance(address, DockerDaemon) else str(address)


def deployed_image(
    roles: Roles, image: str, stage_id: StageId, tag_rule: TagRule | None = None
) -> DeployedImage:
    """How a deployment names the image that a stage is the last of.

    Args:
        roles: The project's storages.
        image: What the project calls the image.
        stage_id: The stage.
        tag_rule: Gives it a custom tag; the stage's own if None.
    """
    tag = str(stage_id)
    return DeployedImage(image, deployed_repository(roles), tag if tag_rule is None else tag_rule(image, tag))
