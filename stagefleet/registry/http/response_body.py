"""Response bodies: read as they arrive, with limits for size and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.client import IncompleteRead
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from stagefleet.errors import RegistryUnreachableError
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.deadline import Deadline, bounding
from stagefleet.registry.http.transport import map_http_errors

SMALL_RATE = 128 * 1024
"""Bytes per second that a body read as a whole must reach, besides the time-out."""
_PATIENCE_SECONDS = 60.0
_LEAST_BYTES = 64 * 1024
"""Bytes that a streamed body must deliver within `_PATIENCE_SECONDS`; less counts as silence."""


class TooManyBytesError(Exception):
    """A body is larger than its limit."""


class ResponseBody:
    """A response body, read in chunks.

    Args:
        response: The response.
        is_small: True if the whole body must arrive in the time of one phase, plus its bytes at 128 KiB a
            second; else each chunk has that time.
        clock: A monotonic clock, in seconds.

    Attributes:
        was_cut_short: True if the server closed the connection in the middle of the body.
    """

    def __init__(
        self,
        response: requests.Response,
        *,
        is_small: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._response = response
        self._deadline: Deadline | None = getattr(response, "deadline", None)
        self._is_small = is_small
        if self._deadline is not None and is_small:
            self._deadline.begin_body()
        self._clock = clock
        self._waited_seconds = 0.0
        self._came_bytes = 0
        self.was_cut_short = False

    def read(self, size: int) -> bytes:
        """Return the bytes that have arrived, at most `size`, b"" at the end; wait only if there are none.

        So a caller can check its lease even if the body arrives slowly.

        Raises:
            RegistryUnreachableError: The body was cut short, or the connection broke, was silent or too slow.
        """
        raw: Any = self._response.raw
        asked_at = self._clock()
        if self._deadline is not None and not self._is_small:
            self._deadline.begin_body("a piece of its body")
        with map_http_errors(self._response.url), bounding(self._deadline):
            try:
                piece: bytes = raw.read1(size)
            except urllib3.exceptions.ProtocolError as error:
                self.was_cut_short = any(isinstance(inner, IncompleteRead) for inner in error.args)
                raise
        self._waited_seconds += self._clock() - asked_at
        self._came_bytes += len(piece)
        if self._deadline is not None and self._is_small:
            self._deadline.extend(len(piece) / SMALL_RATE)
        if self._waited_seconds > _PATIENCE_SECONDS:
            if piece and self._came_bytes < _LEAST_BYTES:
                self._response.close()
                host = urlsplit(self._response.url).netloc
                raise RegistryUnreachableError(
                    f"{host} sends {self._came_bytes} bytes "
                    f"in {self._waited_seconds:.0f} s, which is too slow to wait for",
                    host=host,
                )
            self._waited_seconds, self._came_bytes = 0.0, 0
        return piece


def read_all(response: requests.Response, limit_bytes: int) -> bytes | None:
    """Read a response's body to its end, so that the connection can be reused.

    Returns:
        The body, or None if it is larger than the limit; then the connection is closed.
    """
    try:
        return b"".join(pieces_of(response, limit_bytes))
    except TooManyBytesError:
        return None


def pieces_of(response: requests.Response, limit_bytes: int) -> Iterator[bytes]:
    """Yield the chunks of a response's body to its end, under the time limit of a small body.

    Raises:
        TooManyBytesError: The body is larger than the limit; the connection is closed.
    """
    incoming, left = ResponseBody(response, is_small=True), limit_bytes
    while piece := incoming.read(min(CHUNK_BYTES, left + 1)):  # its end frees the connection
        left -= len(piece)
        if left < 0:
            response.close()
            raise TooManyBytesError(f"more than {limit_bytes} bytes")
        yield piece
    response.raw.release_conn()
