"""Copy a stage from registry to registry.

The manifest goes last and byte for byte, so that its digest stays the same and nobody sees a partial stage.
An index is copied with all its members, members first. Every step can be repeated: it skips existing content.

The destination's reports of present blobs are trusted, for a check of each blob would double the requests. A
registry that is wrong refuses the manifest, and gets the blobs again. A registry that is wrong both times is
distribution whose garbage was collected while it ran and that caches blobs in memory: set it read-only for
the collection and restart it, as its documentation says.
"""

from __future__ import annotations

from stagefleet.errors import (
    ManifestRefusedError,
    NotFoundError,
    RegistryUnavailableError,
    StageNotFoundError,
)
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.manager.blob_transfer import Blob, BlobTransfer
from stagefleet.manager.item_result import ItemResult
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.registry import Manifest, RegistryClient
from stagefleet.registry.lease import Lease
from stagefleet.runs.shared_state import SharedState
from stagefleet.storages import RegistryStorage
from stagefleet.storages.image_config import describe_image, describe_index
from stagefleet.storages.stage_reader import StageReader

__all__ = ["StageCopy"]

_HEALS = 2
"""Most repetitions of a refused manifest, its blobs sent again."""


class StageCopy:
    """One attempt at copying one stage.

    Args:
        client: Client for registries.
        shared_state: The shared state.
        source: The repository that has the stage.
        destination: The repository that gets it.
        run_id: The run's id.
        lease: Lease to check in waits and before writes.

    Attributes:
        found: Digest of an equal stage in the destination; None if the stage was copied.
        description: Description of the pushed stage; None if nothing was pushed.
    """

    def __init__(
        self,
        client: RegistryClient,
        shared_state: SharedState,
        source: RegistryStorage,
        destination: Repository,
        *,
        run_id: str,
        lease: Lease,
    ) -> None:
        self.found: Digest | None = None
        self.description: StageDescription | None = None
        self._client = client
        self._source = source
        self._destination = destination
        self._lease = lease
        self._blob_transfer = BlobTransfer(
            client, shared_state, source.address, destination, run_id=run_id, lease=lease
        )

    def execute(self, stage_id: StageId, *, verify: bool = False) -> ItemResult:
        """Copy the stage.

        Raises:
            StageNotFoundError: The source does not have it.
            BrokenStageError: The source cannot deliver all of it.
            ManifestRefusedError: The destination refuses it, even after its blobs were sent again.
        """
        target = self._destination.tagged(str(stage_id))
        if verify and self._is_same(stage_id, target):
            return ItemResult(skipped=True)
        manifest = self._source.fetch_manifest(stage_id)
        self.description = StageDescription(stage_id=stage_id, info=self._copy(manifest, target))
        return ItemResult(result=self.description.as_json(), bytes=self._blob_transfer.sent_bytes)

    def copy_manifest(self, manifest: Manifest) -> int:
        """Copy an image or index with all its content, under its digest alone.

        Returns:
            The bytes sent.

        Raises:
            StagefleetError: As in `execute`.
        """
        self._copy(manifest, Reference.of(self._destination, manifest.digest))
        return self._blob_transfer.sent_bytes

    def _is_same(self, stage_id: StageId, target: Reference) -> bool:
        """Return True if both sides have the same digest; two HEADs, which count against no pull limit."""
        try:
            there = self._client.head_manifest(target)
        except (NotFoundError, RegistryUnavailableError):
            return False  # a registry fails on damaged content (distribution 2.8): a push repairs it
        try:
            here = self._client.head_manifest(self._source.address.tagged(str(stage_id)))
        except NotFoundError as error:
            raise StageNotFoundError(f"{self._source.address} has no stage {stage_id}") from error
        self.found = there.digest if there.digest == here.digest else None
        return self.found is not None

    def _copy(self, manifest: Manifest, target: Reference) -> ImageInfo:
        return self._copy_whole(manifest, target, self._source.reader())

    def _copy_whole(
        self, manifest: Manifest, target: Reference, reader: StageReader, depth: int = 1
    ) -> ImageInfo:
        if manifest.is_index:
            return self._copy_index(manifest, target, reader, depth)
        return self._copy_image(manifest, target, reader)

    def _copy_image(self, manifest: Manifest, target: Reference, reader: StageReader) -> ImageInfo:
        # Described before the upload: an unreadable stage must not fail after a complete copy.
        config = reader.config(manifest)
        info = describe_image(target, manifest, config)
        assert manifest.config is not None
        blobs = [Blob(layer) for layer in manifest.layers if layer.is_distributable]
        blobs.append(Blob(manifest.config, config))
        self._blob_transfer.send(blobs)
        for _ in range(_HEALS):
            try:
                self._client.put_manifest(target, manifest, lease=self._lease)
                break
            except ManifestRefusedError as error:
                self._blob_transfer.send_again(_named(blobs, error.missing))
        else:
            self._client.put_manifest(target, manifest, lease=self._lease)
        return info

    def _copy_index(self, index: Manifest, target: Reference, reader: StageReader, depth: int) -> ImageInfo:
        infos, blobs = [], []
        for member in reader.members(index, depth):
            if member.manifest is None:
                blobs.append(Blob(member.descriptor))
            else:
                name = Reference.of(self._destination, member.descriptor.digest)
                infos.append(self._copy_whole(member.manifest, name, reader, depth + 1))
        self._blob_transfer.send([blob for blob in blobs if blob.descriptor.is_distributable])
        for _ in range(_HEALS):
            try:
                self._client.put_manifest(target, index, lease=self._lease)
                break
            except ManifestRefusedError as error:
                self._heal_index(index, blobs, error.missing)
        else:
            self._client.put_manifest(target, index, lease=self._lease)
        return describe_index(target, index, infos, blob_bytes=sum(blob.descriptor.size for blob in blobs))

    def _heal_index(self, index: Manifest, blobs: list[Blob], missing: tuple[str, ...]) -> None:
        """Send missing members of an index again; all of them if the destination names none."""
        members = {member.digest: member for member in index.members if member.is_manifest}
        lost = [digest for digest in members if str(digest) in missing]
        lost_blobs = [blob for blob in blobs if str(blob.descriptor.digest) in missing]
        if not lost and not lost_blobs:
            lost, lost_blobs = list(members), blobs
        if lost_blobs:
            self._blob_transfer.send_again(lost_blobs)
        for digest in lost:
            manifest = self._source.reader().member(index, digest)
            self._copy(manifest, Reference.of(self._destination, digest))


def _named(blobs: list[Blob], missing: tuple[str, ...]) -> list[Blob]:
    """Return the blobs that the registry reports missing; all if it names none of them."""
    named = [blob for blob in blobs if str(blob.descriptor.digest) in missing]
    return named or list({blob.descriptor.digest: blob for blob in blobs}.values())
