"""Layers as they are unpacked: their diff ids (OCI image specification 1.1, "Layer DiffID")."""

from __future__ import annotations

import gzip
import hashlib
import sys
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

from stagefleet.errors import UnreadableContentError
from stagefleet.leases import NO_LEASE, Lease, current_lease
from stagefleet.names import Digest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK_BYTES = 256 * 1024
_ZSTD_OPTIONS: Mapping[int, int] = {zstd.DecompressionParameter.window_log_max: 27}
"""A zstd window has 128 MiB at most, and so the memory of one layer; zstd's own programs admit no more."""
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after one byte of any number (RFC 8878, section 3.1.2)

MOST_UNPACKED_BYTES = 64 * 1024**3
"""Where the unpacking of a layer ends, unless it is large before: some kilobytes may unpack to terabytes."""
_MOST_RATIO = 20


class ByteStream(Protocol):
    """The bytes of a blob, which raises at its end if they are not those of its digest."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, at most `size`, b"" at the end."""


class _Rewound:
    """A stream of which the first bytes were looked at."""

    def __init__(self, first: bytes, stream: ByteStream) -> None:
        self._first = first
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if not self._first:
            return self._stream.read(size)
        size = len(self._first) if size < 0 else size
        piece, self._first = self._first[:size], self._first[size:]
        return piece


def diff_id_of(
    stream: ByteStream, packed_bytes: int, *, lease: Lease = NO_LEASE, most_bytes: int = MOST_UNPACKED_BYTES
) -> Digest:
    """Read a layer to its end, and compute its diff id; it is gzip, zstd or plain.

    The first bytes tell which, and not the media type, as in engines. Memory is bounded, and the lease is
    checked after each chunk.

    Raises:
        UnreadableContentError: It cannot be unpacked, or unpacks to more than `most_bytes` and 20 times its
            size.
        StagefleetError: As the stream raises: an altered layer is told by its digest first.
    """
    first = b""
    while len(first) < len(_ZSTD) and (piece := stream.read(len(_ZSTD) - len(first))):
        first += piece
    limit_bytes = left_bytes = max(most_bytes, _MOST_RATIO * packed_bytes)
    hashed, problem = hashlib.sha256(), ""
    unpacked = _unpacked(first, _Rewound(first, stream))
    try:
        while piece := unpacked.read(_CHUNK_BYTES):
            current_lease(lease).check()
            hashed.update(piece)
            left_bytes -= len(piece)
            if left_bytes < 0:
                problem = f"it unpacks to more than {limit_bytes:,} bytes"
                break
    except (zlib.error, gzip.BadGzipFile, EOFError, zstd.ZstdError) as error:
        problem = f"it cannot be unpacked: {error}"
    while stream.read(_CHUNK_BYTES):
        pass  # at its end it raises if its digest is another
    if problem:
        raise UnreadableContentError(problem)
    return Digest("sha256", hashed.hexdigest())


def _unpacked(first: bytes, stream: Any) -> ByteStream:
    """Unpack a stream that begins with some bytes."""
    if first.startswith(_GZIP):
        return gzip.GzipFile(fileobj=stream, mode="rb")
    if first == _ZSTD or first[1:] == _ZSTD_SKIPPABLE:
        return zstd.ZstdFile(stream, options=_ZSTD_OPTIONS)
    plain: ByteStream = stream
    return plain
