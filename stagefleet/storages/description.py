"""From manifests and configurations to what is told of an image.

OCI image specification 1.1, "OCI Image Configuration"; Docker's configurations have the same fields, and
`Image` and `OnBuild` besides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from stagefleet.errors import BrokenStageError, UnsupportedManifestError
from stagefleet.names import Reference
from stagefleet.registry import Manifest
from stagefleet.stages import ImageInfo

__all__ = ["describe_image", "describe_index", "moment_of", "platform_in", "read_settings"]

_PARENT_LABEL = "werf.io/base-image-id"
_NANOSECONDS = re.compile(r"(\.\d{6})\d+")


class _Settings(TypedDict):
    parent_id: str
    labels: dict[str, str]
    env: tuple[str, ...]
    on_build: tuple[str, ...]
    volumes: tuple[str, ...]


class _Names(TypedDict):
    name: str
    repository: str
    tag: str
    repo_digest: str


def describe_image(reference: Reference, manifest: Manifest, config: bytes) -> ImageInfo:
    """What is known of an image.

    Args:
        reference: The image's name.
        manifest: Its manifest.
        config: Its configuration, as the manifest names it.

    Raises:
        BrokenStageError: The configuration is no JSON object.
    """
    try:
        document = json.loads(config)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise BrokenStageError(f"{reference}: the image's configuration is no JSON object; build it again")
    return ImageInfo(
        **_names(reference, manifest),
        **read_settings(document.get("config")),
        image_id=str(manifest.config.digest) if manifest.config else str(manifest.digest),
        size=sum(layer.size for layer in manifest.layers),
        created_at=moment_of(document.get("created")),
    )


def read_settings(section: Any) -> _Settings:
    """What a configuration's section `config` tells; an engine shows the same section of its images."""
    settings = _mapping(section)
    labels = {key: value for key, value in _mapping(settings.get("Labels")).items() if isinstance(value, str)}
    return {
        "parent_id": _text(settings.get("Image")) or labels.get(_PARENT_LABEL, ""),
        "labels": labels,
        "env": _texts(settings.get("Env")),
        "on_build": _texts(settings.get("OnBuild")),
        "volumes": tuple(sorted(_mapping(settings.get("Volumes")))),
    }


def describe_index(reference: Reference, manifest: Manifest, members: Sequence[ImageInfo]) -> ImageInfo:
    """What is known of an index: its size is that of its members together."""
    return ImageInfo(
        **_names(reference, manifest),
        image_id=str(manifest.digest),
        size=sum(member.size for member in members),
        created_at=max((member.created_at for member in members if member.created_at), default=None),
        members=tuple(members),
    )


def platform_in(config: bytes, reference: Reference) -> Mapping[str, Any] | None:
    """The platform that an image's configuration says, as documents write it; None if it says none.

    Raises:
        UnsupportedManifestError: It is no JSON object.
    """
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UnsupportedManifestError(f"{reference} has a configuration that is no JSON object")
    return document if document.get("os") and document.get("architecture") else None


def _names(reference: Reference, manifest: Manifest) -> _Names:
    repository = reference.repository
    return {
        "name": str(reference),
        "repository": str(repository),
        "tag": reference.tag or "",
        "repo_digest": str(Reference.of(repository, manifest.digest)),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def moment_of(value: Any) -> datetime | None:
    """An RFC 3339 time; what Go writes has up to nine digits of a second."""
    try:
        moment = datetime.fromisoformat(_NANOSECONDS.sub(r"\1", _text(value)))
    except ValueError:
        return None
    return moment if moment.tzinfo else None  # RFC 3339 requires an offset
