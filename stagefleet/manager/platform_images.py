"""Choice of a stage's images for a fetch, by the requested platforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stagefleet.errors import PlatformNotFoundError, UnsupportedManifestError
from stagefleet.names import Digest, StageId
from stagefleet.platforms import Platform, PlatformSelection
from stagefleet.registry import Manifest
from stagefleet.storages import RegistryStorage
from stagefleet.storages.image_config import platform_in

__all__ = ["PlatformImage", "choose_images", "members_for"]

_MOST_PLATFORMS = 100
"""Most images of one fetch; Go knows some 50 platforms."""
_TOLD_PLATFORMS = 20


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """Image of a stage for a platform.

    Attributes:
        platform: In normal form; None for a stage that is one image without a platform.
        member: Digest of the index's member; None if the stage is this one image.
    """

    platform: Platform | None
    member: Digest | None = None


def choose_images(
    storage: RegistryStorage, stage_id: StageId, choice: PlatformSelection, own: Platform
) -> list[tuple[Platform, PlatformImage]]:
    """Choose the requested images, each with its requested platform.

    Args:
        storage: The repository that has the stage.
        stage_id: The stage.
        choice: The requested platforms.
        own: The engine's platform; it cannot keep images of another operating system, so "all" leaves those
            out.

    Raises:
        PlatformNotFoundError: The stage has no image for one of them; names those it has.
        UnsupportedManifestError: All were requested, and there are more than possible.
        StageNotFoundError: The repository does not have the stage.
        BrokenStageError: The repository cannot deliver it.
    """
    images = _images(storage, stage_id)
    wanted: Sequence[Platform] = choice.named or sorted(
        {image.platform or own for image in images if image.platform is None or image.platform.os == own.os}
    )
    if not wanted:
        raise _missing(stage_id, f"any platform of {own.os}", images)
    if len(wanted) > _MOST_PLATFORMS:
        raise UnsupportedManifestError(
            f"stage {stage_id} is for {len(wanted)} platforms, and {_MOST_PLATFORMS} come at most: "
            "name those to fetch"
        )
    return [(platform, _choose(stage_id, images, platform)) for platform in wanted]


def members_for(index: Manifest, platform: Platform) -> list[Digest]:
    """Return the member that Docker chooses for a platform, as a list of one; empty if none fits."""
    told = ((Platform.of(member.platform or {}), member.digest) for member in index.members)
    return [digest for found, digest in told if found == platform.normal][:1]


def _choose(stage_id: StageId, images: Sequence[PlatformImage], platform: Platform) -> PlatformImage:
    """Return the first image that fits, as Docker does; one without a platform fits any."""
    for image in images:
        if image.platform is None or image.platform == platform.normal:
            return image
    raise _missing(stage_id, str(platform), images)


def _missing(stage_id: StageId, wanted: str, images: Sequence[PlatformImage]) -> PlatformNotFoundError:
    told = sorted({str(image.platform) for image in images})
    there = ", ".join(told[:_TOLD_PLATFORMS]) or "none for any platform"
    if len(told) > _TOLD_PLATFORMS:
        there += f" and {len(told) - _TOLD_PLATFORMS} more"
    return PlatformNotFoundError(f"stage {stage_id} has no image for {wanted}: it has {there}")


def _images(storage: RegistryStorage, stage_id: StageId) -> list[PlatformImage]:
    """List the images of a stage; members without a platform, as attestations, are left out, as by Docker."""
    manifest = storage.fetch_manifest(stage_id)
    if not manifest.is_index:
        said = platform_in(storage.reader().config(manifest))
        return [PlatformImage(Platform.of(said or {}))]
    told = ((Platform.of(member.platform or {}), member.digest) for member in manifest.members)
    return [PlatformImage(platform, digest) for platform, digest in told if platform is not None]
