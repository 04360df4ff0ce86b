"""Descriptions of stages: immutable, and the same for every kind of storage."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from stagefleet.bounds import OUTCOME_BYTES, TRUNCATED, fit
from stagefleet.names import StageId

_INFO_BYTES = OUTCOME_BYTES * 3 // 4
"""The maximum size of one `ImageInfo` as JSON, which leaves room for the rest of an outcome."""


class ImageInfo(BaseModel):
    """The metadata of an image, without its layers.

    Attributes:
        name: The full name, `REPOSITORY:TAG`.
        repository: The repository, `host/path`.
        tag: The tag.
        repo_digest: `REPOSITORY@sha256:...`, with the digest of the manifest or index.
        image_id: The digest of the image's configuration; of an index, the index's own digest.
        parent_id: The image that this one was built from; "" if unknown.
        labels: The image's labels.
        env: The image's environment, `KEY=VALUE` each.
        on_build: The image's ONBUILD instructions.
        volumes: The paths that the image declares as volumes.
        size: The sum of the sizes of its layers as the registry keeps them, in bytes.
        created_at: The creation time; None if unknown.
        members: For an index, the metadata of each member, in the index's order.
        truncated: True if the metadata was shortened to fit the size limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

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
        """Shorten labels, environment and other lists to the size limit; keep names, digests and sizes."""
        if len(self.model_dump_json(exclude_defaults=True).encode()) <= _INFO_BYTES:
            return self
        document = self.model_dump(mode="json", exclude_defaults=True)
        return ImageInfo.model_validate(fit(document, _INFO_BYTES))


class StageDescription(BaseModel):
    """A stage and its image."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        defer_build=True,
    )

    stage_id: StageId
    info: ImageInfo

    def as_json(self) -> dict[str, Any]:
        """Return the description as commands and outcomes show it (see docs/command-line.md)."""
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
        """Shorten the description to the size limit, as `ImageInfo.bounded`."""
        info = self.info.bounded()
        return self if info is self.info else StageDescription(stage_id=self.stage_id, info=info)
