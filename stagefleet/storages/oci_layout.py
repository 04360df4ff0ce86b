"""An OCI image layout as a storage of stages: images under their stage ids, in a directory or a tar file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from stagefleet import errors
from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.leases import NO_LEASE, Lease
from stagefleet.locks.stage_locks import StageLocks
from stagefleet.manifests import Descriptor, Manifest
from stagefleet.names import Digest, LayoutPath, StageId
from stagefleet.oci_layout.layout import LayoutBlob, OciLayout
from stagefleet.stage_lists import StageIdList
from stagefleet.storages.base import ManifestStorage


class LayoutStorage(ManifestStorage):
    """A layout; `UsageError` if it lies outside of all `roots`, None for any place."""

    address: LayoutPath

    def __init__(self, address: LayoutPath, stage_locks: StageLocks, roots: Sequence[Path] | None) -> None:
        self.address = address
        self.layout = OciLayout(_allowed(address, roots))
        self._stage_locks = stage_locks

    def check(self) -> None:
        self.exists()

    def exists(self) -> bool:
        try:
            self.layout.check()
        except errors.RepositoryNotFoundError:
            return False
        return True

    def stage_ids(self) -> StageIdList:
        if not self.exists():
            return StageIdList()
        return StageIdList(filter(None, map(StageId.from_tag, self.layout.tags())))

    def find_digest(self, stage_id: StageId) -> Digest:
        return self._resolve(stage_id).digest

    def fetch_manifest(self, stage_id: StageId) -> Manifest:
        descriptor = self._resolve(stage_id)
        return self.layout.fetch_manifest(descriptor.digest, descriptor.media_type)

    def fetch_member(self, digest: Digest) -> Manifest:
        return self.layout.fetch_manifest(digest)

    def has_blob(self, descriptor: Descriptor) -> bool:
        return self.layout.has_blob(descriptor)

    def open_blob(
        self,
        descriptor: Descriptor,
        *,
        lease: Lease = NO_LEASE,
        on_bytes: Callable[[int], None] | None = None,
    ) -> LayoutBlob:
        return self.layout.open_blob(descriptor, lease=lease, on_bytes=on_bytes)

    def fetch_blob(self, descriptor: Descriptor) -> bytes:
        with self.open_blob(descriptor) as blob:
            return b"".join(iter(blob.read, b""))

    def delete(self, stage_id: StageId, attempt: Attempt) -> ItemResult:
        with self._stage_locks.lock_exclusively(self.address, stage_id, attempt=attempt) as stage_lock:
            stage_lock.check()
            return ItemResult() if self.layout.delete(str(stage_id)) else NOT_THERE

    @property
    def records(self) -> NoReturn:
        raise errors.UsageError(f"{self.address} is an OCI layout, which keeps no records: name a repository")

    def _resolve(self, stage_id: StageId) -> Descriptor:
        try:
            return self.layout.resolve(str(stage_id))
        except (errors.StageNotFoundError, errors.RepositoryNotFoundError) as error:
            raise errors.StageNotFoundError(f"{self.address} has no stage {stage_id}") from error


def _allowed(address: LayoutPath, roots: Sequence[Path] | None) -> Path:
    """Return the path of a layout, symbolic links resolved if it has to lie below a root."""
    path = Path(address.path)
    if roots is None:
        return path
    path = path.resolve()
    if not any(path.is_relative_to(root.resolve()) for root in roots):
        allowed = f"layouts below {', '.join(map(str, roots))} alone" if roots else "no layouts"
        raise errors.UsageError(
            f"{address}: the workers of its host work on {allowed} (worker.layout_roots): leave out "
            "--host to work on one of this host"
        )
    return path
