"""Move a tag away from a digest that stays: to a placeholder, which is then deleted.

The order matters. While a stage's tag leads to the placeholder, a rejection keeps builders from using it as
the stage; so the rejection is written first and removed last. Each step can be repeated. An attempt that ends
early leaves the tag unmoved or gone; after a killed one the next attempt sees how far it came and finishes it
(see `UnfinishedDeletions`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stagefleet import errors
from stagefleet.deletion.checks import confirm_deleted, recheck
from stagefleet.deletion.mode import delete_manifest
from stagefleet.leases import Lease, UndoLease, elapsed_seconds, under_lease
from stagefleet.manifests import Manifest
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.records import image as record_image
from stagefleet.registry.client import RegistryClient

_UNDO_SECONDS = 10.0

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _There:
    """Content that a tag names."""

    digest: Digest
    is_placeholder: bool


class PlaceholderSwap:
    """Swap of one tag for a placeholder."""

    def __init__(self, client: RegistryClient, repository: Repository, tag: str, *, lease: Lease) -> None:
        self._client = client
        self._repository = repository
        self._tag = repository.tagged(tag)
        stage_id = StageId.from_tag(tag)
        self._rejection = None if stage_id is None else repository.tagged(stage_id.rejected_tag)
        self._lease = lease
        self._seen_at = 0.0

    def move_tag(self) -> Digest:
        """Move the tag to a new placeholder, and return its digest; before it reject a stage.

        If the registry refuses a write, the tag stays unmoved, without a rejection.
        """
        placeholder = Manifest.of(record_image.make_placeholder())
        try:
            if self._rejection is not None:
                self._reject(self._rejection)
            self._seen_at = elapsed_seconds()
            self._client.put_manifest(self._tag, placeholder, lease=self._lease)
        except (errors.LeaseLostError, errors.LockLostError):
            raise  # another worker may be at work
        except errors.StagefleetError:
            if not self._has_moved(placeholder.digest):
                raise
        return placeholder.digest

    def delete_placeholder(self, placeholder: Digest, content: Digest | None = None) -> None:
        """Delete the placeholder, and with it the tag; then withdraw the rejection.

        A cancelled item is finished, too: that takes few requests. If the registry refuses, the tag is moved
        back.
        """
        try:
            self._delete(placeholder, self._tag, self._seen_at, self._lease)
            self.withdraw_rejection()
        except errors.ItemCancelledError:
            with self._undoing(f"{self._tag} is half deleted") as lease:
                self._delete(placeholder, self._tag, self._seen_at, lease)
                self._withdraw(lease)
            raise
        except errors.RegistryError:
            if content is not None:
                self._put_back(placeholder, content)
            raise

    def resume(self, *, is_left: bool, is_rejection_dead: bool = False) -> bool:
        """Continue a placeholder swap that another attempt may have left; return True if nothing is left.

        Args:
            is_left: True if another attempt has left it; else one that has not moved the tag yet is not
                touched.
            is_rejection_dead: True if the registry lists the rejection, but lacks it: then it is written
                again, so that it can be withdrawn.
        """
        if is_rejection_dead and self._rejection is not None:
            self._reject(self._rejection)
        there = self._read_tag()
        if there is not None and there.is_placeholder:
            self.delete_placeholder(there.digest)
        elif there is None or is_left:
            self.withdraw_rejection()
        else:
            return False
        return True

    def withdraw_rejection(self) -> bool:
        """Remove the rejection if it belongs to the deletion alone; return True if there was one."""
        return self._withdraw(self._lease)

    def _reject(self, rejection: Reference) -> None:
        try:
            self._client.head_manifest(rejection)
        except errors.NotFoundError:
            record = record_image.make_rejection(self._repository.name, while_deleting=True)
            record_image.put_record(self._client, rejection, record, lease=self._lease)

    def _has_moved(self, placeholder: Digest) -> bool:
        """Check where the tag is after an error; remove the rejection if the tag was not moved."""
        with self._undoing(f"{self._tag} may be rejected, though it is not deleted") as lease:
            there = self._read_tag()
            if there is not None and there.digest == placeholder:
                return True  # only the response was lost
            if there is None or not there.is_placeholder:
                self._withdraw(lease)
        return False

    def _put_back(self, placeholder: Digest, content: Digest) -> None:
        """Move the tag back to its former content, after the registry refused the deletion."""
        with self._undoing(f"{self._tag} is moved aside, and not deleted") as lease:
            there = self._read_tag()
            if there.digest != placeholder if there is not None else not self._is_listed(self._tag):
                return  # it took effect, or another worker came
            before = self._client.fetch_manifest(Reference.of(self._repository, content))
            self._client.put_manifest(self._tag, before, lease=lease)
            self._withdraw(lease)

    def _withdraw(self, lease: Lease) -> bool:
        if self._rejection is None:
            return False
        seen_at = elapsed_seconds()
        record = record_image.read_labels(self._client, self._rejection)
        if record is not None and record.digest is not None and record_image.DELETION_LABEL in record.labels:
            self._delete(record.digest, self._rejection, seen_at, lease)
            return True
        return False

    @contextmanager
    def _undoing(self, what: str) -> Iterator[Lease]:
        """Undo as far as possible; the original error is raised in any case."""
        lease = UndoLease(self._lease, seconds=_UNDO_SECONDS)
        try:
            with under_lease(lease):  # for reads, too: the item's own lease may be the reason for this undo
                yield lease
        except errors.StagefleetError as error:
            _LOGGER.warning("%s: %s", what, error)

    def _read_tag(self) -> _There | None:
        self._seen_at = elapsed_seconds()
        try:
            found = self._client.fetch_manifest(self._tag)
        except errors.NotFoundError:
            return None
        except errors.ContentError:  # unreadable: not our placeholder
            return _There(self._client.head_manifest(self._tag).digest, is_placeholder=False)
        return _There(found.digest, record_image.is_placeholder(found.annotations))

    def _delete(self, digest: Digest, tag: Reference, seen_at: float, lease: Lease) -> None:
        """Delete a unique digest, and so its only tag; the tag was read a moment ago."""
        precheck = recheck(lambda: self._client.head_manifest(tag), seen_at)
        reference = Reference.of(self._repository, digest)
        if delete_manifest(self._client, reference, lease=lease, precheck=precheck):
            confirm_deleted(self._client, tag, digest, lease=lease)
        elif self._is_listed(tag):
            raise errors.RegistryUnavailableError(
                f"{tag} is listed still, and leads nowhere: the registry fails half way through its deletion",
                method="DELETE",
                repository=str(self._repository),
            )

    def _is_listed(self, tag: Reference) -> bool:
        """Return True if the registry lists a tag, even for a missing manifest (distribution #3191)."""
        try:
            return tag.identifier in self._client.tags(self._repository)
        except errors.NotFoundError:
            return False
