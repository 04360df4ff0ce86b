"""Upload of one stage's blobs: each is normally checked and sent once in the whole fleet."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stagefleet.attempt import Attempt
from stagefleet.backoff import jittered
from stagefleet.errors import BrokenStageError, NotFoundError, StagefleetError
from stagefleet.manifests import Descriptor
from stagefleet.names import Repository
from stagefleet.registries import Registries
from stagefleet.shared_state.base import UploadDecision
from stagefleet.storages.storage import ManifestStorage

_OWNER_BYTES = 8
_LONGEST_WAIT_SECONDS = 300.0
_RENEWAL_SECONDS = 8.0
_TELL_SECONDS = 0.25  # others may wait for sent blobs; a report for several is cheaper
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob to be sent: its bytes if they are in memory, None to read them from the source."""

    descriptor: Descriptor
    content: bytes | None = None


class BlobTransfer:
    """Blobs of one attempt at one stage.

    It first sends its own share, then waits for blobs that other workers send, so that a waiting worker
    delays nobody. The wait is bounded; after it the blob is sent anyway.
    """

    def __init__(
        self,
        registries: Registries,
        source: ManifestStorage,
        destination: Repository,
        attempt: Attempt,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.sent_bytes = 0
        self._client = registries.client
        self._shared_state = registries.shared_state
        self._source = source
        self._destination = destination
        # Mounting from the destination itself asks whether it has the blob, in the request that starts an
        # upload if it has not (OCI distribution specification 1.1, "Mounting a blob").
        self._mount_from = destination
        if not source.address.is_on_host and source.address.host == destination.host:
            self._mount_from = source.address
        self._run = attempt.run_id
        self._lease = attempt.lease
        self._sleep = sleep
        self._owner = secrets.token_bytes(_OWNER_BYTES)
        self._leased: list[Blob] = []
        self._renewed_at = 0.0

    def send(self, blobs: Sequence[Blob]) -> None:
        """Ensure that the destination has these blobs; `BrokenStageError` if the source lacks one."""
        distinct = list({blob.descriptor.digest: blob for blob in blobs}.values())
        ours, others = self._ask(distinct)
        self._send(ours, self._mount_from)
        self._await(others)

    def send_again(self, blobs: Sequence[Blob]) -> None:
        """Send blobs that the destination reported as present but lacks, without asking it again."""
        self._shared_state.forget_blobs(
            self._run, self._destination, [blob.descriptor.digest for blob in blobs]
        )
        self._send(list(blobs), None)

    def _ask(self, blobs: list[Blob]) -> tuple[list[Blob], list[Blob]]:
        """Split blobs into those to send here and those that others are sending."""
        digests = [blob.descriptor.digest for blob in blobs]
        decisions = self._shared_state.request_uploads(self._run, self._destination, digests, self._owner)
        decided = list(zip(blobs, decisions, strict=True))
        return (
            [blob for blob, decision in decided if decision is UploadDecision.SEND],
            [blob for blob, decision in decided if decision is UploadDecision.WAIT],
        )

    def _send(self, blobs: list[Blob], mount_from: Repository | None) -> None:
        self._leased = list(blobs)
        self._renewed_at = told_at = time.monotonic()
        sent: list[Blob] = []
        try:
            for blob in blobs:
                self._lease.check()
                self._renew()
                self.sent_bytes += self._send_one(blob, mount_from)
                sent.append(blob)
                if time.monotonic() - told_at >= _TELL_SECONDS:
                    self._tell(sent)
                    told_at = time.monotonic()
            self._tell(sent)
        except BaseException:
            self._hand_over(sent)
            raise

    def _send_one(self, blob: Blob, mount_from: Repository | None) -> int:
        descriptor = blob.descriptor
        if blob.content is not None:
            upload = self._client.begin_upload(self._destination, descriptor.digest, mount_from=mount_from)
            if upload is None:
                return 0
            self._client.upload_bytes(upload, blob.content)
            return len(blob.content)
        try:
            return self._client.upload_blob(
                self._destination,
                descriptor,
                lambda: self._source.open_blob(descriptor, lease=self._lease, on_bytes=self._renew),
                mount_from=mount_from,
                lease=self._lease,
            )
        except NotFoundError as error:
            if error.method != "GET" or error.repository != str(self._source.address):
                raise
            raise BrokenStageError(
                f"{self._source.address} lacks the blob {descriptor.digest} of the stage; build it again"
            ) from error

    def _tell(self, sent: list[Blob]) -> None:
        """Report sent blobs to the shared state, and clear the list."""
        digests = [blob.descriptor.digest for blob in sent]
        self._shared_state.mark_uploaded(self._run, self._destination, digests)
        self._leased = [blob for blob in self._leased if blob.descriptor.digest not in digests]
        sent.clear()

    def _renew(self, _count: int = 0) -> None:
        """Extend the sender's leases now and then, while bytes flow."""
        if time.monotonic() - self._renewed_at >= _RENEWAL_SECONDS:
            digests = [blob.descriptor.digest for blob in self._leased]
            self._shared_state.renew_uploads(self._run, self._destination, digests, self._owner)
            self._renewed_at = time.monotonic()

    def _hand_over(self, sent: list[Blob]) -> None:
        """Let others send the blobs that failed here, at once; without Redis the leases expire."""
        try:
            self._tell(sent)
            digests = [blob.descriptor.digest for blob in self._leased]
            self._shared_state.release_uploads(self._run, self._destination, digests, self._owner)
        except StagefleetError:
            return

    def _await(self, blobs: list[Blob]) -> None:
        deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        while blobs:
            self._lease.check()
            if time.monotonic() >= deadline:
                self._send(blobs, self._mount_from)
                return
            self._sleep(jittered(pause))
            pause = min(1.5 * pause, _LONGEST_PAUSE_SECONDS)
            ours, blobs = self._ask(blobs)
            self._send(ours, self._mount_from)
