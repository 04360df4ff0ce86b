"""Upload of one image's blobs: each is normally checked and sent once in the whole fleet."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock

from stagefleet.attempt import Attempt
from stagefleet.backoff import Backoff
from stagefleet.errors import ForbiddenError, RegistryError, RegistryUnreachableError, StagefleetError
from stagefleet.fleet_registries import Registries
from stagefleet.leases import SLICE_SECONDS, Lease, current_lease, note_bytes
from stagefleet.manifests import Descriptor
from stagefleet.names import Digest, Repository
from stagefleet.redis_client import LastStep, put_off
from stagefleet.registry.blob_source import BlobSource
from stagefleet.registry.upload_sessions import WHOLE_CONFIG_BYTES, SessionStore, Upload
from stagefleet.shared_state.base import FLEET_NAMESPACE, UploadDecision
from stagefleet.storages.base import ManifestStorage, requiring_blob
from stagefleet.threads import Call

_OWNER_BYTES = 8
_LONGEST_WAIT_SECONDS = 300.0
_RENEWAL_SECONDS = 8.0
_TELL_SECONDS = 0.25  # others may wait for sent blobs; a report for several is cheaper
_BACKOFF = Backoff(0.05, 1.0)
_WHOLE_SECONDS = 24 * 3600.0
_LEARN_SECONDS = 2.0
_LARGE_BYTES = 8 * 1024 * 1024  # smaller ones are through before anybody looks


@dataclass(frozen=True, slots=True)
class Config:
    """An image's configuration; `read` returns its content, None to send it as any other blob."""

    descriptor: Descriptor
    read: Callable[[], bytes | None]


class _UnreadConfigError(Exception):
    """The configuration is too large to be read into memory."""


