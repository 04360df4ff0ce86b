"""Descriptions of a stage under another storage's name."""

from __future__ import annotations

from stagefleet.images import ImageInfo, StageDescription
from stagefleet.names import Repository

__all__ = ["relocated"]


def relocated(description: StageDescription, repository: Repository) -> StageDescription:
    """Return a description as of another repository, which has the same digest."""
    return StageDescription(stage_id=description.stage_id, info=_relocated(description.info, repository))


def _relocated(info: ImageInfo, repository: Repository) -> ImageInfo:
    digest = info.repo_digest.rpartition("@")[2]
    changes = {
        "name": f"{repository}:{info.tag}" if info.tag else f"{repository}@{digest}",
        "repository": str(repository),
        "repo_digest": f"{repository}@{digest}",
        "members": tuple(_relocated(member, repository) for member in info.members),
    }
    return info.model_copy(update=changes)
