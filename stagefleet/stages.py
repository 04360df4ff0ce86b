"""Stages as they are described: immutable, and the same whatever storage they come from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from stagefleet.bounds import OUTCOME_BYTES, TRUNCATED, fit
from stagefleet.names import StageId

__all__ = ["ImageInfo", "StageDescription"]

_INFO_BYTES = OUTCOME_BYTES * 3 // 4
"""The most that one `ImageInfo` has as JSON; the rest of an outcome is for its frame."""


class ImageInfo(BaseModel):
    """What is known of an image without its layers.

    Attributes:
        name: The full name, `REPOSITORY:TAG`.
        repository: The repository, `host/path`.
        tag: The tag.
        repo_digest: `REPOSITORY@sha256:...`, the digest that of the manifest or index.
        image_id: The digest of the image's configuration; of an index, the index's own digest.
        parent_id: The image that this one was built from, "" if it does not say.
        labels: The image's labels.
        env: The image's environment, `KEY=VALUE` each.
        on_build: The image's ONBUILD instructions.
        volumes: The paths that the image declares as volumes.
        size: The sum of the sizes of its layers as the registry keeps them, in bytes.
        created_at: When the image was made, None if it does not say.
        members: For an index, what is known of each member, in the index's order.
        truncated: Whether something was left out, because there was too much to be kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str
    repository: str
    tag: str
    repo_digest: str
    image_id: str
    parent_id: str = ""
    labels: Mapping[str, str] = {}
    env: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    size: int = 0
    created_at: datetime | None = None
    members: tuple[ImageInfo, ...] = ()
    truncated: bool = False

    def bounded(self) -> ImageInfo:
        """Cut labels, environment and the like to what may be kept; names, digests and sizes stay."""
        if len(self.model_dump_json(exclude_defaults=True).encode()) <= _INFO_BYTES:
            return self
        document = self.model_dump(mode="json", exclude_defaults=True)
        return ImageInfo.model_validate(fit(document, _INFO_BYTES))


class StageDescription(BaseModel):
    """A stage and the image that holds it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    stage_id: StageId
    info: ImageInfo

    def as_json(self) -> dict[str, Any]:
        """The description as commands and outcomes show it (see docs/command-line.md)."""
        info = self.info
        return {
            "stage_id": str(self.stage_id),
            "digest": self.stage_id.digest,
            "created_ms": self.stage_id.created_ms or None,
            "name": info.name,
            "repo_digest": info.repo_digest,
            "image_id": info.image_id,
            "parent_id": info.parent_id,
            "labels": dict(info.labels),
            "env": list(info.env),
            "size": info.size,
            "created_at": None if info.created_at is None else info.created_at.isoformat(),
            **({TRUNCATED: True} if info.truncated else {}),
        }

    def bounded(self) -> StageDescription:
        """Cut the description to what may be kept, as `ImageInfo.bounded`."""
        info = self.info.bounded()
        return self if info is self.info else StageDescription(stage_id=self.stage_id, info=info)
