"""Rejected stages of a repository, without rejections that a deletion left behind.

A deletion that moves a tag aside first rejects the stage, so that builders do not use the tag's new content.
A killed deletion leaves its rejection behind. So a rejection with the label of a deletion counts only while
the stage's tag leads to a placeholder.
"""

from __future__ import annotations

from collections.abc import Collection

from stagefleet.errors import ContentError, NotFoundError, RegistryError, RegistryUnavailableError
from stagefleet.names import Digest, Repository, StageId
from stagefleet.records.image import DELETION_LABEL, is_placeholder
from stagefleet.records.registry import LabelledImage, read_labels
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.members import LeaseBoundThreads
from stagefleet.shared_state.remembered_stages import KnownRejections, MemoryRejections

MOST_LOOKED_AT = 256
"""Most rejections read in one listing, besides cached ones; the others count as rejected until then."""
_THREADS = 8


class Rejections:
    """Rejections in a repository; thread-safe. It reads each once where `known` caches them."""

    def __init__(
        self, client: RegistryClient, repository: Repository, known: KnownRejections | None = None
    ) -> None:
        self._client = client
        self._repository = repository
        self._known = MemoryRejections() if known is None else known

    def standing(self, named: Collection[StageId]) -> set[StageId]:
        """Return the stages that are rejected, among those with a rejection record on the tag list."""
        deletions = list(self.of_deletions(named))
        with _threads() as pool:
            moved = dict(zip(deletions, pool.map(self._may_be_moved, deletions), strict=True))
        return {stage_id for stage_id in named if moved.get(stage_id, True)}

    def of_deletions(self, named: Collection[StageId]) -> dict[StageId, Digest | None]:
        """Return the stages whose rejection belongs to a deletion, with the digest of its record.

        The digest is None if the registry lists the record, but lacks it. All other rejections are cached, so
        each is read once; at first at most `MOST_LOOKED_AT` per call, multi-platform stages and the newest
        first.
        """
        storage = str(self._repository)
        unknown = set(named) - self._known.find(storage, named)
        asked = sorted(unknown, key=_urgency)[:MOST_LOOKED_AT]
        with _threads() as pool:
            seen = dict(zip(asked, pool.map(self._read, asked), strict=True))
        read = {
            stage_id: record for stage_id, record in seen.items() if not isinstance(record, RegistryError)
        }
        found = {
            stage_id: None if record is None else record.digest
            for stage_id, record in read.items()
            if record is None or DELETION_LABEL in record.labels
        }
        self._known.remember(storage, [stage_id for stage_id in read if stage_id not in found])
        return found

    def stands(self, stage_id: StageId) -> bool:
        """Read if a stage is rejected now."""
        record = read_labels(self._client, self._repository.tagged(stage_id.rejected_tag))
        if record is None:
            return False
        return DELETION_LABEL not in record.labels or self._may_be_moved(stage_id)

    def digests(self, stage_ids: Collection[StageId]) -> set[Digest]:
        """Return the digests of stages, without those that are gone or damaged."""
        with _threads() as pool:
            return {digest for digest in pool.map(self._digest, stage_ids) if digest is not None}

    def _digest(self, stage_id: StageId) -> Digest | None:
        try:
            return self._client.head_manifest(self._repository.tagged(str(stage_id))).digest
        except (NotFoundError, ContentError, RegistryUnavailableError):
            return None

    def _read(self, stage_id: StageId) -> LabelledImage | RegistryError | None:
        """Read a rejection; return the error if it cannot be read now."""
        try:
            return read_labels(self._client, self._repository.tagged(stage_id.rejected_tag))
        except RegistryError as error:
            return error

    def _may_be_moved(self, stage_id: StageId) -> bool:
        """Return True if a stage's tag leads to a placeholder, or cannot be read."""
        try:
            manifest = self._client.fetch_manifest(self._repository.tagged(str(stage_id)))
        except (NotFoundError, ContentError):
            return False
        except RegistryError:
            return True
        return is_placeholder(manifest.annotations)


def _threads() -> LeaseBoundThreads:
    return LeaseBoundThreads(_THREADS, "rejections")


def _urgency(stage_id: StageId) -> tuple[bool, int, str]:
    return not stage_id.is_multiplatform, -stage_id.created_ms, stage_id.digest
