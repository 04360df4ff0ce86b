"""Bodies that a cache has compressed, though requests ask for `identity` (RFC 9110, "Content Codings")."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from urllib.parse import urlsplit

import requests

from stagefleet.errors import RegistryUnreachableError

_GZIP_BITS = 16 + zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"


def is_encoded(headers: Mapping[str, str]) -> bool:
    """Return True if a response says that its body is gzip."""
    return headers.get("Content-Encoding", "").strip().lower() in {"gzip", "x-gzip"}


class Decoder:
    """Unpack a body as its chunks come; leave one as it is that is called gzip and is none."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self._packed = zlib.decompressobj(_GZIP_BITS) if is_encoded(response.headers) else None
        self._has_begun = False

    @property
    def rest(self) -> bytes:
        """The bytes that came and are not unpacked yet."""
        return b"" if self._packed is None else self._packed.unconsumed_tail

    def decode(self, piece: bytes, most: int) -> bytes:
        """Unpack the next chunk, to so many bytes at most; `RegistryUnreachableError` if it is damaged."""
        if not self._has_begun and not piece.startswith(_GZIP_MAGIC[: len(piece)]):
            self._packed = None
        self._has_begun = True
        if self._packed is None:
            return piece
        try:
            return self._packed.decompress(piece, most)
        except zlib.error:
            self._response.close()
            host = urlsplit(self._response.url).netloc
            raise RegistryUnreachableError(f"{host} sends gzip that cannot be unpacked", host=host) from None
