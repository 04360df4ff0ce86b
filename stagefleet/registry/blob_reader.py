"""Blobs of a registry: asked for, read in chunks, verified ("Pulling blobs" in the specification)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import requests

from stagefleet import errors
from stagefleet.leases import NO_LEASE, Lease, current_lease
from stagefleet.manifests import Descriptor
from stagefleet.names import Digest, Repository
from stagefleet.registry.api import Api
from stagefleet.registry.blob_source import VerifiedSource
from stagefleet.registry.error_mapping import may_be_unknown, refuse_errors
from stagefleet.registry.http import responses
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.waits import backoff_seconds

_PARTIAL = 206
_UNSATISFIABLE = 416
_NO_PART = -1
_BLOB_BYTES = 8 * 1024 * 1024
_MOST_BREAKS = 6
_BEGIN_BYTES = 4 * 1024
"""Bytes at the beginning that are kept: what is not the blob may be a document of errors."""
_STEADY_BYTES = 1024 * 1024
"""Bytes between two interruptions after which the first no longer counts."""


class BlobReader(VerifiedSource):
    """Read a blob of a registry as a request body, and resume it if its source breaks off.

    Args:
        open_blob: Sends the GET of the blob from an offset on; the response has status 200, 206, or 416 if
            the source has no such range.
        pause: Waits before a resume; called with the number of interruptions, from 1.
        seconds: Time limit for a small blob, interruptions included; a large one only has to make progress.
    """

    def __init__(
        self,
        open_blob: Callable[[int], requests.Response],
        descriptor: Descriptor,
        *,
        lease: Lease,
        pause: Callable[[int], None],
        seconds: float | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(descriptor, lease=lease, on_bytes=on_bytes)
        self._open_blob = open_blob
        self._pause = pause
        self._seconds = seconds
        self._began_at = time.monotonic()
        self._offset = 0
        self._begin = b""
        self._breaks = self._ends = 0
        self._broke_at = 0
        self._known_bytes, self._part_end = 0, _NO_PART
        self._response: requests.Response | None = None
        self._incoming: responses.ResponseBody | None = None

    def skip(self, count: int) -> None:
        """Leave out the first bytes; then only who has these can verify the content."""
        self._first = self._offset = self._broke_at = count

    def close(self) -> None:
        """Close the connection to the source, unless the body was read to its end."""
        if self._response is not None:
            self._response.close()
        self._response = self._incoming = None

    def _read(self, size: int) -> bytes:
        left = self._descriptor.size - self._offset
        if left == 0:
            return self._finished()
        if size == 0:
            if self._incoming is None:
                self._open()
            return b""
        piece = b""
        while size and not piece:
            self._lease.check()
            piece = self._piece(min(size, left))
        if self._offset == len(self._begin) < _BEGIN_BYTES:
            self._begin += piece[:_BEGIN_BYTES]
        self._offset += len(piece)
        self._hash.update(piece)
        if self._offset == self._descriptor.size:
            self._check()
        if self._on_bytes is not None:
            self._on_bytes(len(piece))
        return piece

    def _piece(self, size: int) -> bytes:
        """Return some bytes; b"" if the source broke off and has to be opened again."""
        incoming = self._open() if self._incoming is None else self._incoming
        piece, error = b"", None
        try:
            while self._known_bytes and self._skip(incoming):
                self._lease.check()
            if not self._known_bytes:
                piece = incoming.read(size)
        except errors.RegistryUnreachableError as caught:
            error = None if incoming.was_cut_short else caught
        if not piece and error is None and self._offset == self._part_end:
            self.close()  # a server may send less than was asked for, and wants to be asked for the rest
        elif not piece:
            self._broke_off(error)
        return piece

    def _open(self) -> responses.ResponseBody:
        """Open the rest of the blob; an unanswered request has had its retries already."""
        try:
            self._response = response = self._open_blob(self._offset)
        except errors.RegistryUnreachableError as error:
            if self._offset == 0:
                raise
            raise errors.TruncatedError(
                f"the source of {self._descriptor.digest} broke off at byte {self._offset} of "
                f"{self._descriptor.size}, and could not be asked for the rest: {error}"
            ) from error
        self._known_bytes, self._part_end = 0, _NO_PART
        if response.status_code == requests.codes.ok:
            self._known_bytes = self._offset  # from the start: the source ignores ranges, or sent nothing yet
        if response.status_code == _UNSATISFIABLE:
            self._known_bytes = self._descriptor.size  # the body is an error message, not the blob
        else:
            self._check_length(response)
        self._incoming = _body_of(response, self._descriptor, is_small=self._seconds is not None)
        return self._incoming

    def _skip(self, incoming: responses.ResponseBody) -> bool:
        """Skip a chunk that was read before; False if the source ends in it."""
        piece = incoming.read(min(CHUNK_BYTES, self._known_bytes))
        self._known_bytes -= len(piece)
        return bool(piece)

    def _check_length(self, response: requests.Response) -> None:
        if response.status_code == _PARTIAL:
            part = responses.content_range(response.headers)
            if part is None or part.start != self._offset:
                raise errors.TruncatedError(
                    f"the source of {self._descriptor.digest} sent another range than asked for"
                )
            self._part_end = part.end
        try:
            responses.check_length(response, self._descriptor.size, self._descriptor.digest)
        except errors.DigestMismatchError:
            self._refuse_errors(response)
            raise

    def _broke_off(self, error: errors.StagefleetError | None) -> None:
        """Count an interruption: a premature end, or, with `error`, a broken connection.

        A registry that lost a blob's content still lists the blob: distribution 2.8 answers 200 with the full
        Content-Length, and closes the connection where the content ends, each time.
        """
        if error is None and self._response is not None:
            self._refuse_errors(self._response)
        self.close()
        if self._offset - self._broke_at >= _STEADY_BYTES:
            self._breaks = 0
        ended_again = error is None and self._offset == self._broke_at
        self._ends = self._ends + 1 if ended_again else 0
        self._breaks, self._broke_at = self._breaks + 1, self._offset
        digest, size = self._descriptor.digest, self._descriptor.size
        because = f": {error}" if error else ""
        if self._ends >= (_MOST_BREAKS - 1 if self._offset else 2):
            has = f"only {self._offset} of its {size} bytes" if self._offset else "nothing of it"
            raise errors.ShortContentError(
                f"the source knows the blob {digest} but sends {has}, each time: "
                "if that stays so, build it again"
            )
        if self._seconds is not None and time.monotonic() - self._began_at > self._seconds:
            raise errors.TruncatedError(
                f"the source of {digest} is too slow: {self._offset} of {size} bytes in {self._seconds:.3g} s"
                f"{because}"
            )
        if self._breaks >= _MOST_BREAKS:
            raise errors.TruncatedError(
                f"the source of {digest} breaks off at byte {self._offset} of {size}, "
                f"{self._breaks} times within a short while{because}"
            )
        self._pause(self._breaks)

    def _check(self) -> None:
        found = self._hash.hexdigest()
        if not self._first and found != self._descriptor.digest.hex:
            if self._response is not None:
                responses.refuse_page(self._response, f"blob {self._descriptor.digest}")
                self._refuse_errors(self._response)
            self.close()
            raise errors.DigestMismatchError(
                f"the source sent other content for {self._descriptor.digest}: {found}",
                found=f"{self._descriptor.digest.algorithm}:{found}",
            )

    def _refuse_errors(self, response: requests.Response) -> None:
        """Raise if what came is a document of errors: it proves nothing about the blob."""
        if self._offset == len(self._begin):
            refuse_errors(response, f"blob {self._descriptor.digest}", self._begin)

    def _finished(self) -> bytes:
        """Return the connection to the pool: the body was read to its end, which urllib3 has not seen yet."""
        if self._incoming is None:
            if self._descriptor.size == 0:
                self._check()
            return b""
        with suppress(errors.RegistryUnreachableError):  # the content is whole; only the connection is lost
            if self._incoming.read(1) == b"":
                self._response = self._incoming = None
        self.close()
        return b""


def _body_of(
    response: requests.Response, descriptor: Descriptor, *, is_small: bool = False
) -> responses.ResponseBody:
    """Return the body of a blob; a configuration unpacked, as no store keeps these as gzip."""
    if descriptor.is_image_config:
        return responses.DecodedBody(response, descriptor.size, is_small=is_small)
    return responses.ResponseBody(response, is_small=is_small)


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
        seconds = self._settings.http.read_timeout_seconds + descriptor.size / responses.SMALL_RATE
        with self.open_blob(repository, descriptor, lease=lease, seconds=seconds) as reader:
            return b"".join(iter(reader.read, b""))

    def has_blob(
        self, repository: Repository, digest: Digest, *, size: int | None = None, lease: Lease = NO_LEASE
    ) -> bool:
        """Ask if a registry lists a blob; its content may still be missing.

        Raises:
            DigestMismatchError: It lists it with another size than `size`.
        """
        try:
            response = self._find_blob(repository, digest, lease)
        except errors.NotFoundError:
            return False
        if size is None:
            responses.refuse_page(response, f"blob {digest} of {repository}")
        elif response.status_code != _UNSATISFIABLE:  # an empty blob has no first byte
            try:
                responses.check_length(response, size, digest)
            except errors.DigestMismatchError:
                if response.status_code == requests.codes.ok:
                    self._refuse_errors(repository, digest, lease)
                raise
        return True

    def _refuse_errors(self, repository: Repository, digest: Digest, lease: Lease) -> None:
        """Raise if a registry answers a GET of a blob with errors under status 200, as it may have a HEAD."""
        url, subject = self._url(repository, f"blobs/{digest}"), f"blob {digest} of {repository}"
        with self._http_client.open(self._request("GET", repository, url, subject, lease=lease)) as response:
            refuse_errors(response, subject)

    def _find_blob(self, repository: Repository, digest: Digest, lease: Lease) -> requests.Response:
        """Ask for a blob by HEAD; its first byte where a gateway refuses that, or answers it with a page."""
        url, subject = self._url(repository, f"blobs/{digest}"), f"blob {digest} of {repository}"
        ask = partial(self._request, repository=repository, url=url, subject=subject, lease=lease)
        try:
            response, _ = self._http_client.read(ask("HEAD"))
            if not responses.is_page(response.headers):
                return response
        except errors.RegistryError as error:
            if isinstance(error, errors.NotFoundError) or not may_be_unknown(error):
                raise
        first = ask("GET", headers={"Range": "bytes=0-0"}, expected=frozenset({200, 206, 416}))
        with self._http_client.open(first) as response:
            return response

    def hash_blob(self, repository: Repository, descriptor: Descriptor, *, lease: Lease = NO_LEASE) -> Digest:
        """Read a blob of any size and return the digest of its content.

        Raises:
            NotFoundError: There is no such blob.
            TruncatedError: The content is shorter than the descriptor says, and may be incomplete.
            RegistryUnreachableError: The registry does not answer, or broke off.
            RegistryUnavailableError: It sent a page of HTML.
        """
        url, lease = self._url(repository, f"blobs/{descriptor.digest}"), current_lease(lease)
        hashed = hashlib.new(descriptor.digest.algorithm)
        left, begin = descriptor.size + 1, b""  # a longer body is wrong anyway
        subject = f"blob {descriptor.digest} of {repository}"
        with self._http_client.open(self._request("GET", repository, url, subject, lease=lease)) as response:
            incoming = _body_of(response, descriptor)
            while left and (piece := incoming.read(min(CHUNK_BYTES, left))):
                lease.check()
                hashed.update(piece)
                left -= len(piece)
                begin += piece if len(begin) < _BEGIN_BYTES else b""
            is_whole = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
            found = Digest(descriptor.digest.algorithm, hashed.hexdigest())
            if found != descriptor.digest:
                responses.refuse_page(response, subject)
                if len(begin) < _BEGIN_BYTES:  # else it is not all that was read
                    refuse_errors(response, subject, begin)
        if left > 1 and not is_whole:
            raise errors.TruncatedError(
                f"{repository.host} sent {descriptor.size + 1 - left} of {descriptor.size} bytes of "
                f"{descriptor.digest}, and did not say that it was all"
            )
        return found

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
                expected=frozenset({200, 206, 416} if offset else {200, 206}),
                headers={"Range": f"bytes={offset}-"} if offset else {},
                lease=lease,
            )
            return self._http_client.open(request)

        def pause(breaks: int) -> None:
            self._http_client.pause(backoff_seconds(self._settings.http, breaks), lease)

        return BlobReader(open_blob, descriptor, lease=lease, pause=pause, seconds=seconds, on_bytes=on_bytes)
