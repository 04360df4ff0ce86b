"""Sizes of the chunks in which blobs go through gateways that limit a request's body.

OCI distribution specification 1.1, "Pushing a blob in chunks". nginx allows 1 MiB if nobody says otherwise,
Cloudflare 100 MB; a larger body is answered 413. `OCI-Chunk-Max-Length` is what registries propose to say
(distribution-spec #485), `OCI-Chunk-Min-Length` what they may say.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

from stagefleet.registry.http.transport import Body
from stagefleet.settings import Settings

_KIB = 1024
_SIZES = (4096 * _KIB, 1024 * _KIB, 512 * _KIB, 64 * _KIB)
"""Sizes that are tried in turn; a chunk is held in memory, as it may have to be sent again with a login."""
_MOST_HOSTS = 1024
_MOST_DIGITS = 12


class ChunkSizes:
    """Largest bodies that registries take, learned by this process or set."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._learned: dict[str, int] = {}

    def limit(self, host: str) -> int | None:
        """Return the largest body for a registry in bytes; None if no limit is known."""
        return self._learned.get(host) or self._settings.registry(host).chunk_bytes

    def note(self, host: str, headers: Mapping[str, str]) -> None:
        """Learn the limit that a response names."""
        told = headers.get("OCI-Chunk-Max-Length", "").strip()
        if told.isascii() and told.isdigit() and len(told) <= _MOST_DIGITS and int(told) >= _SIZES[-1]:
            self._learn(host, min(int(told), _SIZES[0]))

    def shrink(self, host: str) -> bool:
        """Learn from a body that was too large; return False if no smaller one is left to try."""
        limit = self.limit(host)
        smaller = next((size for size in _SIZES if limit is None or size < limit), None)
        if smaller is not None:
            self._learn(host, smaller)
        return smaller is not None

    def _learn(self, host: str, size: int) -> None:
        if len(self._learned) >= _MOST_HOSTS:
            self._learned.clear()
        self._learned[host] = size


def read_chunk(source: Body | io.BytesIO, size: int) -> bytes:
    """Read `size` bytes, fewer at the end."""
    pieces, left = [], size
    while left and (piece := source.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
