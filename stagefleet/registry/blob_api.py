"""Blobs: ask for them and read them ("Pulling blobs" in the specification)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import requests

from stagefleet import errors
from stagefleet.leases import NO_LEASE, Lease, current_lease
from stagefleet.manifests import Descriptor
from stagefleet.names import Digest, Repository
from stagefleet.registry.api import Api
from stagefleet.registry.blob_reader import BlobReader, check_length
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.responses import SMALL_RATE, ResponseBody
from stagefleet.registry.http.waits import backoff_seconds

_BLOB_BYTES = 8 * 1024 * 1024


class BlobApi(Api):
    """Blob calls of the API that read."""

    def fetch_blob(
        self,
        repository: Repository,
        descriptor: Descriptor,
        *,
        limit_bytes: int = _BLOB_BYTES,
        lease: Lease = NO_LEASE,
    ) -> bytes:
        """Fetch a small blob and verify its size and digest.

        Raises:
            NotFoundError: There is no such blob.
            BrokenStageError: It is larger than the limit.
            DigestMismatchError: The content does not match the descriptor.
            TruncatedError: The registry broke off at every attempt.
        """
        if descriptor.size > limit_bytes:
            raise errors.BrokenStageError(
                f"{descriptor.digest} of {repository} has {descriptor.size} bytes, "
                f"and at most {limit_bytes} are read at once"
            )
        seconds = self._settings.http.read_timeout_seconds + descriptor.size / SMALL_RATE
        with self.open_blob(repository, descriptor, lease=lease, seconds=seconds) as reader:
            return b"".join(iter(reader.read, b""))

    def has_blob(
        self, repository: Repository, digest: Digest, *, size: int | None = None, lease: Lease = NO_LEASE
    ) -> bool:
        """Ask by one HEAD if a registry lists a blob; its content may still be missing.

        Raises:
            DigestMismatchError: It lists it with another size than `size`.
        """
        url, subject = self._url(repository, f"blobs/{digest}"), f"blob {digest} of {repository}"
        try:
            response, _ = self._http_client.read(self._request("HEAD", repository, url, subject, lease=lease))
        except errors.NotFoundError:
            return False
        if size is not None:
            check_length(response, size, digest)
        return True

    def hash_blob(self, repository: Repository, descriptor: Descriptor, *, lease: Lease = NO_LEASE) -> Digest:
        """Read a blob of any size and return the digest of its content.

        Raises:
            NotFoundError: There is no such blob.
            TruncatedError: The content is shorter than the descriptor says, and may be incomplete.
            RegistryUnreachableError: The registry does not answer, or broke off.
        """
        url, lease = self._url(repository, f"blobs/{descriptor.digest}"), current_lease(lease)
        hashed = hashlib.new(descriptor.digest.algorithm)
        left = descriptor.size + 1  # a longer body is wrong anyway
        subject = f"blob {descriptor.digest} of {repository}"
        with self._http_client.open(self._request("GET", repository, url, subject, lease=lease)) as response:
            incoming = ResponseBody(response)
            while left and (piece := incoming.read(min(CHUNK_BYTES, left))):
                lease.check()
                hashed.update(piece)
                left -= len(piece)
            is_whole = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        if left > 1 and not is_whole:
            raise errors.TruncatedError(
                f"{repository.host} sent {descriptor.size + 1 - left} of {descriptor.size} bytes of "
                f"{descriptor.digest}, and did not say that it was all"
            )
        return Digest(descriptor.digest.algorithm, hashed.hexdigest())

    def open_blob(
        self,
        repository: Repository,
        descriptor: Descriptor,
        *,
        lease: Lease = NO_LEASE,
        on_bytes: Callable[[int], None] | None = None,
        seconds: float | None = None,
    ) -> BlobReader:
        """Open a blob of any size for reading; the request leaves at the first read. See `BlobReader`.

        Reads raise `NotFoundError` for a missing blob.
        """
        url, lease = self._url(repository, f"blobs/{descriptor.digest}"), current_lease(lease)

        def open_blob(offset: int) -> requests.Response:
            request = self._request(
                "GET",
                repository,
                url,
                f"blob {descriptor.digest} of {repository}",
                expected=frozenset({200, 206, 416} if offset else {200}),
                headers={"Range": f"bytes={offset}-"} if offset else {},
                lease=lease,
            )
            return self._http_client.open(request)

        def pause(breaks: int) -> None:
            self._http_client.pause(backoff_seconds(self._settings.http, breaks), lease)

        return BlobReader(open_blob, descriptor, lease=lease, pause=pause, seconds=seconds, on_bytes=on_bytes)
