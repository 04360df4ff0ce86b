"""Blobs: upload them ("Pushing blobs" in the specification).

A blob goes in one of these ways, and `UploadFacts` says which:

1. It is there: a POST that mounts it, from another repository or from its own, finds that out; a HEAD does
   where the registry refuses mounts.
2. With the one POST that would ask for it, where it is small, expected to be absent, and taken so.
3. Whole, with the one PUT that ends the upload that the POST began.
4. In chunks (PATCH) and an empty PUT, where a gateway limits bodies.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import requests

from stagefleet import errors
from stagefleet.leases import NO_LEASE, Lease
from stagefleet.manifests import Descriptor
from stagefleet.names import Digest, Repository
from stagefleet.registry.api import scopes_of
from stagefleet.registry.blob_api import BlobApi
from stagefleet.registry.blob_reader import BlobSource
from stagefleet.registry.blob_stream import BlobStream, SourceError, UploadSource
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.hosts import api_path
from stagefleet.registry.http.responses import check_stored
from stagefleet.registry.http.transport import Body
from stagefleet.registry.http.waits import Retries
from stagefleet.registry.upload_facts import UploadFacts
from stagefleet.settings import Settings

_BLOB_HEADERS = MappingProxyType({"Content-Type": "application/octet-stream"})


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session that a registry has opened; the content of the blob goes to `url`.

    If it `came_with_content`, that should have been ignored, and may not have been.
    """

    repository: Repository
    digest: Digest
    url: str = field(repr=False)  # it may hold a signature
    came_with_content: bool = False


