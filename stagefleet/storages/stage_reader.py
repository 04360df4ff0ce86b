"""Reader for one stage of a repository: members and configurations, with limits for number and size."""

from __future__ import annotations

from collections.abc import Iterator

from stagefleet.errors import BrokenStageError, NotFoundError, UnsupportedManifestError
from stagefleet.images import ImageInfo
from stagefleet.names import Digest, Reference, Repository
from stagefleet.registry import Manifest, RegistryClient
from stagefleet.registry.lease import current_lease
from stagefleet.registry.members import Member, MemberReader
from stagefleet.storages.image_config import describe_image, describe_index

__all__ = ["StageReader"]

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
