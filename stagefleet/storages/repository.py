"""A repository in a registry as a storage of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from stagefleet import errors
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.image_config import platform_in
from stagefleet.images import Platform, PlatformSelection, StageDescription
from stagefleet.leases import NO_LEASE, Lease, current_lease
from stagefleet.logs import errors_as_warnings
from stagefleet.manifests import INDEXES, Descriptor, Manifest, MemberReader
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.records.image import is_placeholder, rejected_stage
from stagefleet.registry.blob_reader import BlobReader
from stagefleet.registry.client import RegistryClient
from stagefleet.stage_lists import StageIdList
from stagefleet.storages.base import ManifestStorage

if TYPE_CHECKING:
    from stagefleet.storages.repository_records import RepositoryRecords
    from stagefleet.storages.storages import Storages


class RegistryStorage(ManifestStorage):
    """A repository."""

    address: Repository

    def __init__(
        self, storages: Storages, repository: Repository, client: RegistryClient | None = None
    ) -> None:
        self.address = repository
        self._storages = storages
        self.registries = storages.registries
        self._client = client or self.registries.client
        self._remembered = self.registries.remembered

    def check(self) -> None:
        try:
            self._client.ping(self.address.host)
        except errors.NotFoundError as error:
            raise errors.RepositoryNotFoundError(str(error)) from error

    def exists(self) -> bool:
        if self._client.has_repository(self.address):
            return True
        self.check()  # a server that answers 404 to everything is not a registry
        return False

    # Stages

    def stage_ids(self) -> StageIdList:
        named: set[StageId] = set()
        found = StageIdList(self._candidates(named))
        return found.without(self.registries.rejections(self.address).standing(named)) if named else found

    def rejected_ids(self) -> set[StageId]:
        """Return the stages that a record rejects."""
        named: set[StageId] = set()
        for _ in self._candidates(named):
            pass
        return self.registries.rejections(self.address).standing(named) if named else named

    def _candidates(self, rejected: set[StageId]) -> Iterator[StageId]:
        """Yield the stages of the tag list; collect those that a record rejects in `rejected`."""
        for tag in self.registries.tags(self.address):
            if stage_id := StageId.from_tag(tag):
                yield stage_id
            elif stage_id := rejected_stage(tag):
                rejected.add(stage_id)

    def has(self, tag: str) -> bool:
        """Return True if there is a tag now, without the fleet's memory."""
        try:
            self._client.head_manifest(self.address.tagged(tag))
        except errors.NotFoundError:
            return False
        return True

    def find_digest(self, stage_id: StageId) -> Digest:
        try:
            return self._client.head_manifest(self.address.tagged(str(stage_id))).digest
        except errors.NotFoundError as error:
            raise errors.StageNotFoundError(f"{self.address} has no stage {stage_id}") from error

    def fetch_manifest(self, stage_id: StageId) -> Manifest:
        return fetch_stage_manifest(self._client, self.address, stage_id)

    def fetch_member(self, digest: Digest) -> Manifest:
        return self._client.fetch_manifest(Reference.of(self.address, digest))

    def has_blob(self, descriptor: Descriptor) -> bool:
        return self._client.has_blob(self.address, descriptor.digest, size=descriptor.size)

    def open_blob(
        self,
        descriptor: Descriptor,
        *,
        lease: Lease = NO_LEASE,
        on_bytes: Callable[[int], None] | None = None,
    ) -> BlobReader:
        return self._client.open_blob(self.address, descriptor, lease=lease, on_bytes=on_bytes)

    def fetch_blob(self, descriptor: Descriptor) -> bytes:
        return self._client.fetch_blob(self.address, descriptor)

    @contextmanager
    def reopened(self) -> Iterator[RegistryStorage]:
        with self._client.reopened() as client:
            yield RegistryStorage(self._storages, self.address, client)

    def known(self, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        return self._remembered.known(self.address, stage_ids)

    def describe(self, stage_id: StageId) -> StageDescription:
        self.refuse_rejected(stage_id, current_lease())
        if stage_id.is_multiplatform:
            return self.confirm(stage_id)
        (known,) = self.known([stage_id])
        return known or self._read_and_remember(stage_id)

    def confirm(self, stage_id: StageId) -> StageDescription:
        """Describe a stage as `read` does; from the fleet's memory if its tag has not moved."""
        known = self._remembered.confirm(self.address, stage_id, self.find_digest(stage_id))
        return known or self._read_and_remember(stage_id)

    def _read_and_remember(self, stage_id: StageId) -> StageDescription:
        description = self.read(stage_id)
        self._remembered.descriptions.remember(str(self.address), [description])
        return description

    def delete(self, stage_id: StageId, attempt: Attempt) -> ItemResult:
        return self.delete_tag(str(stage_id), attempt)

    def delete_with_referrers(
        self,
        stage_id: StageId,
        attempt: Attempt,
        *,
        also: Iterable[str] = (),
        check: Callable[[], object] | None = None,
        is_locked: bool = False,
    ) -> ItemResult:
        """Delete a stage and what refers to its image, unless a tag keeps it that is not in `also`.

        The other arguments are as of `delete_tag`, errors as of `delete`.
        """
        from stagefleet.deletion.referrer_deletion import delete_with_referrers  # noqa: PLC0415 - only workers delete

        delete = partial(self.delete_tag, str(stage_id), attempt, check=check, is_locked=is_locked)
        deletions = self._storages.deletions
        return delete_with_referrers(deletions, self.address, stage_id, attempt, delete, also=frozenset(also))

    def delete_tag(
        self,
        tag: str,
        attempt: Attempt,
        *,
        check: Callable[[], object] | None = None,
        is_locked: bool = False,
    ) -> ItemResult:
        """Delete a tag of ours, and no other; arguments as of `TagDeletions.delete`."""
        return self._storages.deletions.delete(self.address, tag, attempt, check=check, is_locked=is_locked)

    # Records

    @property
    def records(self) -> RepositoryRecords:
        from stagefleet.storages.repository_records import RepositoryRecords  # noqa: PLC0415 - few ask for them

        return RepositoryRecords(self)

    def refuse_rejected(self, stage_id: StageId, lease: Lease) -> None:
        """Raise `StageNotFoundError` for a rejected stage, by the fleet's list: no request per stage."""
        if str(stage_id) in self.registries.rejected_lately(self.address, self.rejected_ids, lease):
            raise errors.StageNotFoundError(
                f"{self.address} has no stage {stage_id}: it was rejected as broken"
            )

    def reject(self, stage_id: StageId, *, project: str, lease: Lease) -> None:
        if stage_id.is_multiplatform:
            raise errors.UsageError(
                f"{stage_id} is a multi-platform stage, which is not rejected: run "
                f"stagefleet delete {self.address} {stage_id}"
            )
        self.registries.reject(self.address, stage_id, project=project, lease=lease)

    def withdraw_deletion(self, stage_id: StageId, lease: Lease) -> None:
        """Withdraw a deletion's leftover rejection of a stage that was pushed again; the caller has its lock.

        Other tools treat it like any other rejection, and a multi-platform stage comes again under the same
        name: it would stay rejected. A failure is logged as a warning.
        """
        with errors_as_warnings(f"{self.address}:{stage_id.rejected_tag} may be left of a deletion"):
            self._storages.deletions.withdraw_rejection(self.address, stage_id, lease)


def fetch_stage_manifest(client: RegistryClient, repository: Repository, stage_id: StageId) -> Manifest:
    """Fetch the manifest or index of a stage.

    Raises:
        StageNotFoundError: There is none, or a placeholder.
        BrokenStageError: The registry lists it, but cannot deliver it.
    """
    try:
        manifest = client.fetch_manifest(repository.tagged(str(stage_id)))
    except errors.NotFoundError as error:
        raise errors.StageNotFoundError(f"{repository} has no stage {stage_id}") from error
    if is_placeholder(manifest.annotations):
        raise errors.StageNotFoundError(f"{repository} has no stage {stage_id}: it is being deleted")
    return manifest


def find_subjects(client: RegistryClient, repository: Repository, stage_id: StageId) -> list[Digest]:
    """Return the digests that may have referrers: of a stage, and of the members of its index.

    Raises:
        StageNotFoundError: There is no such stage.
    """

    def fetch(digest: Digest) -> Manifest:
        return client.fetch_manifest(Reference.of(repository, digest))

    try:
        named = client.head_manifest(repository.tagged(str(stage_id)))
    except errors.NotFoundError as error:
        raise errors.StageNotFoundError(f"{repository} has no stage {stage_id}") from error
    found, waiting = [named.digest], [(named, 1)]
    reader = MemberReader(fetch, repository)
    while waiting:
        descriptor, depth = waiting.pop()
        if descriptor.media_type not in INDEXES:
            continue
        with suppress(errors.NotFoundError):  # a member that lacks has no members
            index = fetch(descriptor.digest)
            manifests = [member for member in reader.descriptors(index, depth) if member.is_manifest]
            found += [member.digest for member in manifests]
            waiting += [(member, depth + 1) for member in manifests]
    return found


# Selection of a stage's images, by the requested platforms.

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
