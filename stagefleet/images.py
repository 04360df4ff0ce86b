"""Descriptions of images, immutable and the same for every kind of storage, and their platforms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from stagefleet.bounds import OUTCOME_BYTES, TRUNCATED, fit
from stagefleet.errors import InvalidNameError, UsageError
from stagefleet.names import Reference, Repository, StageId
from stagefleet.redaction import quoted

# Limited, so that a tag has room for all three after a stage id.
_PLATFORM = re.compile(r"([a-z0-9]{1,16})/([a-z0-9_]{1,16})(?:/([a-z0-9._]{1,16}))?")
_SHOWN_CHARACTERS = 60

# The aliases of containerd (its package platforms, `normalizeArch`) and Docker.
_SPELLINGS = {
    "aarch64": ("arm64", ""),
    "armel": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "i386": ("386", ""),
    "x86_64": ("amd64", ""),
}
_IMPLIED_VARIANTS = {"amd64": "v1", "arm": "v7", "arm64": "v8"}
_UNKNOWN = "unknown"
"""The operating system and architecture of manifests that are no images, such as BuildKit's attestations."""


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """A platform, as members of an index name it (OCI image specification 1.1, "Image Index").

    Names are those of Go; the variant is "" if it does not matter.
    """

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `OS/ARCHITECTURE[/VARIANT]`; `InvalidNameError` if it is malformed."""
        match = _PLATFORM.fullmatch(text)
        if match is None:
            raise InvalidNameError(
                f"{quoted(text)} is no platform: write OS/ARCHITECTURE[/VARIANT], as linux/amd64"
            )
        return cls(match[1], match[2], match[3] or "")

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self | None:
        """Read the platform from a document, in its normal form; return None if the document has none."""
        if not found.get("os") or not found.get("architecture"):
            return None
        try:
            platform = cls.parse(cls.display_name(found).lower())
        except InvalidNameError:
            return None
        return None if _UNKNOWN in {platform.os, platform.architecture} else platform.normal

    @property
    def normal(self) -> Self:
        """The normal form of equivalent spellings: `linux/arm64` for `linux/arm64/v8`."""
        architecture, implied = _SPELLINGS.get(self.architecture, (self.architecture, ""))
        variant = self.variant or implied
        variant = f"v{variant}" if variant.isdigit() else variant
        if variant == _IMPLIED_VARIANTS.get(architecture):
            variant = ""
        return type(self)(self.os, architecture, variant)

    def matches(self, found: Mapping[str, Any]) -> bool:
        """Compare with the platform in a document; the variant counts only if both have one."""
        variant = found.get("variant")
        return (self.os, self.architecture) == (found.get("os"), found.get("architecture")) and (
            not self.variant or not variant or self.variant == variant
        )

    @staticmethod
    def display_name(found: Mapping[str, Any]) -> str:
        """Format the platform in a document for messages."""
        parts = (found.get("os"), found.get("architecture"), found.get("variant"))
        return "/".join(str(part)[:_SHOWN_CHARACTERS] for part in parts if part)

    def as_json(self) -> dict[str, str]:
        """Return the platform in the form of an image index."""
        variant = {"variant": self.variant} if self.variant else {}
        return {"architecture": self.architecture, "os": self.os, **variant}

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class PlatformSelection:
    """A choice of platforms for a fetch: named ones, all that an engine can keep, or its own alone."""

    named: tuple[Platform, ...] = ()
    everything: bool = False

    @classmethod
    def parse(cls, named: Sequence[str | Platform] | None, *, everything: bool = False) -> Self:
        """Parse a caller's choice; nothing named is the engine's own platform.

        `UsageError` for both `named` and `everything`, `InvalidNameError` for a malformed platform.
        """
        if isinstance(named, str):
            raise UsageError("platforms is one string: hand in a list of platforms")
        if named and everything:
            raise UsageError("name platforms, or ask for all of them, not both")
        parsed = (name if isinstance(name, Platform) else Platform.parse(name) for name in named or ())
        return cls(tuple(dict.fromkeys(parsed)), everything)

    def __bool__(self) -> bool:
        return self.everything or bool(self.named)

    def as_options(self) -> dict[str, Any]:
        """Return the choice for `RunSpec.options`; empty for the default."""
        if self.everything:
            return {"all_platforms": True}
        return {"platforms": [str(platform) for platform in self.named]} if self.named else {}


_INFO_BYTES = OUTCOME_BYTES * 3 // 4
"""The maximum size of one `ImageInfo` as JSON, which leaves room for the rest of an outcome."""


class ImageInfo(BaseModel):
    """The metadata of an image, without its layers; `name` is `REPOSITORY:TAG`.

    Attributes:
        repo_digest: `REPOSITORY@sha256:...`, with the digest of the manifest or index.
        image_id: The digest of the image's configuration; of an index, the index's own digest.
        parent_id: The image that this one was built from; "" if unknown.
        env: `KEY=VALUE` each.
        on_build: The ONBUILD instructions.
        size: The sum of the sizes of its layers as the registry keeps them, in bytes.
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
        frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True, defer_build=True
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


# Arguments that name the images of an index.


def parse_images(
    repository: Repository, images: Mapping[str | Platform, str | StageId | Reference]
) -> dict[Platform, Reference]:
    """Parse the images of an index: by platform, a stage of its repository or any image."""
    return {
        platform if isinstance(platform, Platform) else Platform.parse(platform): _parse_image(
            repository, image
        )
        for platform, image in images.items()
    }


def _parse_image(repository: Repository, image: str | StageId | Reference) -> Reference:
    if isinstance(image, Reference):
        return image
    if isinstance(image, StageId) or StageId.from_tag(image) is not None:
        return repository.tagged(str(image))
    return Reference.parse(image)
