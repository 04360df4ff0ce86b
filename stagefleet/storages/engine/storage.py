"""Stages of a project in a Docker Engine: images `PROJECT:STAGE_ID` with the project's label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stagefleet.errors import StageNotFoundError
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.names import EngineProject, Repository, StageId
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.storages.engine.connection import Engine
from stagefleet.storages.id_list import StageIdList
from stagefleet.storages.image_config import moment_of, read_settings

__all__ = ["EngineStorage", "describe_image_in"]


class EngineStorage:
    """`StageStorage` for a project in an engine.

    Attributes:
        address: The project in the engine.
        engine: The engine.
    """

    def __init__(self, engine: Engine, address: EngineProject) -> None:
        self.address = address
        self.engine = engine

    def name_of(self, stage_id: StageId) -> str:
        """Return the name of a stage's image."""
        return f"{self.address.project}:{stage_id}"

    def stage_ids(self) -> StageIdList:
        return StageIdList(self._candidates())

    def _candidates(self) -> Iterator[StageId]:
        project = self.address.project
        for name in self.engine.names(project, label=f"{PROJECT_LABEL}={project}"):
            repository, _, tag = name.rpartition(":")
            if repository == project and (stage_id := StageId.from_tag(tag)):
                yield stage_id

    def describe(self, stage_id: StageId) -> StageDescription:
        image = self.engine.find(self.name_of(stage_id))
        if image is None:
            raise StageNotFoundError(f"{self.address} has no stage {stage_id}")
        info = describe_image_in(image, self.address.project, str(stage_id))
        if info.labels.get(PROJECT_LABEL) != self.address.project:
            raise StageNotFoundError(
                f"{self.address} has no stage {stage_id}: the image of that name is another project's"
            )
        return StageDescription(stage_id=stage_id, info=info)


def describe_image_in(image: dict[str, Any], repository: str | Repository, tag: str) -> ImageInfo:
    """Convert an engine's description of an image; the size is that of the unpacked layers.

    Args:
        image: The engine's description (Docker Engine API 1.41, "Inspect an image").
        repository: The repository of the image's name.
        tag: The tag in the repository.
    """
    digests = [name for name in image.get("RepoDigests") or () if name.startswith(f"{repository}@")]
    info = ImageInfo(
        name=f"{repository}:{tag}",
        repository=str(repository),
        tag=tag,
        repo_digest=digests[0] if digests else "",
        image_id=str(image.get("Id", "")),
        size=int(image.get("Size") or 0),
        created_at=moment_of(image.get("Created")),
        **read_settings(image.get("Config")),
    )
    return info.bounded()
