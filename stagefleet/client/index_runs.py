"""Publication of multi-platform stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagefleet.client.fleet_base import FleetBase
from stagefleet.client.operations import parse_repository
from stagefleet.names import Reference, Repository, StageId
from stagefleet.platforms import Platform

__all__ = ["IndexRuns"]


class IndexRuns(FleetBase):
    """Publish multi-platform stages made of platform images; needs no worker."""

    def publish_index(
        self,
        repository: str | Repository,
        stage_id: str | StageId,
        images: Mapping[str | Platform, str | StageId | Reference],
    ) -> dict[str, Any]:
        """Publish an index over platform images; succeed if it already exists.

        Args:
            repository: The repository of the index.
            stage_id: The stage id of the index, a digest alone.
            images: By platform, as `linux/amd64`: a stage of the repository or any image, `REPOSITORY:TAG` or
                `REPOSITORY@DIGEST`. An image of another repository is copied first.

        Returns:
            The description of the stage, as JSON.

        Raises:
            UsageError: A name is malformed, an image is for another platform, or the stage exists with other
                images, or is rejected.
            NotFoundError: An image does not exist.
            LockTimeoutError: A copy or deletion of the stage takes too long.
        """
        where = parse_repository(repository)
        chosen = {
            platform if isinstance(platform, Platform) else Platform.parse(platform): _reference(where, image)
            for platform, image in images.items()
        }
        return self._services.registries.publish_index(
            where, StageId.parse(str(stage_id)), chosen, self._services.locks
        )


def _reference(repository: Repository, image: str | StageId | Reference) -> Reference:
    if isinstance(image, Reference):
        return image
    if isinstance(image, StageId) or StageId.from_tag(image) is not None:
        return repository.tagged(str(image))
    return Reference.parse(image)
