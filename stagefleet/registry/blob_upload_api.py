"""Blobs: upload them ("Pushing blobs" in the specification).

A blob goes in one of these ways, and `UploadFacts` says which:

1. It is there: a POST that mounts it, from another repository or from its own, finds that out; a HEAD does
   where the registry refuses mounts.
2. With the one POST that would ask for it, where it is small, expected to be absent, and taken so.
3. Whole, with the one PUT that ends the upload that the POST began.
4. In chunks (PATCH) and an empty PUT, where a gateway limits bodies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from urllib.parse import urlencode

import requests

from stagefleet import errors
from stagefleet.leases import NO_LEASE, Lease
from stagefleet.manifests import Descriptor
from stagefleet.names import Digest, Repository
from stagefleet.registry.api import scopes_of
from stagefleet.registry.blob_source import BlobSource, BlobStream, SourceError, UploadSource
from stagefleet.registry.error_mapping import is_refusal
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.origins import api_path
from stagefleet.registry.http.responses import check_stored
from stagefleet.registry.http.transport import Body
from stagefleet.registry.http.waits import Retries
from stagefleet.registry.upload_sessions import (
    BLOB_HEADERS,
    RESUMED_BYTES,
    STORED,
    BodyLimitError,
    CurrentUpload,
    SessionStore,
    Upload,
    UploadSessionApi,
)


class BlobUploadApi(UploadSessionApi):
    """Blob calls of the API that write."""

    def upload_blob(
        self,
        destination: Repository,
        descriptor: Descriptor,
        open_source: Callable[[], BlobSource],
        *,
        mount_from: Repository | None,
        lease: Lease = NO_LEASE,
        await_turn: Callable[[], None] = lambda: None,
        sessions: SessionStore | None = None,
    ) -> int:
        """Send a blob to a repository, unless it is there, and return the bytes sent.

        Without `mount_from` the blob is sent without asking; else as in `begin_upload`. `open_source` opens
        the blob, again for each try; what its source raises is raised here. `await_turn` is called before
        content is sent. A large blob goes on in the session in `sessions`, if there is one.
        """

        def open_at(offset: int, *, is_early: bool) -> BlobSource:
            if is_early or descriptor.size - offset > CHUNK_BYTES:  # read ahead of who sends it
                return BlobStream(open_source, self.threads, lease, offset)
            opened = open_source()
            if offset:
                opened.skip(offset)
            return opened

        sessions = sessions if descriptor.size >= RESUMED_BYTES else None
        source = UploadSource(open_at, await_turn)
        try:
            upload = self._find_kept(destination, descriptor, sessions, lease)
            is_absent = upload is not None
            if upload is None:
                upload, is_absent = self._begin(source, destination, descriptor, mount_from, lease)
            if upload is not None:
                send_once = partial(self._send_source, source=source, lease=lease)
                self._send(replace(upload, size=descriptor.size), send_once, lease, sessions)
        finally:
            source.close()
        return descriptor.size - (0 if upload is None else upload.offset) if is_absent else 0

    def _find_kept(
        self, destination: Repository, blob: Descriptor, sessions: SessionStore | None, lease: Lease
    ) -> Upload | None:
        """Return the upload that another attempt has left, if it can be resumed; else cancel it."""
        address = None if sessions is None else sessions.take()
        kept = address and self._kept_upload(destination, blob, address)
        if not kept:
            return None
        resumed = self._resumed(kept, lease)
        if resumed is None:
            self.cancel_upload(kept, lease=lease)
        return resumed

    def _begin(
        self,
        source: UploadSource,
        destination: Repository,
        blob: Descriptor,
        mount_from: Repository | None,
        lease: Lease,
    ) -> tuple[Upload | None, bool]:
        """Ask for a blob, and begin its upload if it is absent; also return whether it was.

        If the repository has lacked the last blobs, the source is opened while it is asked for this one; or
        a registry that takes a small one with one POST gets it without being asked.
        """
        facts = self.upload_facts
        if mount_from is None or facts.expects_absence(mount_from, destination):
            source.open_early()
        if mount_from == destination and facts.takes_unasked(destination, blob):
            upload, is_absent = self._post_whole(source, destination, blob, lease), True
        else:
            upload = self.begin_upload(destination, blob.digest, mount_from=mount_from, lease=lease)
            is_absent = upload is not None
        if mount_from is not None:
            facts.note_presence(mount_from, destination, is_absent=is_absent)
        return upload, is_absent

    def upload_bytes(self, upload: Upload, content: bytes, *, lease: Lease = NO_LEASE) -> None:
        """Send the content of a small blob; begin a new upload if that fails."""
        self._send(upload, lambda current: self._send_once(current, lambda: content, lease), lease)

    # Ask for a blob, and begin its upload.

    def begin_upload(
        self,
        repository: Repository,
        digest: Digest,
        *,
        mount_from: Repository | None,
        lease: Lease = NO_LEASE,
    ) -> Upload | None:
        """Begin the upload of a blob, or mount it; None if the repository has it now.

        `mount_from` is a repository of the same registry that may have the blob ("Mounting a blob from
        another repository"); pass the destination itself to ask in the same request if it is there.
        """
        if mount_from is None:
            return self._open_upload(repository, digest, lease)
        source = self.upload_facts.mount_source(mount_from, repository)
        if source is None:
            is_there = self.has_blob(repository, digest, lease=lease)
            return None if is_there else self._open_upload(repository, digest, lease)
        try:
            return self._open_upload(repository, digest, lease, mount_from=source)
        except errors.CredentialsError:
            if source == repository:
                raise
        except errors.RegistryError as error:
            if not is_refusal(error):
                raise
        # No pull right on the other repository, or no mounts at all: the same without a mount, and if that
        # is taken, so from now on.
        upload = self._open_upload(repository, digest, lease)
        self.upload_facts.note_refused_mount(source, repository)
        return upload

    def _open_upload(
        self, repository: Repository, digest: Digest, lease: Lease, *, mount_from: Repository | None = None
    ) -> Upload | None:
        query, scopes = "", scopes_of(repository, "pull,push")
        if mount_from is not None:
            query = "?" + urlencode({"mount": str(digest), "from": api_path(mount_from)}, safe=":/")
            if mount_from != repository:
                scopes = tuple(sorted({*scopes, *scopes_of(mount_from, "pull")}))
        request = self._request(
            "POST",
            repository,
            self._url(repository, "blobs/uploads/") + query,
            f"blob {digest} of {repository}",
            scopes=scopes,
            expected=STORED,
            lease=lease,
        )
        response, _ = self._http_client.read(request)
        return self._upload_of(response, repository, digest)

    def _upload_of(
        self, response: requests.Response, repository: Repository, digest: Digest
    ) -> Upload | None:
        """Return the upload that a POST has begun; None if the repository has the blob now."""
        if response.status_code == requests.codes.created:
            check_stored(response.headers, f"blob {digest} of {repository}", digest)
            return None
        self.upload_facts.note_headers(repository.host, response.headers)
        return Upload(repository, digest, self._location(response, repository))

    # Send a blob with one POST.

    def post_blob(
        self,
        repository: Repository,
        digest: Digest,
        body: Callable[[], bytes | Body],
        *,
        lease: Lease = NO_LEASE,
        answer_seconds: float | None = None,
    ) -> Upload | None:
        """Send a whole blob with one request ("Single POST"); return None if the registry took it.

        Others begin an upload and ignore the content, as distribution 2.8 and 3 do; return that upload.
        """
        url = f"{self._url(repository, 'blobs/uploads/')}?{urlencode({'digest': str(digest)}, safe=':')}"
        asked = Upload(repository, digest, url)
        request = self._upload_request(
            "POST", asked, lease, headers=BLOB_HEADERS, body=body, answer_seconds=answer_seconds
        )
        response, _ = self._http_client.read(request)
        upload = self._upload_of(response, repository, digest)
        return upload and replace(upload, came_with_content=True)

    def _post_whole(
        self, source: UploadSource, destination: Repository, blob: Descriptor, lease: Lease
    ) -> Upload | None:
        """Send a blob with one POST; if the registry does not take it, return an upload."""
        answer_seconds = self._settings.http.upload_timeout_seconds
        try:
            with source.one_try():
                upload = self.post_blob(
                    destination, blob.digest, source.open, lease=lease, answer_seconds=answer_seconds
                )
        except SourceError as error:
            raise error.cause from None
        except (errors.RegistryError, errors.RegistryUnreachableError) as error:
            upload = self.begin_upload(destination, blob.digest, mount_from=None, lease=lease)
            if not error.retryable:
                self.upload_facts.note_whole_refused(destination.host, blob.size)
            return upload
        if upload is not None:
            self.upload_facts.note_whole_ignored(destination.host)
        return upload

    # Send a blob in an upload: whole, or in chunks.

    def _send(
        self,
        upload: Upload,
        send_once: Callable[[CurrentUpload], None],
        lease: Lease,
        sessions: SessionStore | None = None,
    ) -> None:
        """Send a blob in an upload; after a failure go on in it, or in a new one.

        The session of a large blob is kept in `sessions` as long as somebody may go on in it; one that nobody
        will finish is cancelled.
        """

        def keep(moved: Upload) -> None:
            if sessions is not None:
                sessions.keep(self._own_address(moved) or "")

        http, current = self._settings.http, CurrentUpload(upload, keep)
        retries = Retries(http, upload.repository.host, self._http_client.longest_wait_seconds)
        following: Upload | None = upload
        try:
            while following is not None:
                current.move(following)
                following = self._send_or_follow(
                    current, send_once, retries, lease, is_resumable=sessions is not None
                )
        except BaseException as error:
            if sessions is None:
                self.cancel_upload(current.upload, lease=lease)
            elif not _may_be_resumed(error):
                sessions.keep("")
                self.cancel_upload(current.upload, lease=lease)
            raise
        if sessions is not None:
            sessions.keep("")

    def _send_or_follow(
        self,
        current: CurrentUpload,
        send_once: Callable[[CurrentUpload], None],
        retries: Retries,
        lease: Lease,
        *,
        is_resumable: bool,
    ) -> Upload | None:
        """Send a blob once; return None if the repository has it now, else the upload in which it goes on."""
        session = current.upload
        try:
            send_once(current)
        except SourceError as error:
            raise error.cause from None  # it had its retries
        except BodyLimitError as error:
            if not self.upload_facts.lower_body_limit(session.repository.host, error.tried):
                raise error.cause from None
            failure = None
        except (errors.RegistryUnreachableError, errors.RegistryError) as error:
            # Content of a POST was kept, a session was dropped, or it was resumed at another byte.
            is_stale = session.came_with_content or session.offset or isinstance(error, errors.NotFoundError)
            limit = self._settings.http.retries if error.retryable or is_stale else 0
            wait, failure = retries.next_pause_seconds(error, limit), error
        else:
            return None
        if failure is not None:
            self._http_client.pause(wait, lease, failure.cause)
        return self._following(current.upload, failure, lease, is_resumable=is_resumable)

    def _following(
        self, failed: Upload, error: errors.StagefleetError | None, lease: Lease, *, is_resumable: bool
    ) -> Upload | None:
        """Return the upload in which a blob goes on after a failure; None if the repository has it by now.

        What is there is not sent again: its answer may have come too late (moby #53700). Without an error the
        body was too large, and nothing of it has arrived.
        """
        repository = failed.repository
        if is_resumable and error is not None:
            if self.has_blob(repository, failed.digest, lease=lease):
                return None
            resumed = self._resumed(failed, lease) if error.retryable or _is_misplaced(error) else None
            if resumed is not None:
                return resumed
        mount_from = None if error is None else repository
        fresh = self.begin_upload(repository, failed.digest, mount_from=mount_from, lease=lease)
        if fresh is None:
            return None
        if not isinstance(error, errors.NotFoundError):
            self.cancel_upload(failed, lease=lease)
        return replace(fresh, size=failed.size)

    def _send_source(self, current: CurrentUpload, source: UploadSource, lease: Lease) -> None:
        """Send what is left of a blob once; open its source again if the upload needs another login."""
        upload = current.upload
        answer_seconds = self._settings.http.upload_timeout_seconds
        if 0 < upload.size == upload.offset:
            return self._put_blob(upload, lambda: b"", lease, answer_seconds)
        with source.one_try(upload.offset):
            return self._send_once(current, source.open, lease, answer_seconds=answer_seconds)


def _is_misplaced(error: errors.StagefleetError) -> bool:
    """Return True if a registry says that content does not begin where the session ends."""
    return isinstance(error, errors.RegistryError) and error.status == requests.codes.range_not_satisfiable


def _may_be_resumed(error: BaseException) -> bool:
    """Return True if another attempt may follow one that ended with this error."""
    if isinstance(error, errors.LeaseLostError | errors.ItemCancelledError):
        return True
    return not isinstance(error, errors.StagefleetError) or error.retryable
