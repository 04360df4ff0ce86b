"""How a stage goes from one storage to another: the ways between the media."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial

from stagefleet import errors
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.fleet_registries import Registries
from stagefleet.image_config import describe_image, describe_index
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.leases import Lease
from stagefleet.manifests import INDEXES, Descriptor, Manifest
from stagefleet.names import Digest, Reference, StageId, StorageAddress
from stagefleet.oci_layout.directory import LayoutDirectory
from stagefleet.redaction import host_of
from stagefleet.redis_client import LastStep
from stagefleet.registry.http.waits import pause
from stagefleet.storages.base import ManifestStorage, StageReader, requiring_blob
from stagefleet.storages.blob_transfer import BlobTransfer, Config
from stagefleet.storages.docker_engine import EngineStorage
from stagefleet.storages.engine_transfer import from_engine, into_engine
from stagefleet.storages.oci_layout import LayoutStorage
from stagefleet.storages.repository import RegistryStorage
from stagefleet.storages.storages import Storages


def transfer(
    storages: Storages,
    source: StorageAddress,
    destination: StorageAddress,
    stage_id: StageId,
    attempt: Attempt,
    *,
    verify: bool = False,
    foreign_layers: bool = False,
    last_step: LastStep | None = None,
) -> ItemResult:
    """Copy one stage from storage to storage; with `verify`, skip it if the destination has the same image.

    Foreign layers are left out unless `foreign_layers` is set; engines decide by themselves. An item that
    ends with the copy hands in its `last_step`. If another copy of the stage is under way, wait for that and
    count its result: skipped.

    Raises:
        StageNotFoundError: The source does not have it, or it is rejected there.
        BrokenStageError: The source lists it, but cannot deliver it.
        LockTimeoutError: Others were copying or deleting it for too long.
        UsageError: There is no way between the two.
    """
    here, there = storages.open(source), storages.open(destination)
    if isinstance(here, RegistryStorage) and isinstance(there, ManifestStorage):
        here.refuse_rejected(stage_id, attempt.lease)
    registries, stage_locks = storages.registries, storages.registries.stage_locks
    with stage_locks.lock_for_copy(source, destination, stage_id, attempt, last_step) as stage_lock:
        locked, verify = attempt.under(stage_lock), verify or stage_lock.has_waited
        match here, there:
            case ManifestStorage(), LayoutStorage():
                return _into_layout(
                    here, there, stage_id, stage_lock, verify=verify, foreign_layers=foreign_layers
                )
            case ManifestStorage(), RegistryStorage():
                copy = StageCopy(registries, here, there, locked, last_step, foreign_layers=foreign_layers)
                return copy.execute(stage_id, verify=verify)
            case RegistryStorage(), EngineStorage():
                return into_engine(here, there, stage_id, stage_lock, verify=verify)
            case EngineStorage(), RegistryStorage():
                return from_engine(here, there, stage_id, stage_lock, verify=verify)
    raise errors.UsageError(f"{source} to {destination}: from or to an engine stages go through a repository")


# Into a registry, out of another or a layout.
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
SETTLE_SECONDS = 3.0
"""Time for blobs and members to become visible, before a manifest that is called invalid is put again."""
_CONNECTIONS = 2
"""Connections to either registry that are ready when the requests that need them are."""

Heal = Callable[[tuple[str, ...]], int]
"""Sends again what the destination reports missing; returns the bytes sent."""


class StageCopy:
    """One attempt at copying one stage; stages of one run share what they find out about blobs."""

    def __init__(
        self,
        registries: Registries,
        source: ManifestStorage,
        destination: RegistryStorage,
        attempt: Attempt,
        last_step: LastStep | None = None,
        *,
        foreign_layers: bool = False,
    ) -> None:
        self._registries = registries
        self._last_step = last_step
        self._foreign_layers = foreign_layers
        self._client = registries.client
        self._source = source
        self._storage = destination
        self._destination = destination.address
        self._attempt = attempt
        self._reader = source.reader()
        self._sent_bytes: list[int] = []  # of each image and index

    def execute(self, stage_id: StageId, *, verify: bool = False) -> ItemResult:
        """Copy the stage.

        Raises:
            StageNotFoundError: The source does not have it.
            BrokenStageError: The source cannot deliver all of it.
            ManifestRefusedError: The destination refuses it, even after its blobs were sent again.
        """
        self._client.prepare(self._destination.host, _CONNECTIONS)
        if not self._source.address.is_on_host:
            self._client.prepare(self._source.address.host, _CONNECTIONS)
        target, remembered = self._destination.tagged(str(stage_id)), self._registries.remembered
        same = self._find_same(stage_id) if verify else None
        if same is not None:
            remembered.confirm(self._destination, stage_id, same)
            return ItemResult(skipped=True)
        info = self._copy(self._source.fetch_manifest(stage_id), target, self._attempt)
        if stage_id.is_multiplatform:
            self._storage.withdraw_deletion(stage_id, self._attempt.lease)
        description = StageDescription(stage_id=stage_id, info=info)
        remembered.add(self._destination, stage_id, description, last_step=self._last_step)
        return ItemResult(result=description.as_json(), bytes=sum(self._sent_bytes))

    def copy_manifest(self, manifest: Manifest, tag: str = "") -> int:
        """Copy an image or index with all its content, under its digest or a tag; return the bytes sent."""
        by_digest = Reference.of(self._destination, manifest.digest)
        self._copy(manifest, self._destination.tagged(tag) if tag else by_digest, self._attempt)
        return sum(self._sent_bytes)

    def _find_same(self, stage_id: StageId) -> Digest | None:
        """Return the digest that both sides have; two HEADs, which count against no pull limit."""
        try:
            there = self._storage.find_digest(stage_id)
        except (errors.StageNotFoundError, errors.RegistryUnavailableError):
            return None  # a registry fails on damaged content (distribution 2.8): a push repairs it
        return there if there == self._source.find_digest(stage_id) else None

    def _copy(self, manifest: Manifest, target: Reference, attempt: Attempt, depth: int = 1) -> ImageInfo:
        if manifest.is_index:
            info, heal = self._send_members(manifest, target, attempt, depth)
        else:
            last_step = self._last_step if depth == 1 else None  # other indexes may need a member's blobs
            info, heal = self._send_blobs(manifest, target, attempt, last_step)
        heals, waits = _HEALS, 1
        while True:
            try:
                self._client.put_manifest(target, manifest, lease=attempt.lease)
            except errors.ManifestRefusedError as error:
                if not heals:
                    raise
                heals -= 1
                self._refuse_foreign(manifest, target, error)
                self._sent_bytes.append(heal(error.missing))
            except errors.RegistryError as error:
                if not waits or not _may_pass(error):
                    raise
                waits -= 1
                pause(SETTLE_SECONDS, attempt.lease, target.repository.host, f"before {target} is put again")
            else:
                return info

    def _is_sent(self, blob: Descriptor) -> bool:
        return self._foreign_layers or blob.is_distributable

    def _refuse_foreign(
        self, manifest: Manifest, target: Reference, error: errors.ManifestRefusedError
    ) -> None:
        """Raise if a manifest may be refused for its foreign layers, which no repetition mends."""
        foreign = [layer for layer in manifest.layers if not layer.is_distributable]
        named = [layer for layer in foreign if str(layer.digest) in error.missing]
        if not named and (error.missing or not foreign):
            return
        layer = (named or foreign)[0]
        origin = f" of {host_of(layer.urls[0])}" if layer.urls else ""
        advice = "" if self._foreign_layers else "send such layers with --foreign-layers, or "
        raise errors.RegistryError(
            f"{error}: {target} has the foreign layer {layer.digest}{origin}, which the registry does not "
            f"take: {advice}allow its address there (distribution: validation.manifests.urls.allow)",
            method="PUT",
            repository=str(self._destination),
            status=error.status,
            codes=error.codes,
        ) from error

    def _send_blobs(
        self, image: Manifest, target: Reference, attempt: Attempt, last_step: LastStep | None
    ) -> tuple[ImageInfo, Heal]:
        infos, config = [], image.config
        assert config is not None

        def read_config() -> bytes | None:
            content = self._reader.config(image)
            infos.append(describe_image(self._destination, target.tag or "", image, content))
            return content

        layers = [layer for layer in image.layers if self._is_sent(layer)]
        blob_transfer = BlobTransfer(self._registries, self._source, self._destination, attempt, last_step)
        self._sent_bytes.append(blob_transfer.send(layers, Config(config, read_config)))
        return infos[0], lambda missing: blob_transfer.send_again(_named([*layers, config], missing))

    def _send_members(
        self, index: Manifest, target: Reference, attempt: Attempt, depth: int
    ) -> tuple[ImageInfo, Heal]:
        """Copy the members of an index side by side, and then nested indexes, which may share members."""
        infos: dict[Digest, ImageInfo] = {}
        members = list(self._reader.descriptors(index, depth))
        blobs = [member for member in members if not member.is_manifest]

        def copy_member(member: Descriptor, lease: Lease) -> None:
            manifest = self._reader.member(index, member.digest)
            name = Reference.of(self._destination, member.digest)
            infos[member.digest] = self._copy(manifest, name, attempt.under(lease), depth + 1)

        def heal(missing: tuple[str, ...]) -> int:
            lost, lost_blobs = _lost(index, blobs, missing)
            sent_bytes = blob_transfer.send_again(lost_blobs)
            for digest in lost:
                again = StageCopy(
                    self._registries,
                    self._source,
                    self._storage,
                    attempt,
                    foreign_layers=self._foreign_layers,
                )
                sent_bytes += again.copy_manifest(self._reader.member(index, digest))
            return sent_bytes

        images = [member for member in members if member.is_manifest and member.media_type not in INDEXES]
        self._client.threads.run([partial(copy_member, image) for image in images], attempt.lease)
        for nested in members:
            if nested.media_type in INDEXES:
                copy_member(nested, attempt.lease)
        blob_transfer = BlobTransfer(self._registries, self._source, self._destination, attempt)
        self._sent_bytes.append(blob_transfer.send([blob for blob in blobs if self._is_sent(blob)]))
        described = [infos[member.digest] for member in members if member.digest in infos]
        blob_bytes = sum(blob.size for blob in blobs)
        tag = target.tag or ""
        return describe_index(self._destination, tag, index, described, blob_bytes=blob_bytes), heal


def _may_pass(error: errors.RegistryError) -> bool:
    """Return True if a registry may call a manifest invalid as it does not see yet what that names."""
    return error.status in {400, 404} and "MANIFEST_INVALID" in error.codes


def _lost(
    index: Manifest, blobs: list[Descriptor], missing: tuple[str, ...]
) -> tuple[list[Digest], list[Descriptor]]:
    """Return the members and blobs of an index that the registry reports missing; all if it names none."""
    members = list({member.digest: member for member in index.members if member.is_manifest})
    lost = [digest for digest in members if str(digest) in missing]
    lost_blobs = [blob for blob in blobs if str(blob.digest) in missing]
    return (lost, lost_blobs) if lost or lost_blobs else (members, blobs)


def _named(blobs: list[Descriptor], missing: tuple[str, ...]) -> list[Descriptor]:
    """Return the blobs that the registry reports missing; all if it names none of them."""
    named = [blob for blob in blobs if str(blob.digest) in missing]
    return named or list({blob.digest: blob for blob in blobs}.values())


# Into an OCI layout: blobs first, members before their index, and the tag last, so that nobody sees a part.


def _into_layout(
    source: ManifestStorage,
    destination: LayoutStorage,
    stage_id: StageId,
    lease: Lease,
    *,
    verify: bool,
    foreign_layers: bool,
) -> ItemResult:
    """Write a stage, unless it is there; with `verify`, unless it has the same digest."""
    manifest = source.fetch_manifest(stage_id)
    with suppress(errors.StageNotFoundError):
        if destination.find_digest(stage_id) == manifest.digest or not verify:
            return ItemResult(skipped=True)
    with destination.layout.writing() as directory:
        reader = source.reader()
        written = _write_parts(reader, directory, manifest, lease, foreign_layers=foreign_layers)
        lease.check()
        directory.put_manifest(manifest, str(stage_id))
    info = destination.reader().describe(manifest, str(stage_id))
    return ItemResult(StageDescription(stage_id=stage_id, info=info).as_json(), bytes=written)


def _write_parts(
    reader: StageReader,
    directory: LayoutDirectory,
    manifest: Manifest,
    lease: Lease,
    depth: int = 1,
    *,
    foreign_layers: bool,
) -> int:
    """Write all that an image or index leads to, and return the bytes of blobs."""
    storage = reader.storage
    blobs, written = [*manifest.layers, *([manifest.config] if manifest.config else [])], 0
    for member in reader.members(manifest, depth):
        if member.manifest is None:
            blobs.append(member.descriptor)
        else:
            written += _write_parts(
                reader, directory, member.manifest, lease, depth + 1, foreign_layers=foreign_layers
            )
            directory.put_manifest(member.manifest)
    for blob in blobs:
        if foreign_layers or blob.is_distributable:
            with requiring_blob(storage, blob), closing(storage.open_blob(blob, lease=lease)) as content:
                written += directory.write_blob(blob, content)
    return written
