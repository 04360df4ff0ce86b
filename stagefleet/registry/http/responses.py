"""Responses of registries, which are untrusted: parsers of headers, and bodies with limits."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from http.client import IncompleteRead
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from stagefleet import errors
from stagefleet.manifests import digest_of
from stagefleet.names import Digest
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.content_encoding import Decoder, is_encoded
from stagefleet.registry.http.transport import map_http_errors
from stagefleet.registry.http.waits import YEAR_SECONDS, Deadline, bounding

_NUMBER = re.compile(r"[0-9]+")
_MOST_DIGITS = 18
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})(?:/([0-9]{1,18}|\*))?", re.IGNORECASE)
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_TELLING = re.compile(r"application/vnd\.[a-z0-9][a-z0-9.+_-]*", re.IGNORECASE)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the length of the body in bytes, None if there is none; absurd values become 10 to the 18th."""
    told = headers.get("Content-Length", "").strip()
    if _NUMBER.fullmatch(told) is None or not told.isascii():
        return None
    digits = told.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


class ContentRange(NamedTuple):
    """The part of a body that a 206 has: its first byte, the byte after it, and the whole size, if told."""

    start: int
    end: int
    size: int | None


def content_range(headers: Mapping[str, str]) -> ContentRange | None:
    """Return the range of a part, None if it is missing or malformed (RFC 9110, section 14.4)."""
    found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if found is None or int(found[2]) < int(found[1]):
        return None
    size = found[3] or "*"
    return ContentRange(int(found[1]), int(found[2]) + 1, None if size == "*" else int(size))


def content_digest(headers: Mapping[str, str]) -> Digest | None:
    """Return the digest in `Docker-Content-Digest`, None if it is missing or malformed."""
    return _digest(headers.get("Docker-Content-Digest", ""))


def media_type(headers: Mapping[str, str]) -> str:
    """Return the media type without parameters if it names a kind of manifest, else "".

    Servers and gateways send `application/json`, `text/plain` and the like for anything.
    """
    told = headers.get("Content-Type", "").partition(";")[0].strip()
    return told if _TELLING.fullmatch(told) else ""


