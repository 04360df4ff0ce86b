"""Descriptions of images, from manifests and configurations, or from an engine.

OCI image specification 1.1, "OCI Image Configuration"; Docker's configurations have the same fields, and
`Image` and `OnBuild` besides.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any, TypedDict

from stagefleet.bounds import clean
from stagefleet.errors import UnreadableContentError
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.manifests import Manifest
from stagefleet.names import Digest, Repository, StorageAddress

_PARENT_LABEL = "werf.io/base-image-id"
_NANOSECONDS = re.compile(r"(\.\d{6})\d+")
_LARGE_BYTES = 1024 * 1024
_LARGE_CONFIG = threading.Lock()
"""Lock around the parsing of a configuration larger than `_LARGE_BYTES`: one at a time per process."""


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


def describe_image(address: StorageAddress, tag: str, manifest: Manifest, config: bytes | None) -> ImageInfo:
    """Describe an image, or another artifact: without an image configuration it has no labels.

    The tag is "" for an image by its digest. A configuration that is too large to be read is None.
    """
    settings, created_at = _config_facts(config)
    return ImageInfo(
        **_names(address, tag, manifest.digest),
        **settings,
        image_id=str(manifest.config.digest) if manifest.config else str(manifest.digest),
        size=sum(layer.size for layer in manifest.layers),
        created_at=created_at,
        truncated=config is None,
    ).bounded()


def _config_facts(config: bytes | None) -> tuple[_Settings, datetime | None]:
    """Return the settings in a configuration, and the creation time of its image."""
    content = config or b""
    # Parsed, a malicious one takes many times its size.
    with _LARGE_CONFIG if len(content) > _LARGE_BYTES else nullcontext():
        document = _read_config(content) or {}
        return _read_settings(document.get("config")), _moment_of(document.get("created"))


def _read_config(config: bytes) -> dict[str, Any] | None:
    """Parse a configuration; None for anything but a JSON object, which artifacts may have."""
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _read_settings(section: Any) -> _Settings:
    """Parse the section `config` of a configuration; an engine returns the same section for its images."""
    settings = _mapping(section)
    labels = {
        clean(key): clean(value)
        for key, value in _mapping(settings.get("Labels")).items()
        if isinstance(value, str)
    }
    return {
        "parent_id": _text(settings.get("Image")) or labels.get(_PARENT_LABEL, ""),
        "labels": labels,
        "env": _texts(settings.get("Env")),
        "on_build": _texts(settings.get("OnBuild")),
        "volumes": tuple(sorted(map(clean, _mapping(settings.get("Volumes"))))),
    }


def describe_index(
    address: StorageAddress,
    tag: str,
    manifest: Manifest,
    members: Sequence[ImageInfo],
    *,
    blob_bytes: int = 0,
) -> ImageInfo:
    """Describe an index: its size is the total of its content, each part counted once."""
    return ImageInfo(
        **_names(address, tag, manifest.digest),
        image_id=str(manifest.digest),
        size=sum(member.size for member in members) + blob_bytes,
        created_at=max((member.created_at for member in members if member.created_at), default=None),
        members=tuple(members),
    ).bounded()


def platform_in(config: bytes | None) -> Mapping[str, Any] | None:
    """Return the platform in an image's configuration, in its JSON form; None if there is none."""
    document = _read_config(config or b"") or {}
    return document if document.get("os") and document.get("architecture") else None


def diff_ids_in(config: bytes) -> list[str]:
    """Return the diff ids in an image's configuration, as it spells them; empty if it has none.

    `UnreadableContentError` if it is no JSON object, or its diff ids are no list of text.
    """
    with _LARGE_CONFIG if len(config) > _LARGE_BYTES else nullcontext():
        document = _read_config(config)
        if document is None:
            raise UnreadableContentError("it is no JSON object")
        named = _mapping(document.get("rootfs")).get("diff_ids") or []  # Go writes an empty list as null
        if not isinstance(named, list) or not all(map(_text, named)):
            raise UnreadableContentError("its diff ids are no list of text")
        return [_text(diff_id) for diff_id in named]


def _names(address: StorageAddress, tag: str, digest: Digest | str) -> _Names:
    repo_digest = f"{address}@{digest}"
    return {
        "name": f"{address}:{tag}" if tag else repo_digest,
        "repository": str(address),
        "tag": tag,
        "repo_digest": repo_digest,
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return clean(value) if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(clean(text) for text in value if isinstance(text, str)) if isinstance(value, list) else ()


def _moment_of(value: Any) -> datetime | None:
    """Parse an RFC 3339 time; Go writes up to nine digits of a second."""
    try:
        moment = datetime.fromisoformat(_NANOSECONDS.sub(r"\1", _text(value)))
    except ValueError:
        return None
    return moment if moment.tzinfo else None  # RFC 3339 requires an offset


def describe_engine_image(image: dict[str, Any], repository: str | Repository, tag: str) -> ImageInfo:
    """Convert an engine's description of an image; the size is that of the unpacked layers.

    See Docker Engine API 1.41, "Inspect an image".
    """
    digests = [name for name in image.get("RepoDigests") or () if name.startswith(f"{repository}@")]
    return ImageInfo(
        name=f"{repository}:{tag}",
        repository=str(repository),
        tag=tag,
        repo_digest=digests[0] if digests else "",
        image_id=str(image.get("Id", "")),
        size=int(image.get("Size") or 0),
        created_at=_moment_of(image.get("Created")),
        **_read_settings(image.get("Config")),
    ).bounded()


def relocated(description: StageDescription, repository: Repository) -> StageDescription:
    """Return a description as of another repository, which has the same digest."""
    return StageDescription(stage_id=description.stage_id, info=_relocated(description.info, repository))


def _relocated(info: ImageInfo, repository: Repository) -> ImageInfo:
    names = _names(repository, info.tag, info.repo_digest.rpartition("@")[2])
    members = tuple(_relocated(member, repository) for member in info.members)
    return info.model_copy(update={**names, "members": members})