class BlobUploadApi(BlobApi):
    """Blob calls of the API that write.

    Attributes:
        upload_facts: What uploads have taught this process about registries.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(settings, **options)
        self.upload_facts = UploadFacts(settings)

    def upload_blob(
        self,
        destination: Repository,
        descriptor: Descriptor,
        open_source: Callable[[], BlobSource],
        *,
        mount_from: Repository | None,
        lease: Lease = NO_LEASE,
        await_turn: Callable[[], None] = lambda: None,
    ) -> int:
        """Send a blob to a repository, unless it is there, and return the bytes sent.

        Without `mount_from` the blob is sent without asking; else as in `begin_upload`. `open_source` opens
        the blob, again for each try; what its source raises is raised here. `await_turn` is called before
        content is sent.

        If the repository has lacked the last blobs, the source is opened while it is asked for this one; or
        a registry that takes a small one with one POST gets it without being asked.
        """
        facts, source = self.upload_facts, self._source_of(descriptor, open_source, await_turn, lease)
        is_unasked = mount_from == destination and facts.takes_unasked(destination, descriptor)
        try:
            if mount_from is None or facts.expects_absence(mount_from, destination):
                source.open_early(lambda: BlobStream(open_source, self.threads, lease))
            if is_unasked:
                upload = self._post_whole(source, destination, descriptor, lease)
            else:
                upload = self.begin_upload(destination, descriptor.digest, mount_from=mount_from, lease=lease)
            is_absent = is_unasked or upload is not None
            if mount_from is not None:
                facts.note_presence(mount_from, destination, is_absent=is_absent)
            if upload is not None:
                self._send(upload, lambda session: self._send_source(session, source, lease), lease)
        finally:
            source.close()
        return descriptor.size if is_absent else 0

    def upload_bytes(self, upload: Upload, content: bytes, *, lease: Lease = NO_LEASE) -> None:
        """Send the content of a small blob; begin a new upload if that fails."""
        self._send(upload, lambda session: self._send_once(session, lambda: content, lease), lease)

    def _source_of(
        self,
        blob: Descriptor,
        open_source: Callable[[], BlobSource],
        await_turn: Callable[[], None],
        lease: Lease,
    ) -> UploadSource:
        """Return the source of an upload; a blob of more than a chunk is read ahead of its sender."""
        if blob.size <= CHUNK_BYTES:
            return UploadSource(open_source, await_turn)
        return UploadSource(partial(BlobStream, open_source, self.threads, lease), await_turn)

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
        except (errors.CredentialsError, errors.RegistryError) as error:
            is_login = isinstance(error, errors.CredentialsError)
            if (source == repository and is_login) or not _is_refusal(error):
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
            expected=frozenset({201, 202}),
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

    def _location(self, response: requests.Response, repository: Repository) -> str:
        location = response.headers.get("Location")
        if not location:
            raise errors.RegistryError(
                f"{repository.host} began an upload without saying where: no Location",
                method="POST",
                repository=str(repository),
                status=response.status_code,
            )
        return self._same_registry(repository, response.url, location)

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
        subject = f"blob {digest} of {repository}"
        url = f"{self._url(repository, 'blobs/uploads/')}?{urlencode({'digest': str(digest)}, safe=':')}"
        request = self._request(
            "POST",
            repository,
            url,
            subject,
            scopes=scopes_of(repository, "pull,push"),
            expected=frozenset({201, 202}),
            headers=_BLOB_HEADERS,
            body=body,
            retries=False,
            lease=lease,
            answer_seconds=answer_seconds,
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

    def _send(self, upload: Upload, send_once: Callable[[Upload], None], lease: Lease) -> None:
        """Send a blob; after a failure start again with a new upload.

        Not every registry can resume an interrupted upload (distribution 2.8 drops it), and one that the
        destination has dropped (404), or in which it has kept the content of a POST, has to start again.
        """
        repository, session = upload.repository, upload
        mount_from: Repository | None
        retries = Retries(self._settings.http, repository.host, self._http_client.longest_wait_seconds)
        while True:
            try:
                return send_once(session)
            except SourceError as error:
                raise error.cause from None  # it had its retries
            except _TooLargeError as error:
                if not self.upload_facts.lower_body_limit(repository.host, error.tried):
                    raise error.cause from None
                mount_from, wait, cause = None, 0.0, error.cause.cause
            except (errors.RegistryUnreachableError, errors.RegistryError) as error:
                is_gone = session.came_with_content or isinstance(error, errors.NotFoundError)
                limit = self._settings.http.retries if error.retryable or is_gone else 0
                wait, cause = retries.next_pause_seconds(error, limit), error.cause
                # What is there by now is not sent again: its answer may have come too late (moby #53700).
                mount_from = repository
            if wait:
                self._http_client.pause(wait, lease, cause)
            fresh = self.begin_upload(repository, upload.digest, mount_from=mount_from, lease=lease)
            if fresh is None:
                return None
            session = fresh

    def _send_source(self, upload: Upload, source: UploadSource, lease: Lease) -> None:
        """Send one blob once; open its source again if the upload needs another login."""
        answer_seconds = self._settings.http.upload_timeout_seconds
        with source.one_try():
            self._send_once(upload, source.open, lease, answer_seconds=answer_seconds)

    def _send_once(
        self,
        upload: Upload,
        open_body: Callable[[], bytes | Body],
        lease: Lease,
        *,
        answer_seconds: float | None = None,
    ) -> None:
        """Send the content of a blob, in chunks if it is larger than what gets through."""
        limit = self.upload_facts.body_limit(upload.repository.host)
        try:
            if limit is None:
                return self._put_blob(upload, open_body, lease, answer_seconds)
            body = open_body()
            if len(body) <= limit:
                opened = [body]
                return self._put_blob(
                    upload, lambda: opened.pop() if opened else open_body(), lease, answer_seconds
                )
            content = io.BytesIO(body) if isinstance(body, bytes) else body
            rest = self._send_chunks(upload, content, limit, lease)
            return self._put_blob(rest, lambda: b"", lease, answer_seconds)
        except errors.RegistryError as error:
            if error.status != requests.codes.request_entity_too_large:
                raise
            raise _TooLargeError(error, limit) from None

    def _send_chunks(self, upload: Upload, source: Body | io.BytesIO, size: int, lease: Lease) -> Upload:
        """Send a blob in chunks, and return the upload that has them all."""
        offset, repository = 0, upload.repository
        while piece := _read_chunk(source, size):
            request = self._request(
                "PATCH",
                repository,
                upload.url,
                f"blob {upload.digest} of {repository}",
                scopes=scopes_of(repository, "pull,push"),
                expected=frozenset({202, 204}),
                headers={**_BLOB_HEADERS, "Content-Range": f"{offset}-{offset + len(piece) - 1}"},
                body=piece,
                retries=False,
                lease=lease,
            )
            response, _ = self._http_client.read(request)
            offset += len(piece)
            if "Location" in response.headers:
                upload = replace(upload, url=self._location(response, repository))
        return upload

    def _put_blob(
        self,
        upload: Upload,
        body: Callable[[], bytes | Body],
        lease: Lease,
        answer_seconds: float | None,
    ) -> None:
        parts = urlsplit(upload.url)
        query = "&".join(filter(None, [parts.query, urlencode({"digest": str(upload.digest)}, safe=":")]))
        subject = f"blob {upload.digest} of {upload.repository}"
        request = self._request(
            "PUT",
            upload.repository,
            urlunsplit(parts._replace(query=query, fragment="")),
            subject,
            scopes=scopes_of(upload.repository, "pull,push"),
            expected=frozenset({201, 204}),
            headers=_BLOB_HEADERS,
            body=body,
            retries=False,
            lease=lease,
            answer_seconds=answer_seconds,
        )
        response, _ = self._http_client.read(request)
        check_stored(response.headers, subject, upload.digest)


class _TooLargeError(Exception):
    """A gateway does not let a body through that was sent under the limit `tried`."""

    def __init__(self, cause: errors.RegistryError, tried: int | None) -> None:
        super().__init__()
        self.cause, self.tried = cause, tried


def _is_refusal(error: errors.CredentialsError | errors.RegistryError) -> bool:
    """Return True if a registry refuses the request for good, rather than failing for now."""
    return isinstance(error, errors.CredentialsError) or (400 <= error.status < 500 and not error.retryable)  # noqa: PLR2004 - HTTP's numbers


def _read_chunk(source: Body | io.BytesIO, size: int) -> bytes:
    """Read `size` bytes, fewer at the end."""
    pieces, left = [], size
    while left and (piece := source.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
