"""Blobs: begin uploads, mount and send ("Pushing blobs" in the specification)."""

from __future__ import annotations

import io
import math
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
from stagefleet.registry.blob_chunks import ChunkSizes, read_chunk
from stagefleet.registry.blob_reader import BlobSource
from stagefleet.registry.blob_stream import BlobStream, SourceError, UploadSource
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.client import backoff_seconds
from stagefleet.registry.http.hosts import api_path
from stagefleet.registry.http.responses import check_stored
from stagefleet.registry.http.transport import Body
from stagefleet.registry.http.waits import WaitBudget
from stagefleet.settings import Settings

_BLOB_HEADERS = MappingProxyType({"Content-Type": "application/octet-stream"})
_WHOLE_BYTES = 4 * 1024 * 1024
"""Largest blob that is sent without asking if it is there."""
_MISSES = 4
"""Blobs in a row that a repository lacked, after which it is expected to lack the next one, too."""
_ASK_EVERY = 8
"""So often it is asked all the same, of blobs that it would take without."""


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
        whole_blob_hosts: Registries that are known to take a whole blob with one POST.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(settings, **options)
        self._unmountable: set[tuple[Repository, Repository]] = set()
        self._missed: dict[tuple[Repository, Repository], int] = {}
        self._refused_bytes: dict[str, int] = {}  # of the smallest whole blob that a registry refused
        self.whole_blob_hosts: set[str] = set()
        self._chunks = ChunkSizes(settings)

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
        query, scopes = "", scopes_of(repository, "pull,push")
        if mount_from is not None and (mount_from, repository) in self._unmountable:
            mount_from = repository
        if mount_from is not None and (mount_from, repository) in self._unmountable:
            if self._lists(repository, digest, lease):
                return None
            mount_from = None
        if mount_from is not None:
            query = "?" + urlencode({"mount": str(digest), "from": api_path(mount_from)}, safe=":/")
            if mount_from != repository:
                scopes = tuple(sorted({*scopes, *scopes_of(mount_from, "pull")}))
        url = self._url(repository, "blobs/uploads/") + query
        subject = f"blob {digest} of {repository}"
        request = self._request(
            "POST", repository, url, subject, scopes=scopes, expected=frozenset({201, 202}), lease=lease
        )
        try:
            response, _ = self._http_client.read(request)
        except (errors.CredentialsError, errors.RegistryError) as error:
            is_login = isinstance(error, errors.CredentialsError)
            if mount_from is None or (mount_from == repository and is_login) or not _is_refusal(error):
                raise
            # No pull right on the other repository, or no mounts at all (containerd #14086, oras #1892): some
            # registries refuse instead of opening an upload.
            upload = self.begin_upload(repository, digest, mount_from=None, lease=lease)
            self._unmountable.add((mount_from, repository))
            return upload
        return self._upload_of(response, repository, digest)

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

    def _upload_of(
        self, response: requests.Response, repository: Repository, digest: Digest
    ) -> Upload | None:
        """Return the upload that a POST has begun; None if the repository has the blob now."""
        if response.status_code == 201:  # noqa: PLR2004 - HTTP's number
            check_stored(response.headers, f"blob {digest} of {repository}", digest)
            return None
        self._chunks.note(repository.host, response.headers)
        return Upload(repository, digest, self._location(response, repository))

    def upload_bytes(self, upload: Upload, content: bytes, *, lease: Lease = NO_LEASE) -> None:
        """Send the content of a small blob; begin a new upload if that fails."""
        self._deliver(upload, lambda fresh: self._send_blob(fresh, lambda: content, lease), lease)

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
        source = UploadSource(partial(self._open_source, open_source, descriptor.size, lease), await_turn)
        missed = self._missed.get((mount_from or destination, destination), 0)
        is_whole = mount_from == destination and self._goes_whole(destination, descriptor, missed)
        try:
            if mount_from is None or missed >= _MISSES:
                source.open_early(lambda: BlobStream(open_source, self.threads, lease))
            if is_whole:
                upload = self._post_source(source, destination, descriptor, lease)
            else:
                upload = self.begin_upload(destination, descriptor.digest, mount_from=mount_from, lease=lease)
            if mount_from is not None:
                self._missed[mount_from, destination] = missed + 1 if is_whole or upload else 0
            if upload is not None:
                self._deliver(upload, lambda fresh: self._stream(source, fresh, lease), lease)
        finally:
            source.close()
        return descriptor.size if is_whole or upload is not None else 0

    def _goes_whole(self, destination: Repository, blob: Descriptor, missed: int) -> bool:
        """Return True for a blob that goes with one POST: a small one that is likely to be missing."""
        return (
            destination.host in self.whole_blob_hosts
            and blob.size <= _WHOLE_BYTES
            and blob.size < self._refused_bytes.get(destination.host, math.inf)
            and missed >= _MISSES
            and missed % _ASK_EVERY > 0
        )

    def _post_source(
        self, source: UploadSource, destination: Repository, blob: Descriptor, lease: Lease
    ) -> Upload | None:
        """Send a blob with one POST; if the registry does not take it, return an upload."""
        try:
            with source.one_try():
                upload = self.post_blob(
                    destination,
                    blob.digest,
                    source.open,
                    lease=lease,
                    answer_seconds=self._settings.http.upload_timeout_seconds,
                )
        except SourceError as error:
            raise error.cause from None
        except (errors.RegistryError, errors.RegistryUnreachableError) as error:
            upload = self.begin_upload(destination, blob.digest, mount_from=None, lease=lease)
            if not error.retryable:
                self._refused_bytes[destination.host] = blob.size
            return upload
        if upload is not None:
            self.whole_blob_hosts.discard(destination.host)
        return upload

    def _open_source(self, open_source: Callable[[], BlobSource], size: int, lease: Lease) -> BlobSource:
        return BlobStream(open_source, self.threads, lease) if size > CHUNK_BYTES else open_source()

    def _deliver(self, upload: Upload, send: Callable[[Upload], None], lease: Lease) -> None:
        """Send a blob; after a failure start again with a new upload.

        Not every registry can resume an interrupted upload (distribution 2.8 drops it), and one that the
        destination has dropped (404), or in which it has kept the content of a POST, has to start again.
        """
        http = self._settings.http
        failures, budget = 0, WaitBudget.of(upload.repository.host, self._http_client.longest_wait_seconds)
        while True:
            try:
                return send(upload)
            except SourceError as error:
                raise error.cause from None  # it had its retries
            except _TooLargeError as error:
                if not self._chunks.shrink(upload.repository.host):
                    raise error.cause from None
                fresh = self.begin_upload(upload.repository, upload.digest, mount_from=None, lease=lease)
                if fresh is None:
                    return None
                upload = fresh
                continue
            except (errors.RegistryUnreachableError, errors.RegistryError) as error:
                is_gone = upload.came_with_content or isinstance(error, errors.NotFoundError)
                asked = getattr(error, "retry_after_seconds", None) or 0.0
                if failures >= http.retries or not (error.retryable or is_gone) or not budget.allows(asked):
                    raise
                cause = error.cause
            self._http_client.pause(asked + backoff_seconds(http, failures), lease, cause)
            failures += 1
            # What is there by now is not sent again: its answer may have come too late (moby #53700).
            fresh = self.begin_upload(
                upload.repository, upload.digest, mount_from=upload.repository, lease=lease
            )
            if fresh is None:
                return None
            upload = fresh

    def _stream(self, source: UploadSource, upload: Upload, lease: Lease) -> None:
        """Send one blob once; open its source again if the upload needs another login."""
        answer_seconds = self._settings.http.upload_timeout_seconds
        with source.one_try():
            self._send_blob(upload, source.open, lease, answer_seconds=answer_seconds)

    def _send_blob(
        self,
        upload: Upload,
        body: Callable[[], bytes | Body],
        lease: Lease,
        *,
        answer_seconds: float | None = None,
    ) -> None:
        """Send the content of a blob, in chunks if it is larger than what gets through."""
        limit = self._chunks.limit(upload.repository.host)
        try:
            if limit is None:
                return self._put_blob(upload, body, lease, answer_seconds)
            content = body()
            if len(content) <= limit:
                opened = [content]
                return self._put_blob(
                    upload, lambda: opened.pop() if opened else body(), lease, answer_seconds
                )
            incoming = io.BytesIO(content) if isinstance(content, bytes) else content
            rest = self._send_chunks(upload, incoming, limit, lease)
            return self._put_blob(rest, lambda: b"", lease, answer_seconds)
        except errors.RegistryError as error:
            if error.status != requests.codes.request_entity_too_large:
                raise
            raise _TooLargeError(error) from None

    def _send_chunks(self, upload: Upload, source: Body | io.BytesIO, size: int, lease: Lease) -> Upload:
        """Send a blob in chunks, and return the upload that has them all."""
        offset, repository = 0, upload.repository
        while piece := read_chunk(source, size):
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


class _TooLargeError(Exception):
    """A gateway does not let a body of this size through."""

    def __init__(self, cause: errors.RegistryError) -> None:
        super().__init__()
        self.cause = cause


def _is_refusal(error: errors.CredentialsError | errors.RegistryError) -> bool:
    """Return True if a registry refuses the request for good, rather than failing for now."""
    return isinstance(error, errors.CredentialsError) or (400 <= error.status < 500 and not error.retryable)  # noqa: PLR2004 - HTTP's numbers