class BlobTransfer:
    """Blobs of one image, sent side by side in one attempt at its stage.

    It first sends its own share, then waits for blobs that others send, so that a waiting worker delays
    nobody. The wait is bounded; after it the blob is sent anyway.
    """

    def __init__(
        self,
        registries: Registries,
        source: ManifestStorage,
        destination: Repository,
        attempt: Attempt,
        last_step: LastStep | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
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
        self._last_step = last_step
        self._sleep = sleep
        self._owner = secrets.token_bytes(_OWNER_BYTES)
        self._contents: dict[Digest, bytes] = {}
        self._may_send = Event()
        self._lock = Lock()
        self._leased: list[Digest] = []
        self._sent: list[Digest] = []
        self._own: set[Digest] = set()
        self._sent_bytes = 0
        self._renewed_at = self._told_at = 0.0

    def send(self, layers: Sequence[Descriptor], config: Config | None = None) -> int:
        """Ensure that the destination has these blobs; return the bytes sent.

        `BrokenStageError` says that the source lacks one.

        The configuration is read while the destination is asked for the layers, and before any content goes
        there: an unreadable stage must not fail after a complete copy.
        """
        blobs = [*layers, config.descriptor] if config else layers
        self._own = {blob.digest for blob in blobs[-2:]}
        ours, others = self._ask(list({blob.digest: blob for blob in blobs}.values()))
        return self._send(ours, self._mount_from, config) + self._await(others)

    def send_again(self, blobs: Sequence[Descriptor]) -> int:
        """Send blobs that the destination reported as present but lacks, without asking it again."""
        if not blobs:
            return 0
        lost = [blob.digest for blob in blobs]
        with self._lock:
            self._sent = [digest for digest in self._sent if digest not in lost]
        self._shared_state.forget_blobs(self._run, self._destination, lost)
        return self._send(blobs, None)

    def _ask(self, blobs: list[Descriptor]) -> tuple[list[Descriptor], list[Descriptor]]:
        """Split blobs into those to send here and those that others are sending."""
        digests = [blob.digest for blob in blobs]
        decisions = self._shared_state.request_uploads(self._run, self._destination, digests, self._owner)
        decided = list(zip(blobs, decisions, strict=True))
        return (
            [blob for blob, decision in decided if decision is UploadDecision.SEND],
            [blob for blob, decision in decided if decision is UploadDecision.WAIT],
        )

    def _send(
        self, blobs: Sequence[Descriptor], mount_from: Repository | None, config: Config | None = None
    ) -> int:
        """Send these blobs, and read the configuration; return the bytes sent."""
        self._sent_bytes = 0
        self._leased = [blob.digest for blob in blobs]
        self._renewed_at = self._told_at = time.monotonic()
        calls: list[Call] = []
        if config is None:
            self._may_send.set()
        else:
            calls.append(lambda _: self._read(config))
        for blob in blobs:
            is_config = config is not None and blob.digest == config.descriptor.digest
            send = partial(self._send_config if is_config else self._send_layer, blob, mount_from)
            calls.append(partial(self._send_one, blob, send))
        try:
            self._client.threads.run(calls, self._lease)
            self._tell_or_put_off()
        except BaseException:
            self._hand_over()
            raise
        return self._sent_bytes

    def _read(self, config: Config) -> None:
        content = config.read()
        if content is not None:
            self._contents[config.descriptor.digest] = content
        self._may_send.set()

    def _wait_for_config(self, lease: Lease) -> None:
        """Wait until the configuration was read; an error of that ends the lease."""
        while not self._may_send.wait(SLICE_SECONDS):
            lease.check()

    def _read_config(self, blob: Descriptor, lease: Lease) -> bytes | None:
        """Return the configuration once it was read; None if it is too large for that."""
        self._wait_for_config(lease)
        return self._contents.get(blob.digest)

    def _send_one(self, blob: Descriptor, send: Callable[[Lease], int], lease: Lease) -> None:
        lease.check()
        self._renew()
        sent_bytes = send(lease)
        with self._lock:
            self._sent_bytes += sent_bytes
            self._sent.append(blob.digest)
            is_time = time.monotonic() - self._told_at >= _TELL_SECONDS
        if is_time:
            self._tell()

    def _send_config(self, blob: Descriptor, mount_from: Repository | None, lease: Lease) -> int:
        """Send the configuration: with one POST if it is small, else asked for while it is still read."""
        posted: list[Upload | None] = []
        if mount_from == self._destination and blob.size <= WHOLE_CONFIG_BYTES:
            posted = self._post_config(blob, lease)
        upload = (
            posted[0]
            if posted
            else self._client.begin_upload(self._destination, blob.digest, mount_from=mount_from, lease=lease)
        )
        if upload is None:
            return blob.size if posted else 0
        try:
            content = self._read_config(blob, lease)
        except StagefleetError:
            self._client.cancel_upload(upload, lease=lease)
            raise
        if content is None:  # too large to be read, which no image's is
            self._client.cancel_upload(upload, lease=lease)
            return self._send_layer(blob, None, lease)
        self._client.upload_bytes(upload, content, lease=lease)
        return len(content)

    def _post_config(self, blob: Descriptor, lease: Lease) -> list[Upload | None]:
        """Send a configuration with one POST, unless the registry is known not to take it so.

        The fleet learns that once a registry, and for some time, from a configuration that has to be sent
        anyway (OCI distribution specification 1.1, "Single POST"). Return what `RegistryClient.post_blob` did
        in a list, if it was posted; else an empty one.
        """
        host, posted = self._destination.host, list[Upload | None]()

        def post() -> bool:
            """Return True if the registry takes it, False if it begins an upload or refuses for good."""
            content = self._read_config(blob, lease)
            if content is None:
                raise _UnreadConfigError
            try:
                posted.append(
                    self._client.post_blob(self._destination, blob.digest, lambda: content, lease=lease)
                )
            except RegistryError as error:
                if error.retryable or isinstance(error, ForbiddenError):  # it is of this repository
                    raise
                return False
            return posted == [None]

        key = f"takes whole blobs {host}"
        try:
            takes_whole = self._shared_state.get_or_compute(
                FLEET_NAMESPACE,
                key,
                post,
                ttl_seconds=_WHOLE_SECONDS,
                wait_seconds=_LEARN_SECONDS,
                lease=lease,
            )
            if takes_whole and not posted and not post():  # another worker has learnt it
                takes_whole = False
                self._shared_state.forget_value(FLEET_NAMESPACE, key)
        except (_UnreadConfigError, RegistryError, RegistryUnreachableError):
            return []  # beginning an upload has its retries
        if takes_whole:
            self._client.upload_facts.note_whole_taken(host)
        return posted

    def _send_layer(self, blob: Descriptor, mount_from: Repository | None, lease: Lease) -> int:
        with requiring_blob(self._source, blob):
            return self._client.upload_blob(
                self._destination,
                blob,
                partial(self._open, blob),
                mount_from=mount_from,
                lease=lease,
                await_turn=partial(self._wait_for_config, lease),
                sessions=SessionStore(partial(self._take, blob), partial(self._keep, blob)),
            )

    def _take(self, blob: Descriptor) -> str | None:
        with suppress(StagefleetError):  # without one it is begun anew
            return self._shared_state.take_session(self._destination, blob.digest)
        return None

    def _keep(self, blob: Descriptor, address: str) -> None:
        with suppress(StagefleetError):  # then nobody goes on with it
            self._shared_state.keep_session(self._destination, blob.digest, address)

    def _open(self, blob: Descriptor) -> BlobSource:
        """Open a blob for one try; a large one is reported while it is read."""
        is_large = blob.size >= _LARGE_BYTES
        if is_large:
            note_bytes(self._lease, 0, blob.size)

        def count(size: int) -> None:
            if is_large:
                note_bytes(self._lease, size)
            self._renew()

        return self._source.open_blob(blob, lease=current_lease(), on_bytes=count)

    def _tell_or_put_off(self) -> None:
        """Report sent blobs, at once if others may wait for them: a stage's last layer is mostly its own."""
        with self._lock:
            is_own = self._own.issuperset(self._sent)
        marking = self._shared_state.marking_uploaded(
            self._run, self._destination, lambda: tuple(self._sent), self._tell_quietly
        )
        if not is_own or not put_off(self._last_step, marking):
            self._tell()

    def _tell_quietly(self) -> None:
        with suppress(StagefleetError):  # then others look for them again
            self._tell()

    def _tell(self) -> None:
        """Report sent blobs to the shared state."""
        with self._lock:
            sent, self._told_at = list(self._sent), time.monotonic()
        self._shared_state.mark_uploaded(self._run, self._destination, sent)
        with self._lock:
            self._sent = [digest for digest in self._sent if digest not in sent]
            self._leased = [digest for digest in self._leased if digest not in sent]

    def _renew(self) -> None:
        """Extend the sender's leases now and then, while bytes flow."""
        with self._lock:
            if time.monotonic() - self._renewed_at < _RENEWAL_SECONDS:
                return
            self._renewed_at = time.monotonic()
            leased = self._leased
        self._shared_state.renew_uploads(self._run, self._destination, leased, self._owner)

    def _hand_over(self) -> None:
        """Let others send the blobs that failed here, at once; without Redis the leases expire."""
        with suppress(StagefleetError):
            self._tell()
            self._shared_state.release_uploads(self._run, self._destination, self._leased, self._owner)

    def _await(self, blobs: list[Descriptor]) -> int:
        """Wait for blobs that others send, and send those that they give up; return the bytes sent."""
        sent_bytes = 0
        deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
        looks = 0
        while blobs:
            self._lease.check()
            if time.monotonic() >= deadline:
                return sent_bytes + self._send(blobs, self._mount_from)
            looks += 1
            self._sleep(_BACKOFF.pause_seconds(looks))
            ours, blobs = self._ask(blobs)
            sent_bytes += self._send(ours, self._mount_from)
        return sent_bytes
