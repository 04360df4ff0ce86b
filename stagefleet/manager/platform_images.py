"""Which images of a stage a fetch brings: those of the platforms that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stagefleet.errors import PlatformMissingError, UnsupportedManifestError
from stagefleet.names import Digest, StageId
from stagefleet.platforms import Platform, PlatformChoice
from stagefleet.registry import Manifest
from stagefleet.storages import RegistryStorage
from stagefleet.storages.description import platform_in

__all__ = ["PlatformImage", "choose_images", "members_for"]

_MOST_PLATFORMS = 100
"""How many images one fetch brings; Go knows some 50 platforms."""
_TOLD_PLATFORMS = 20


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """The image of a stage for a platform.

    Attributes:
        platform: In its normal form; None of a stage that is one image and does not say.
        member: Which of an index's members it is; None if the stage is this one image.
    """

    platform: Platform | None
    member: Digest | None = None


def choose_images(
    storage: RegistryStorage, stage_id: StageId, choice: PlatformChoice, own: Platform
) -> list[tuple[Platform, PlatformImage]]:
    """The images that were asked for, each with the platform that it was asked for as.

    Args:
        storage: The repository that has the stage.
        stage_id: Which stage.
        choice: Which platforms.
        own: The engine's; one of another operating system it cannot keep, so that all leaves those out.

    Raises:
        PlatformMissingError: The stage has no image for one of them; says which it has.
        UnsupportedManifestError: All were asked for, and it is for more than there can be.
        StageNotFoundError: The repository does not have the stage.
        BrokenStageError: It cannot give it.
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
    """The member that Docker chooses of an index for a platform, as a list of one; empty if none fits."""
    told = ((Platform.of(member.platform or {}), member.digest) for member in index.members)
    return [digest for found, digest in told if found == platform.normal][:1]


def _choose(stage_id: StageId, images: Sequence[PlatformImage], platform: Platform) -> PlatformImage:
    """The first that fits, as Docker does; what does not say fits any."""
    for image in images:
        if image.platform is None or image.platform == platform.normal:
            return image
    raise _missing(stage_id, str(platform), images)


def _missing(stage_id: StageId, wanted: str, images: Sequence[PlatformImage]) -> PlatformMissingError:
    told = sorted({str(image.platform) for image in images})
    there = ", ".join(told[:_TOLD_PLATFORMS]) or "none for any platform"
    if len(told) > _TOLD_PLATFORMS:
        there += f" and {len(told) - _TOLD_PLATFORMS} more"
    return PlatformMissingError(f"stage {stage_id} has no image for {wanted}: it has {there}")


def _images(storage: RegistryStorage, stage_id: StageId) -> list[PlatformImage]:
    """The images of a stage; members that tell no platform, as attestations, are none for Docker either."""
    manifest = storage.fetch_manifest(stage_id)
    if not manifest.is_index:
        said = platform_in(storage.reader().config(manifest))
        return [PlatformImage(Platform.of(said or {}))]
    told = ((Platform.of(member.platform or {}), member.digest) for member in manifest.members)
    return [PlatformImage(platform, digest) for platform, digest in told if platform is not None]
