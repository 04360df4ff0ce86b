"""Descriptions of a stage under another storage's name."""

from __future__ import annotations

from stagefleet.names import Repository
from stagefleet.stages import ImageInfo, StageDescription

__all__ = ["renamed"]


def renamed(description: StageDescription, repository: Repository) -> StageDescription:
    """Return a description as of another repository, which has the same digest."""
    return StageDescription(stage_id=description.stage_id, info=_renamed(description.info, repository))


def _renamed(info: ImageInfo, repository: Repository) -> ImageInfo:
    digest = info.repo_digest.rpartition("@")[2]
    changes = {
        "name": f"{repository}:{info.tag}" if info.tag else f"{repository}@{digest}",
        "repository": str(repository),
        "repo_digest": f"{repository}@{digest}",
        "members": tuple(_renamed(member, repository) for member in info.members),
    }
    return info.model_copy(update=changes)