def is_page(headers: Mapping[str, str]) -> bool:
    """Return True for a page of HTML, unless a registry has no better name for what it sends."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower() in _PAGES


def refuse_page(response: requests.Response, subject: str) -> None:
    """Raise `RegistryUnavailableError` if a response is a page of HTML: it proves nothing about `subject`.

    Login pages, portals and web sites are answered with 200, too (goharbor/harbor #23882). Call it for what
    is not the expected content, which may be HTML itself.
    """
    if not is_page(response.headers):
        return
    response.close()
    raise errors.RegistryUnavailableError(
        f"{subject}: {urlsplit(response.url).netloc} answered with a page of HTML: is it a registry, or does "
        "what stands before it want a login?",
        status=response.status_code,
    )


def check_length(response: requests.Response, expected: int, digest: Digest) -> None:
    """Raise `DigestMismatchError` if a response says that a blob has another size; some say 0 for any.

    `RegistryUnavailableError` if it is a page of HTML, unless that has the very size. What a cache may have
    compressed has any size.
    """
    told = _stated_size(response)
    if told == expected:
        return
    refuse_page(response, f"blob {digest}")
    if told not in {None, 0} and not is_encoded(response.headers):
        raise errors.DigestMismatchError(
            f"the source says that {digest} has {told} bytes, its manifest {expected}"
        )


def _stated_size(response: requests.Response) -> int | None:
    """Return the size of a blob that a response, or a part of it, tells; None if it does not."""
    if response.status_code != requests.codes.partial_content:
        return content_length(response.headers)
    part = content_range(response.headers)
    return None if part is None else part.size


def check_stored(headers: Mapping[str, str], what: str, sent: Digest, content: bytes | None = None) -> None:
    """Compare the digest that a registry says it stored with that of what was pushed; `StoredDigestError`.

    The headers are of the response to the PUT, or to the POST that mounted ("Pushing Manifests", "Pushing
    blobs"); `what` is the pushed object, for messages, `sent` its digest. `content` is needed if the response
    may name a digest of another algorithm.
    """
    for told in _stored(headers):
        expected = sent
        if told.algorithm != sent.algorithm:
            if content is None:
                continue
            expected = digest_of(content, told.algorithm)
        if told != expected:
            raise errors.StoredDigestError(
                f"{what}: the registry says that it stored {told}, and was sent {expected}: it, or what "
                "stands before it, changes what is pushed; a copy there would be another image",
                found=str(told),
            )


def _stored(headers: Mapping[str, str]) -> Iterator[Digest]:
    """Yield the digests that a response names: in `Docker-Content-Digest`, and at the end of `Location`."""
    told = content_digest(headers)
    if told is not None:
        yield told
    try:
        path = urlsplit(headers.get("Location", "")).path
    except ValueError:
        return
    told = _digest(unquote(path.rpartition("/")[2]))
    if told is not None:
        yield told


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text.strip())
    except errors.InvalidNameError:
        return None


# Parser of the `Link` header: the next page of a list (RFC 8288, section 3).

_LIMIT_CHARACTERS = 64 * 1024  # more than any HTTP library lets through in one header line

# Possessive quantifiers: the text is untrusted, so no pattern may backtrack. They
# follow single characters alone: after a group, Python before 3.11.5 matches wrongly (python/cpython#106052).
_RECEIVED = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_TARGET = re.compile(r"[ \t,]*+<([^<>]*+)>")
_PARAMETER = re.compile(
    r"[ \t]*+;[ \t]*+(?:([!#$%&'*+.^_`|~0-9A-Za-z-]++)"
    r'[ \t]*+(?:=[ \t]*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*)"|([^\s",;]*+)))?)?'
)


def received_bytes(headers: Mapping[str, str]) -> int:
    """Return how many bytes an upload has, from its `Range: 0-LAST`; 0 if that is not said.

    OCI distribution specification 1.1, "Pushing a blob in chunks". An upload with nothing in it says `0-0`,
    as one with a single byte does. Some write `bytes=0-LAST`, as RFC 9110 does.
    """
    found = _RECEIVED.fullmatch(headers.get("Range", "").strip())
    last = int(found[1]) if found else 0
    return last + 1 if last else 0


def next_link(header: str) -> str | None:
    """Return the target of the first link with the relation `next`, None if there is none.

    A parameter never replaces the target, whatever its name; the first of a repeated `rel` counts.
    """
    header, position = header[:_LIMIT_CHARACTERS], 0
    while (target := _TARGET.match(header, position)) is not None:
        position = target.end()
        relation = None
        while (parameter := _PARAMETER.match(header, position)) is not None:
            position = parameter.end()
            name, quoted, token = parameter.groups()
            if relation is None and name is not None and name.lower() == "rel":
                relation = quoted if quoted is not None else token or ""
        if relation is not None and "next" in relation.lower().split():
            return target[1]
        comma = header.find(",", position)
        if comma < 0:
            return None
        position = comma
    return None


# Parser of `Retry-After`: the wait that a server asks for (RFC 9110, 10.2.3), in its many variants.

# Some send fractions, and proxies join the headers of two servers by a comma: the first counts.
_SECONDS = re.compile(r"(?P<whole>[0-9]+)(?P<fraction>\.[0-9]+)?\s*(?:,.*)?", re.DOTALL)
_MOST_SECONDS_DIGITS = 20
_UNITS = (1, 10**3, 10**6, 10**9)
"""Units per second of timestamps: Docker Hub sends seconds (hub-feedback #2459), others milliseconds."""
_NEVER_SECONDS = 1e10
"""Upper limit: three centuries, small enough that sums of pauses do not overflow."""
_NEAR_SECONDS = 10 * YEAR_SECONDS
"""A longer wait is a timestamp instead, if as a timestamp it is nearer than this."""


def retry_after_seconds(
    headers: Mapping[str, str], *, clock: Callable[[], float] = time.time
) -> float | None:
    """Read how long a response asks to wait: 0 to 1e10 s; None if the header is missing or malformed.

    A date, and a number that can only be a timestamp, count from the response's own `Date`: the two clocks
    may differ. `clock` returns seconds since 1970, for a response without a `Date`.
    """
    value = headers.get("Retry-After", "").strip()
    number = _SECONDS.fullmatch(value)
    if number is None:
        until = _since_1970(value)
        return None if until is None else _bounded(until - _now(headers, clock))
    digits = number["whole"].lstrip("0")
    if len(digits) > _MOST_SECONDS_DIGITS:
        return _NEVER_SECONDS  # int() refuses thousands of digits
    seconds = int(digits or 0) + float(number["fraction"] or 0)
    if seconds <= _NEAR_SECONDS:
        return seconds
    now = _now(headers, clock)
    near = (seconds / unit - now for unit in _UNITS if abs(seconds / unit - now) <= _NEAR_SECONDS)
    return _bounded(next(near, seconds))


def _now(headers: Mapping[str, str], clock: Callable[[], float]) -> float:
    sent_at = _since_1970(headers.get("Date", ""))
    return clock() if sent_at is None else sent_at


def _since_1970(date: str) -> float | None:
    """Parse an HTTP date (RFC 9110, 5.6.7), in UTC even if it does not say so."""
    try:
        parsed = email.utils.parsedate_to_datetime(date)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), _NEVER_SECONDS)


# Response bodies: read as they arrive, with limits for size and time.

SMALL_RATE = 128 * 1024
"""Bytes per second that a body read as a whole must reach, besides the time-out."""
_SILENT_SECONDS = 60.0
_LEAST_BYTES = 64 * 1024
"""Bytes that a streamed body must deliver within `_SILENT_SECONDS`; less counts as silence."""
_PACKED_MORE_BYTES = 64 * 1024
"""Bytes that a packed body may be larger than what it unpacks to."""


class TooManyBytesError(Exception):
    """A body is larger than its limit."""


class ResponseBody:
    """A response body, read in chunks.

    A small one must arrive as a whole in the time of one phase, plus its bytes at 128 KiB a second; else
    each chunk has that time. `was_cut_short` is True if the server closed the connection in the middle.
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

        So a caller can check its lease even if the body arrives slowly. `RegistryUnreachableError` if it was
        cut short, or the connection broke, was silent or too slow.
        """
        raw: Any = self._response.raw
        if getattr(raw, "has_ended", False):
            return b""  # the common last read of a body
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
        if self._waited_seconds > _SILENT_SECONDS:
            if piece and self._came_bytes < _LEAST_BYTES:
                self._response.close()
                host = urlsplit(self._response.url).netloc
                raise errors.RegistryUnreachableError(
                    f"{host} sends {self._came_bytes} bytes "
                    f"in {self._waited_seconds:.0f} s, which is too slow to wait for",
                    host=host,
                )
            self._waited_seconds, self._came_bytes = 0.0, 0
        return piece


class DecodedBody(ResponseBody):
    """A response body, unpacked if a cache has compressed it though nobody asked for that.

    What it unpacks to has `size_bytes`: it ends where it is packed into much more than that.
    """

    def __init__(self, response: requests.Response, size_bytes: int, *, is_small: bool = False) -> None:
        super().__init__(response, is_small=is_small)
        self._decoder = Decoder(response)
        self._left = size_bytes + _PACKED_MORE_BYTES

    def read(self, size: int) -> bytes:
        """Return bytes as `ResponseBody.read` does, unpacked."""
        while True:
            came = self._decoder.rest
            if not came and self._left:
                came = super().read(min(size, self._left))
                self._left -= len(came)
            piece = self._decoder.decode(came, size)
            if piece or not came:
                return piece


def read_all(response: requests.Response, limit_bytes: int) -> bytes | None:
    """Read a response's body to its end, so that the connection can be reused.

    A body larger than the limit is None, and closes the connection.
    """
    try:
        return b"".join(pieces_of(response, limit_bytes))
    except TooManyBytesError:
        return None


def pieces_of(response: requests.Response, limit_bytes: int) -> Iterator[bytes]:
    """Yield the chunks of a response's body to its end, under the time limit of a small body.

    One that a cache has compressed, though nobody asked for that, is unpacked. `TooManyBytesError` if it is
    larger than the limit, packed or not; the connection is closed.
    """
    incoming, left, unpacked_left = ResponseBody(response, is_small=True), limit_bytes, limit_bytes
    decoder = Decoder(response)
    while piece := incoming.read(min(CHUNK_BYTES, left + 1)):  # its end frees the connection
        left -= len(piece)
        piece = decoder.decode(piece, unpacked_left + 1)
        unpacked_left -= len(piece)
        if left < 0 or unpacked_left < 0:
            response.close()
            raise TooManyBytesError(f"more than {limit_bytes} bytes")
        yield piece
    response.raw.release_conn()
