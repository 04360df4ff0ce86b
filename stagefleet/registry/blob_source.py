"""Sources of uploads: blobs that are verified as they are read, and read ahead of who sends them on."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Condition
from typing import Any, Protocol, Self

from stagefleet.errors import StagefleetError
from stagefleet.leases import SLICE_SECONDS, ChildLease, Lease, under_lease
from stagefleet.manifests import Descriptor
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.transport import Body
from stagefleet.threads import RequestThreads

AHEAD_BYTES = 2 * CHUNK_BYTES
"""Most bytes of a blob that wait to be sent; one chunk more may be on its way from the source."""


class BlobSource(Body, Protocol):
    """A blob that is read as the body of an upload, and verified; close it.

    Attributes:
        error: The error that `read` raised: it tells a failure of the source from one of the destination.
    """

    error: StagefleetError | None

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
        self.error: StagefleetError | None = None

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
        except StagefleetError as error:
            self.error = error
            raise

    def _read(self, size: int) -> bytes:
        raise NotImplementedError


class BlobStream(BlobSource):
    """Read a blob ahead of its sender, in a thread of this process if one is free.

    Without a free thread `read` reads from the source itself; so it does until the thread starts.

    Args:
        open_source: Opens the blob; called under the lease of the reading, which ends at `close`.
        lease: Lease to check in waits.
        offset: The bytes of it that are left out.
    """

    def __init__(
        self, open_source: Callable[[], BlobSource], threads: RequestThreads, lease: Lease, offset: int = 0
    ) -> None:
        self.error: StagefleetError | None = None
        self._lease = ChildLease(lease)
        with under_lease(self._lease):
            self._source = open_source()
            if offset:
                self._source.skip(offset)
        self._changed = Condition()
        self._ahead: deque[bytes] = deque()
        self._ahead_bytes = 0
        self._is_reading = False  # in either thread: the source takes one reader at a time
        self._has_thread = self._is_closed = self._has_ended = False
        self._failure: BaseException | None = None
        self._thread: Future[None] = threads.start(self._read_ahead)

    def __len__(self) -> int:
        return len(self._source)

    def __bool__(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, at most `size` of them, b"" at the end; raise as the source does."""
        with self._changed:
            while not self._ahead and not self._has_ended:
                if self._has_thread or self._is_reading:
                    self._changed.wait(SLICE_SECONDS)
                    self._lease.check()
                else:
                    self._read_piece()
            if self._ahead:
                return self._take(size)
            if self._failure is None:
                return b""
            if isinstance(self._failure, StagefleetError):
                self.error = self._failure
            raise self._failure

    def close(self) -> None:
        """Stop reading; return once the reading has ended."""
        self._lease.end()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if not self._thread.cancel():
            self._thread.exception()
        self._source.close()

    def _take(self, size: int) -> bytes:
        piece = self._ahead.popleft()
        if 0 <= size < len(piece):
            self._ahead.appendleft(piece[size:])
            piece = piece[:size]
        self._ahead_bytes -= len(piece)
        self._changed.notify_all()
        return piece

    def _read_ahead(self) -> None:
        with self._changed:
            self._has_thread = True
            while not self._is_closed and not self._has_ended:
                if self._is_reading or self._ahead_bytes >= AHEAD_BYTES:
                    self._changed.wait()
                else:
                    self._read_piece()

    def _read_piece(self) -> None:
        """Read one piece without the lock; its error is raised where the piece would be."""
        self._is_reading = True
        self._changed.release()
        piece, failure = b"", None
        try:
            with under_lease(self._lease):
                piece = self._source.read(CHUNK_BYTES)
        except BaseException as error:  # noqa: BLE001 - raised by `read`, in the thread of the sender
            failure = error
        finally:
            self._changed.acquire()
        self._is_reading = False
        if piece:
            self._ahead.append(piece)
            self._ahead_bytes += len(piece)
        else:
            self._has_ended, self._failure = True, failure
        self._changed.notify_all()


class SourceError(Exception):
    """The source failed in the middle of an upload, not the destination."""

    def __init__(self, cause: StagefleetError) -> None:
        super().__init__()
        self.cause = cause


class UploadSource:
    """The source of one upload, opened for each of its tries.

    Args:
        open_at: Opens it behind a number of bytes; `is_early` if it may have to wait for its sender.
        await_turn: Waits until content may be sent.
    """

    def __init__(self, open_at: Callable[..., BlobSource], await_turn: Callable[[], None]) -> None:
        self._open_at = open_at
        self._await_turn = await_turn
        self._early: BlobSource | None = None
        self._offset = 0
        self._opened: list[BlobSource] = []

    def open_early(self) -> None:
        """Open it for the first try, before it is known that there will be one."""
        self._early = self._open_at(0, is_early=True)

    def open(self) -> BlobSource:
        """Open it as the body of a request; wait until it may be sent."""
        source, self._early = self._early or self._open_at(self._offset, is_early=False), None
        self._opened.append(source)
        self._await_turn()
        source.read(0)  # it answers before the destination reads: both may be one, and hold a lock meanwhile
        return source

    @contextmanager
    def one_try(self, offset: int = 0) -> Iterator[None]:
        """Tell errors of the source from those of the destination, and close the source at the end.

        The try begins behind `offset` bytes.
        """
        self._offset = offset
        if offset:
            self.close()
        try:
            yield
        except StagefleetError as error:
            if any(source.error is error for source in self._opened):
                raise SourceError(error) from None
            raise
        finally:
            for source in self._opened:
                source.close()
            self._opened.clear()

    def close(self) -> None:
        """Close it if it was opened in vain."""
        if self._early is not None:
            self._early.close()
            self._early = None
