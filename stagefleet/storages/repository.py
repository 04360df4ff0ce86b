"""A repository in a registry as a storage of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from stagefleet import errors
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.best_effort import errors_as_warnings
from stagefleet.image_config import describe_image, describe_index
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.leases import Lease, current_lease
from stagefleet.manifests import Manifest
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.records.image import is_placeholder, rejected_stage
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.members import Member, MemberReader
from stagefleet.shared_state.tag_lists import StageIdList
from stagefleet.storages.repository_records import RepositoryRecords
from stagefleet.storages.storage import Storage

if TYPE_CHECKING:
    from stagefleet.storages.storages import Storages


class RegistryStorage(Storage):
    """A repository."""

    address: Repository

    def __init__(self, storages: Storages, repository: Repository) -> None:
        self.address = repository
        self._storages = storages
        self.registries = storages.registries
        self._client = self.registries.client
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

    def has_stage(self, stage_id: StageId) -> bool:
        """Return True if there is a stage now, rejected or not, and not a placeholder."""
        try:
            self.fetch_manifest(stage_id)
        except errors.StageNotFoundError:
            return False
        return True

    def fetch_manifest(self, stage_id: StageId) -> Manifest:
        """Fetch the manifest or index of a stage; errors as of `fetch_stage_manifest`."""
        return fetch_stage_manifest(self._client, self.address, stage_id)

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
        try:
            there = self._client.head_manifest(self.address.tagged(str(stage_id)))
        except errors.NotFoundError as error:
            raise errors.StageNotFoundError(f"{self.address} has no stage {stage_id}") from error
        known = self._remembered.confirm(self.address, stage_id, there.digest)
        return known or self._read_and_remember(stage_id)

    def _read_and_remember(self, stage_id: StageId) -> StageDescription:
        description = self.read(stage_id)
        self._remembered.descriptions.remember(str(self.address), [description])
        return description

    def note_arrival(self, stage_id: StageId) -> None:
        """Record in the fleet's memory that a stage came here; its tag may have been another image's."""
        self._remembered.add(self.address, stage_id)

    def read(self, stage_id: StageId) -> StageDescription:
        manifest = self.fetch_manifest(stage_id)
        reference = self.address.tagged(str(stage_id))
        return StageDescription(stage_id=stage_id, info=self.reader().describe(reference, manifest))

    def describe_image(self, reference: Reference) -> ImageInfo:
        """Describe any image of the repository.

        Raises:
            NotFoundError: It does not exist.
            BrokenStageError: The registry lists it, but cannot deliver it.
        """
        return self.reader().describe(reference, self._client.fetch_manifest(reference))

    def reader(self) -> StageReader:
        """Create a reader for one stage or image."""
        return StageReader(self._client, self.address)

    def delete(self, stage_id: StageId, attempt: Attempt) -> ItemResult:
        return self.delete_tag(str(stage_id), attempt)

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
        return RepositoryRecords(self)

    def rejects(self, stage_id: StageId) -> bool:
        """Return True if a record rejects a stage now."""
        return self.has(stage_id.rejected_tag) and self.registries.rejections(self.address).stands(stage_id)

    def refuse_rejected(self, stage_id: StageId, lease: Lease) -> None:
        """Raise `StageNotFoundError` for a rejected stage, by the fleet's list: no request per stage."""
        if str(stage_id) in self.registries.rejected_lately(self.address, self.rejected_ids, lease):
            raise errors.StageNotFoundError(
                f"{self.address} has no stage {stage_id}: it was rejected as broken"
            )

    def reject(self, stage_id: StageId, *, project: str, lease: Lease) -> None:
        """Reject a broken stage, so that nobody uses it; a second rejection changes nothing.

        Raises:
            UsageError: It is a multi-platform stage: builders would refuse to build its image for good.
            RegistryError: The record cannot be written.
        """
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


# Reader for one stage of a repository: members and configurations, with limits for number and size.

_CONFIG_BYTES = 8 * 1024 * 1024
"""Largest configuration that is read into memory; a larger one, which no image has, is only copied."""
_CONFIGS_BYTES = 8 * _CONFIG_BYTES
"""Most bytes read of all configurations of an index."""


class StageReader:
    """Read one stage, an image or an index; create a new reader for each.

    All methods raise `BrokenStageError` if the registry cannot deliver something.
    """

    def __init__(self, client: RegistryClient, repository: Repository) -> None:
        self._client = client
        self._repository = repository
        self._members = MemberReader(client.fetch_manifest, repository)
        self._config_bytes_left = _CONFIGS_BYTES

    def members(self, index: Manifest, depth: int = 1) -> Iterator[Member]:
        """Yield the members of an index that were not yielded before; as `MemberReader.members`.

        Raises:
            UnsupportedManifestError: The index is nested too deep, or leads to too many manifests or blobs.
        """
        try:
            yield from self._members.members(index, depth)
        except errors.NotFoundError as error:
            raise self._broken(index, error) from error

    def member(self, index: Manifest, digest: Digest) -> Manifest:
        """Return the manifest of one member of an index, also repeatedly."""
        try:
            return self._client.fetch_manifest(Reference.of(self._repository, digest))
        except errors.NotFoundError as error:
            raise self._broken(index, error) from error

    def config(self, manifest: Manifest) -> bytes | None:
        """Return the configuration of an image; None if it is too large to be read.

        Raises:
            UnsupportedManifestError: The manifest refers to none.
        """
        config = manifest.config
        if config is None:
            raise errors.UnsupportedManifestError(
                f"{self._name(manifest)}: the manifest names no configuration"
            )
        if config.size > min(_CONFIG_BYTES, self._config_bytes_left):
            return None
        self._config_bytes_left -= config.size
        current_lease().check()
        try:
            return self._client.fetch_blob(self._repository, config)
        except errors.NotFoundError as error:
            raise self._broken(manifest, error) from error

    def describe(self, reference: Reference, manifest: Manifest, depth: int = 1) -> ImageInfo:
        """Describe an image, or an index with all its members; errors as of `members`."""
        if not manifest.is_index:
            return describe_image(reference, manifest, self.config(manifest))
        infos, blob_bytes = [], 0
        for member in self.members(manifest, depth):
            if member.manifest is None:
                blob_bytes += member.descriptor.size
            else:
                infos.append(self.describe(self._name(member.manifest), member.manifest, depth + 1))
        return describe_index(reference, manifest, infos, blob_bytes=blob_bytes)

    def _name(self, manifest: Manifest) -> Reference:
        return Reference.of(self._repository, manifest.digest)

    def _broken(self, manifest: Manifest, error: Exception) -> errors.BrokenStageError:
        return errors.BrokenStageError(
            f"{self._name(manifest)}: the registry cannot give all of it ({error}); build it again"
        )
