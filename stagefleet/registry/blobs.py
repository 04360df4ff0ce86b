"""Blobs on their way from one registry to another, through memory in pieces."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

import requests
import urllib3

from stagefleet.errors import (
    BrokenStageError,
    DigestMismatchError,
    RegistryUnreachableError,
    StagefleetError,
    TruncatedError,
)
from stagefleet.registry.leash import Leash
from stagefleet.registry.manifests import Descriptor
from stagefleet.registry.transport import CHUNK_BYTES, reaching_host

__all__ = ["BlobReader", "OpenBlob"]

_PARTIAL = 206
_MOST_RESUMES = 5
"""Times that a source may break off without having sent anything in between."""


class OpenBlob(Protocol):
    """Asks a registry for a blob, from an offset on; see `RegistryClient`."""

    def __call__(self, offset: int) -> requests.Response:
        """The answer to the GET, 200 or 206."""


class BlobReader:
    """A blob as a body to be sent on: checked on the way, resumed when its source breaks off.

    It raises instead of giving its last bytes when size or digest are wrong, so that no upload of wrong
    content is ever whole.

    Args:
        open_blob: Asks the source.
        descriptor: What is to come.
        leash: Asked at each piece.
        on_bytes: Told how many bytes each piece had.
    """

    def __init__(
        self,
        open_blob: OpenBlob,
        descriptor: Descriptor,
        *,
        leash: Leash,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self._open_blob = open_blob
        self._descriptor = descriptor
        self._leash = leash
        self._on_bytes = on_bytes
        self._hash: Any = hashlib.new(descriptor.digest.algorithm)
        self._offset = 0
        self._stalls = 0
        self._response: requests.Response | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self._descriptor.size

    def __bool__(self) -> bool:
        return True

    def close(self) -> None:
        """Close the connection to the source, unless the body was read to its end."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most `size` of them, b"" at the end.

        Raises:
            DigestMismatchError: The content is not the descriptor's.
            TruncatedError: The source broke off, as often as it was asked.
            BrokenStageError: The source has the blob in name only: its body ends where it begins.
        """
        size = CHUNK_BYTES if size < 0 else size
        left = self._descriptor.size - self._offset
        if left == 0 or size == 0:
            return self._finished() if left == 0 else b""
        while True:
            self._leash.check()
            piece = self._piece(min(size, left))
            if piece:
                break
        self._stalls = 0
        self._offset += len(piece)
        self._hash.update(piece)
        if self._offset == self._descriptor.size:
            self._check()
        if self._on_bytes is not None:
            self._on_bytes(len(piece))
        return piece

    def _piece(self, size: int) -> bytes:
        """Some bytes; b"" if the source broke off and is to be asked again."""
        answer = self._asked() if self._response is None else None
        try:
            if answer is not None:
                self._response = self._opened(answer)
            assert self._response is not None
            with reaching_host(self._response.url):
                piece: bytes = self._response.raw.read(size)
        except RegistryUnreachableError as error:
            self._broke_off(None if _ended_early(error) else error)
            return b""
        if not piece:
            self._broke_off(None)
        return piece

    def _asked(self) -> requests.Response:
        """The source's answer. One that gives none has been asked as often as the settings say."""
        try:
            return self._open_blob(self._offset)
        except RegistryUnreachableError as error:
            if self._offset == 0:
                raise
            raise TruncatedError(
                f"the source of {self._descriptor.digest} broke off at byte {self._offset} of "
                f"{self._descriptor.size}, and could not be asked for the rest: {error}"
            ) from error

    def _opened(self, response: requests.Response) -> requests.Response:
        try:
            self._check_length(response)
            if self._offset and response.status_code != _PARTIAL:
                self._skip(response, self._offset)  # the source knows no ranges: read over what we have
        except BaseException:
            response.close()
            raise
        return response

    def _check_length(self, response: requests.Response) -> None:
        expected = self._descriptor.size
        if response.status_code == _PARTIAL:
            expected -= self._offset
            if not response.headers.get("Content-Range", "").startswith(f"bytes {self._offset}-"):
                raise TruncatedError(
                    f"the source of {self._descriptor.digest} sent another range than asked for"
                )
        told = response.headers.get("Content-Length", "")
        if told.isdecimal() and int(told) not in {expected, 0}:
            raise DigestMismatchError(
                f"the source says that {self._descriptor.digest} has {told} bytes, its manifest {expected}"
            )

    def _skip(self, response: requests.Response, count: int) -> None:
        with reaching_host(response.url):
            while count:
                self._leash.check()
                piece = response.raw.read(min(CHUNK_BYTES, count))
                if not piece:
                    raise RegistryUnreachableError("the source broke off again")
                count -= len(piece)

    def _broke_off(self, error: StagefleetError | None) -> None:
        self.close()
        self._stalls += 1
        digest = self._descriptor.digest
        if error is None and self._offset == 0 and self._stalls > 1:
            # A registry beside which garbage was collected still knows the blob, and sends nothing of it.
            raise BrokenStageError(
                f"the source knows the blob {digest} but sends nothing of it: build it again"
            )
        if self._stalls > _MOST_RESUMES:
            raise TruncatedError(
                f"the source of {digest} breaks off at byte {self._offset} of {self._descriptor.size}, "
                f"{self._stalls} times in a row"
            ) from error

    def _check(self) -> None:
        found = self._hash.hexdigest()
        if found != self._descriptor.digest.hex:
            self.close()
            raise DigestMismatchError(f"the source sent other content for {self._descriptor.digest}: {found}")

    def _finished(self) -> bytes:
        if self._response is None and self._descriptor.size == 0:
            self._check()
        elif self._response is not None:
            self._release(self._response)
            self._response = None
        return b""

    @staticmethod
    def _release(response: requests.Response) -> None:
        """Give the connection back: the body was read to its end, but urllib3 has yet to see that."""
        with reaching_host(response.url):
            if response.raw.read(1):
                response.close()


def _ended_early(error: RegistryUnreachableError) -> bool:
    """Whether the source ended its answer before the length that it had told, in good order otherwise."""
    broken = error.__cause__
    return isinstance(broken, urllib3.exceptions.ProtocolError) and isinstance(
        broken.__cause__, http.client.IncompleteRead
    )
