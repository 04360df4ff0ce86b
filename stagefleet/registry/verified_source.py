"""Blobs that are read as the bodies of uploads, and verified meanwhile, wherever they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol, Self

from stagefleet import errors
from stagefleet.leases import Lease
from stagefleet.manifests import Descriptor
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.transport import Body


class BlobSource(Body, Protocol):
    """A blob that is read as the body of an upload, and verified; close it.

    Attributes:
        error: The error that `read` raised: it tells a failure of the source from one of the destination.
    """

    error: errors.StagefleetError | None

    def skip(self, count: int) -> None:
        """Leave out the first bytes; call it before the first read."""
        del count  # one that is opened behind them leaves out nothing more

    def close(self) -> None:
        """Stop reading."""


class VerifiedSource(BlobSource):
    """A source that holds what it reads against a descriptor, for use in a `with` block.

    It raises instead of returning the last bytes if size or digest are wrong, so that no upload of wrong
    content completes. The lease is checked at each chunk; `on_bytes` is called with its size.
    """

    chunk_bytes = CHUNK_BYTES

    def __init__(
        self, descriptor: Descriptor, *, lease: Lease, on_bytes: Callable[[int], None] | None = None
    ) -> None:
        self._descriptor = descriptor
        self._lease = lease
        self._on_bytes = on_bytes
        self._hash: Any = hashlib.new(descriptor.digest.algorithm)
        self._first = 0
        self.error: errors.StagefleetError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._descriptor.size - self._first

    def __bool__(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, at most `size` of them, b"" at the end; `read(0)` waits for the source.

        Raises:
            DigestMismatchError: The content does not match the descriptor.
            TruncatedError: The connection to the source broke at every try.
            ShortContentError: The source ends the blob before its size each time.
        """
        try:
            return self._read(self.chunk_bytes if size < 0 else size)
        except errors.StagefleetError as error:
            self.error = error
            raise

    def _read(self, size: int) -> bytes:
        raise NotImplementedError
