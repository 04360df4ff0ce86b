"""Registries as a fleet uses them, and the rejected stages in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stagefleet.errors import ContentError, NotFoundError, RegistryError, RegistryUnavailableError
from stagefleet.leases import Lease
from stagefleet.locks.stage_locks import StageLocks
from stagefleet.names import Digest, Repository, StageId
from stagefleet.records import image as record_image
from stagefleet.registry.client import RegistryClient
from stagefleet.shared_state.base import FLEET_NAMESPACE, RUN_TTL_SECONDS, SharedState
from stagefleet.shared_state.remembered_stages import KnownRejections, RememberedStages
from stagefleet.threads import LeaseBoundThreads

MOST_LOOKED_AT = 256
"""Most rejections read in one listing, besides cached ones; the others count as rejected until then."""
_THREADS = 8


class Rejections:
    """Rejections in a repository, without those that a deletion left behind; thread-safe.

    A deletion that moves a tag aside first rejects the stage, so that builders do not use the tag's new
    content. A killed deletion leaves its rejection behind. So a rejection with the label of a deletion counts
    only while the stage's tag leads to a placeholder. Each is read once where `known` caches them.
    """

    def __init__(self, client: RegistryClient, repository: Repository, known: KnownRejections) -> None:
        self._client = client
        self._repository = repository
        self._known = known

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
            if record is None or record_image.DELETION_LABEL in record.labels
        }
        self._known.remember(storage, [stage_id for stage_id in read if stage_id not in found])
        return found

    def stands(self, stage_id: StageId) -> bool:
        """Read if a stage is rejected now."""
        record = record_image.read_labels(self._client, self._repository.tagged(stage_id.rejected_tag))
        if record is None:
            return False
        return record_image.DELETION_LABEL not in record.labels or self._may_be_moved(stage_id)

    def digests(self, stage_ids: Collection[StageId]) -> set[Digest]:
        """Return the digests of stages, without those that are gone or damaged."""
        with _threads() as pool:
            return {digest for digest in pool.map(self._digest, stage_ids) if digest is not None}

    def _digest(self, stage_id: StageId) -> Digest | None:
        try:
            return self._client.head_manifest(self._repository.tagged(str(stage_id))).digest
        except (NotFoundError, ContentError, RegistryUnavailableError):
            return None

    def _read(self, stage_id: StageId) -> record_image.LabelledImage | RegistryError | None:
        """Read a rejection; return the error if it cannot be read now."""
        try:
            return record_image.read_labels(self._client, self._repository.tagged(stage_id.rejected_tag))
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
        return record_image.is_placeholder(manifest.annotations)


def _threads() -> LeaseBoundThreads:
    return LeaseBoundThreads(_THREADS, "rejections")


def _urgency(stage_id: StageId) -> tuple[bool, int, str]:
    return not stage_id.is_multiplatform, -stage_id.created_ms, stage_id.digest


_MOST_REFERRER_TAGS = 10_000
_REFERRER_TAGS_WAIT_SECONDS = 600
_REJECTIONS_SECONDS = 30
_REJECTIONS_WAIT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Registries:
    """The client of registries, and what the processes of a fleet know and lock of them together."""

    client: RegistryClient
    shared_state: SharedState
    stage_locks: StageLocks
    remembered: RememberedStages

    def tags(self, repository: Repository) -> Iterator[str]:
        """List the tags of a repository; empty if it does not exist: the first push creates it."""
        with suppress(NotFoundError):
            yield from self.client.tags(repository)

    def referrer_tags(self, repository: Repository, run_id: str, lease: Lease) -> frozenset[str] | None:
        """Return the tags that lead to referrers, from one list a run; None if there are too many to keep."""
        from stagefleet.registry.referrers import bounded_tags  # noqa: PLC0415 - few ask for them

        found = self.shared_state.get_or_compute(
            run_id,
            f"referrer tags {repository}",
            lambda: {"tags": bounded_tags(self.tags(repository), _MOST_REFERRER_TAGS)},
            ttl_seconds=RUN_TTL_SECONDS,
            wait_seconds=_REFERRER_TAGS_WAIT_SECONDS,
            lease=lease,
        )["tags"]
        return None if found is None else frozenset(found)

    def rejections(self, repository: Repository) -> Rejections:
        """Return the rejections in a repository, with the fleet's cache of them."""
        return Rejections(self.client, repository, self.remembered.rejections)

    def rejected_lately(
        self, repository: Repository, read: Callable[[], Iterable[StageId]], lease: Lease
    ) -> Any:
        """Return the ids of rejected stages by a list that the fleet reads now and then."""
        return self.shared_state.get_or_compute(
            FLEET_NAMESPACE,
            _key(repository),
            lambda: sorted(map(str, read())),
            ttl_seconds=_REJECTIONS_SECONDS,
            wait_seconds=_REJECTIONS_WAIT_SECONDS,
            lease=lease,
        )

    def forget_rejections(self, repository: Repository) -> None:
        """Drop the list of rejected stages, after a change."""
        self.shared_state.forget_value(FLEET_NAMESPACE, _key(repository))

    def reject(self, repository: Repository, stage_id: StageId, *, project: str, lease: Lease) -> None:
        """Write the record that rejects a stage of a project; a second one changes nothing."""
        reference = repository.tagged(stage_id.rejected_tag)
        record_image.put_record(self.client, reference, record_image.make_rejection(project), lease=lease)
        self.forget_rejections(repository)
        self.remembered.forget(repository, stage_id)


def _key(repository: Repository) -> str:
    return f"rejected {repository}"
