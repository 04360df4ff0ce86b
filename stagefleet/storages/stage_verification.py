"""Check that a registry can deliver an image, before a broken one is rejected for good.

One read proves nothing: a registry restarts, a backend is away for a moment, a proxy has half of a blob. So
missing or altered content is read again some seconds later, over new connections and past every cache on the
way. Only the same result twice counts, 404 or the same wrong content, while the tag still names the same
manifest. A registry that fails, breaks off or does not answer proves nothing about the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from stagefleet import errors
from stagefleet.image_config import platform_in
from stagefleet.images import Platform, PlatformSelection
from stagefleet.leases import Lease
from stagefleet.manifests import Descriptor, Manifest
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.http.waits import pause
from stagefleet.storages.repository import RegistryStorage, fetch_stage_manifest

SECOND_LOOK_SECONDS = 5.0
"""Shortest time between the first and the second read."""


@dataclass(frozen=True, slots=True)
class Defect:
    """Content of a stage that a registry cannot deliver.

    Attributes:
        content: The manifest of a member, a configuration or a layer.
        found: Digest of the content delivered instead, "" for none.
        member: The member of an index that it belongs to; None if the stage is one image.
    """

    content: Descriptor
    found: str = ""
    member: Digest | None = None

    def __str__(self) -> str:
        """Describe the defect, as `lacks sha256:...`."""
        if self.found:
            return f"has other content for {self.content.digest} ({self.found})"
        return f"lacks {self.content.digest}"


class StageVerification:
    """Examination of one stage, by two reads if needed."""

    def __init__(
        self, client: RegistryClient, repository: Repository, stage_id: StageId, *, lease: Lease
    ) -> None:
        self._client = client
        self._repository = repository
        self._stage_id = stage_id
        self._lease = lease

    def find_defect(self, members: Sequence[Digest]) -> Defect | None:
        """Return the content that the registry failed to deliver twice; None if there is none, or no proof.

        `members` are those of an index to read; empty for one image. A failed read proves nothing about the
        stage, and is raised, as is `StageNotFoundError`.
        """
        with self._client.reopened() as client:
            manifest = self._manifest(client)
            defect = self._first_defect(client, manifest, members)
        if defect is None:
            return None
        what = f"before a second look at {self._repository.tagged(str(self._stage_id))}"
        pause(SECOND_LOOK_SECONDS, self._lease, self._repository.host, what)
        with self._client.reopened() as client:
            if self._manifest(client).digest != manifest.digest:
                return None
            look = self._look_at_member if defect.content.digest == defect.member else self._look_at_blob
            again = look(client, defect.content)
        return defect if again == defect.found else None

    def _manifest(self, client: RegistryClient) -> Manifest:
        return fetch_stage_manifest(client, self._repository, self._stage_id)

    def _first_defect(
        self, client: RegistryClient, manifest: Manifest, members: Sequence[Digest]
    ) -> Defect | None:
        if not manifest.is_index:
            return self._defect_of_image(client, manifest)
        wanted = {member.digest: member for member in manifest.members if member.digest in members}
        for descriptor in wanted.values():
            seen = self._look_at_member(client, descriptor)
            if not isinstance(seen, Manifest):
                return Defect(descriptor, seen, descriptor.digest)
            defect = self._defect_of_image(client, seen, descriptor.digest)
            if defect is not None:
                return defect
        return None

    def _defect_of_image(
        self, client: RegistryClient, manifest: Manifest, member: Digest | None = None
    ) -> Defect | None:
        for blob in sorted(_blobs(manifest), key=lambda blob: self._seems_there(client, blob)):
            found = self._look_at_blob(client, blob)
            if found is not None:
                return Defect(blob, found, member)
        return None

    def _seems_there(self, client: RegistryClient, blob: Descriptor) -> bool:
        """Ask for a blob by HEAD; the answer only decides which blob is read first."""
        with suppress(errors.RegistryError, errors.DigestMismatchError):
            return client.has_blob(self._repository, blob.digest, size=blob.size)
        return True

    def _look_at_blob(self, client: RegistryClient, blob: Descriptor) -> str | None:
        """Read a blob to its end: None if it is complete, else `Defect.found`."""
        self._lease.check()
        try:
            found = client.hash_blob(self._repository, blob)
        except errors.NotFoundError:
            return ""
        return None if found == blob.digest else str(found)

    def _look_at_member(self, client: RegistryClient, member: Descriptor) -> Manifest | str:
        """Read the manifest of a member, or return `Defect.found`."""
        self._lease.check()
        try:
            return client.fetch_manifest(Reference.of(self._repository, member.digest))
        except errors.NotFoundError:
            return ""
        except errors.DigestMismatchError as error:
            return error.found


def _blobs(manifest: Manifest) -> Iterator[Descriptor]:
    """Yield each blob that the registry must have, once; layers stored elsewhere are left out."""
    named = [*([] if manifest.config is None else [manifest.config]), *manifest.layers]
    yield from {blob.digest: blob for blob in named if blob.is_distributable}.values()


# Selection of a stage's images for a fetch, by the requested platforms.

_MOST_PLATFORMS = 100
"""Most images of one fetch; Go knows some 50 platforms."""
_TOLD_PLATFORMS = 20


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """Image of a stage for a platform in normal form, by its digest in the index.

    A stage that is one image has no member, and maybe no platform.
    """

    platform: Platform | None
    member: Digest | None = None


def choose_images(
    storage: RegistryStorage, stage_id: StageId, selection: PlatformSelection, own: Platform
) -> list[tuple[Platform, PlatformImage]]:
    """Choose the requested images, each with its requested platform.

    An engine of the platform `own` cannot keep images of another operating system, so "all" leaves those
    out.

    Raises:
        PlatformNotFoundError: The stage has no image for one of them; names those it has.
        UnsupportedManifestError: All were requested, and there are more than possible.
        StageNotFoundError: The repository does not have the stage.
    """
    images = _images(storage, stage_id)
    wanted: Sequence[Platform] = selection.named or sorted(
        {image.platform or own for image in images if image.platform is None or image.platform.os == own.os}
    )
    if not wanted:
        raise _missing(stage_id, f"any platform of {own.os}", images)
    if len(wanted) > _MOST_PLATFORMS:
        raise errors.UnsupportedManifestError(
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


def _missing(stage_id: StageId, wanted: str, images: Sequence[PlatformImage]) -> errors.PlatformNotFoundError:
    told = sorted({str(image.platform) for image in images})
    there = ", ".join(told[:_TOLD_PLATFORMS]) or "none for any platform"
    if len(told) > _TOLD_PLATFORMS:
        there += f" and {len(told) - _TOLD_PLATFORMS} more"
    return errors.PlatformNotFoundError(f"stage {stage_id} has no image for {wanted}: it has {there}")


def _images(storage: RegistryStorage, stage_id: StageId) -> list[PlatformImage]:
    """List the images of a stage; members without a platform, as attestations, are left out, as by Docker."""
    manifest = storage.fetch_manifest(stage_id)
    if not manifest.is_index:
        said = platform_in(storage.reader().config(manifest))
        return [PlatformImage(Platform.of(said or {}))]
    told = ((Platform.of(member.platform or {}), member.digest) for member in manifest.members)
    return [PlatformImage(platform, digest) for platform, digest in told if platform is not None]
