"""How a stage goes from one storage to another."""

from __future__ import annotations

from collections.abc import Callable

from stagefleet.attempt import ItemResult
from stagefleet.errors import (
    BrokenStageError,
    ContentError,
    EngineError,
    ManifestRefusedError,
    NotFoundError,
    RegistryUnavailableError,
    StageNotFoundError,
)
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.leases import Lease
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.registry import Manifest, RegistryClient
from stagefleet.shared_state.base import SharedState
from stagefleet.storages.blob_transfer import Blob, BlobTransfer
from stagefleet.storages.docker_engine import EngineStorage
from stagefleet.storages.image_config import describe_image, describe_index
from stagefleet.storages.repository import RegistryStorage, StageReader

__all__ = ["StageCopy", "copy_from_engine", "copy_into_engine"]

# Copy a stage from registry to registry.
#
# The manifest goes last and byte for byte, so that its digest stays the same and nobody sees a partial
# stage. An index is copied with all its members, members first. Every step can be repeated: it skips
# existing content.
#
# The destination's reports of present blobs are trusted, for a check of each blob would double the
# requests. A registry that is wrong refuses the manifest, and gets the blobs again. A registry that is
# wrong both times is distribution whose garbage was collected while it ran and that caches blobs in memory:
# set it read-only for the collection and restart it, as its documentation says.

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


# Copy a stage between a registry and a Docker Engine: the engine itself pulls or pushes.
#
# A push changes the manifest's digest, as the engine writes its own manifest and compresses the layers
# itself; the image id stays the same.

Drop = Callable[[str], object]
"""Removes a name that only the copy needed."""


def copy_into_engine(
    source: RegistryStorage,
    destination: EngineStorage,
    stage_id: StageId,
    *,
    drop: Drop,
    verify: bool,
    lease: Lease,
) -> ItemResult:
    """Pull a stage, and give it the engine's name for stages.

    Args:
        source: The repository that has it.
        destination: The engine.
        stage_id: The stage.
        drop: Removes the repository's name for it again.
        verify: Skip it if the engine has the same image id.
        lease: Lease to check in waits.

    Raises:
        StageNotFoundError: The source does not have it.
        BrokenStageError: The source lists it, but lacks content that the engine needs.
        EngineError: It belongs to another project, so that the engine would not list it.
    """
    engine, reference = destination.engine, source.address.tagged(str(stage_id))
    project, manifest = destination.address.project, source.fetch_manifest(stage_id)
    if not manifest.is_index:  # the engine chooses from an index; other members may be missing
        _refuse_other_project(source.reader().describe(reference, manifest), destination)
    there = engine.find(destination.name_of(stage_id))
    image_id = str((manifest.config or manifest).digest)
    if verify and there is not None and there["Id"] == image_id:
        return ItemResult(skipped=True)
    is_new = engine.find(str(reference)) is None
    try:
        moved = engine.pull(reference, lease=lease)
    except NotFoundError as error:
        source.fetch_manifest(stage_id)  # raises if it is gone
        raise BrokenStageError(f"{error}; {source.address} cannot give all of it: build it again") from error
    engine.tag(str(reference), project, str(stage_id))
    if is_new:
        drop(str(reference))
    return ItemResult(destination.describe(stage_id).as_json(), bytes=moved)


def _refuse_other_project(info: ImageInfo, destination: EngineStorage) -> None:
    address, theirs = destination.address, info.labels.get(PROJECT_LABEL)
    if theirs != address.project:
        raise EngineError(
            f"{info.name} has the label {PROJECT_LABEL}={theirs}, so {address} would not list it: "
            f"copy it to docker-daemon:{theirs or 'PROJECT'}"
        )


def copy_from_engine(
    source: EngineStorage,
    destination: RegistryStorage,
    stage_id: StageId,
    *,
    drop: Drop,
    verify: bool,
    lease: Lease,
) -> ItemResult:
    """Push a stage under the destination's name; arguments as for `copy_into_engine`.

    Raises:
        StageNotFoundError: The engine does not have it.
    """
    described = source.describe(stage_id)
    if verify and _image_id(destination, stage_id) == described.info.image_id:
        return ItemResult(skipped=True)
    engine, address = source.engine, destination.address
    name = str(address.tagged(str(stage_id)))
    is_new = engine.find(name) is None
    engine.tag(source.name_of(stage_id), str(address), str(stage_id))
    try:
        lease.check()  # `check` is enough: a push by two attempts changes nothing
        moved = engine.push(address.tagged(str(stage_id)), lease=lease)
    finally:
        if is_new:
            drop(name)
    return ItemResult(destination.describe(stage_id).as_json(), bytes=moved)


def _image_id(storage: RegistryStorage, stage_id: StageId) -> str | None:
    try:
        return storage.describe(stage_id).info.image_id
    except (StageNotFoundError, ContentError, RegistryUnavailableError):
        return None  # a push repairs a damaged stage
