"""A repository in a registry as a storage of stages."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from stagefleet.errors import BrokenStageError, NotFoundError, StageNotFoundError, UnsupportedManifestError
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.leases import current_lease
from stagefleet.names import Digest, Reference, Repository, StageId, StorageAddress
from stagefleet.records import is_placeholder, rejected_stage
from stagefleet.registry import Manifest, RegistryClient
from stagefleet.registry.members import Member, MemberReader
from stagefleet.shared_state.id_list import StageIdList
from stagefleet.shared_state.known_rejections import KnownRejections
from stagefleet.storages.image_config import describe_image, describe_index
from stagefleet.storages.rejections import Rejections

__all__ = ["RegistryStorage", "StageReader", "StageStorage"]

# A repository as a storage of stages.


class RegistryStorage:
    """`StageStorage` for a repository.

    Args:
        client: Client for registries.
        repository: The repository.
        known: Cache of rejections; without it each listing reads them again.

    Attributes:
        address: The repository.
    """

    def __init__(
        self, client: RegistryClient, repository: Repository, *, known: KnownRejections | None = None
    ) -> None:
        self.address = repository
        self._client = client
        self._rejections = Rejections(client, repository, known)

    def stage_ids(self) -> StageIdList:
        named: set[StageId] = set()
        found = StageIdList(self._candidates(named))
        return found.without(self._rejections.standing(named)) if named else found

    def rejected_ids(self) -> set[StageId]:
        """Return the stages that a record rejects."""
        named: set[StageId] = set()
        for _ in self._candidates(named):
            pass
        return self._rejections.standing(named) if named else named

    def rejected_digests(self) -> set[Digest]:
        """Return the digests of rejected stages."""
        return self._rejections.digests(self.rejected_ids())

    def _candidates(self, rejected: set[StageId]) -> Iterator[StageId]:
        """Yield the stages of the tag list, and collect those with a rejection record in `rejected`.

        The record may come after its stage.
        """
        try:
            for tag in self._client.tags(self.address):
                if stage_id := StageId.from_tag(tag):
                    yield stage_id
                elif stage_id := rejected_stage(tag):
                    rejected.add(stage_id)
        except NotFoundError:
            return  # the first push creates a repository

    def fetch_manifest(self, stage_id: StageId) -> Manifest:
        """Fetch the manifest or index of a stage.

        Raises:
            StageNotFoundError: There is none, or a placeholder.
            BrokenStageError: The registry lists it, but cannot deliver it.
        """
        reference = self.address.tagged(str(stage_id))
        try:
            manifest = self._client.fetch_manifest(reference)
        except NotFoundError as error:
            raise StageNotFoundError(f"{self.address} has no stage {stage_id}") from error
        if is_placeholder(manifest.annotations):
            raise StageNotFoundError(f"{self.address} has no stage {stage_id}: it is being deleted")
        return manifest

    def describe(self, stage_id: StageId) -> StageDescription:
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


# Reader for one stage of a repository: members and configurations, with limits for number and size.

_CONFIG_BYTES = 8 * 1024 * 1024
"""Largest configuration that is read into memory; a larger one, which no image has, is only copied."""
_CONFIGS_BYTES = 8 * _CONFIG_BYTES
"""Most bytes read of all configurations of an index."""


class StageReader:
    """Read one stage, an image or an index; create a new reader for each.

    Args:
        client: Client for registries.
        repository: The repository that has the stage.
    """

    def __init__(self, client: RegistryClient, repository: Repository) -> None:
        self._client = client
        self._repository = repository
        self._members = MemberReader(client, repository)
        self._config_bytes_left = _CONFIGS_BYTES

    def members(self, index: Manifest, depth: int = 1) -> Iterator[Member]:
        """Yield the members of an index that were not yielded before; arguments as `MemberReader.members`.

        Raises:
            BrokenStageError: The registry cannot deliver one.
            UnsupportedManifestError: The index is nested too deep, or leads to too many manifests or blobs.
        """
        try:
            yield from self._members.members(index, depth)
        except NotFoundError as error:
            raise self._broken(index, error) from error

    def member(self, index: Manifest, digest: Digest) -> Manifest:
        """Return the manifest of one member of an index, also repeatedly.

        Raises:
            BrokenStageError: The registry cannot deliver it.
        """
        try:
            return self._client.fetch_manifest(Reference.of(self._repository, digest))
        except NotFoundError as error:
            raise self._broken(index, error) from error

    def config(self, manifest: Manifest) -> bytes | None:
        """Return the configuration of an image; None if it is too large to be read.

        Raises:
            BrokenStageError: The registry cannot deliver it.
            UnsupportedManifestError: The manifest refers to none.
        """
        config = manifest.config
        if config is None:
            raise UnsupportedManifestError(f"{self._name(manifest)}: the manifest names no configuration")
        if config.size > min(_CONFIG_BYTES, self._config_bytes_left):
            return None
        self._config_bytes_left -= config.size
        current_lease().check()
        try:
            return self._client.fetch_blob(self._repository, config)
        except NotFoundError as error:
            raise self._broken(manifest, error) from error

    def describe(self, reference: Reference, manifest: Manifest, depth: int = 1) -> ImageInfo:
        """Describe an image, or an index with all its members.

        Args:
            reference: Its name.
            manifest: Its manifest.
            depth: As for `members`.

        Raises:
            BrokenStageError: The registry cannot deliver all of it.
            UnsupportedManifestError: It leads to too many manifests or blobs.
        """
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

    def _broken(self, manifest: Manifest, error: Exception) -> BrokenStageError:
        return BrokenStageError(
            f"{self._name(manifest)}: the registry cannot give all of it ({error}); build it again"
        )


# Interface of every storage of stages.


class StageStorage(Protocol):
    """A storage of stages; thread-safe."""

    @property
    def address(self) -> StorageAddress:
        """The storage's address."""

    def stage_ids(self) -> Collection[StageId]:
        """List the stages, without rejected ones; empty if the storage does not exist."""

    def describe(self, stage_id: StageId) -> StageDescription:
        """Describe one stage.

        Raises:
            StageNotFoundError: It does not exist.
            BrokenStageError: It is listed, but its content cannot be read.
        """
