"""Parsers for response headers, from untrusted servers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit

from stagefleet.errors import InvalidNameError, StoredDigestError
from stagefleet.names import Digest
from stagefleet.registry.manifests import digest_of

__all__ = ["check_stored", "content_digest", "content_length", "media_type"]

_NUMBER = re.compile(r"[0-9]+")
_MOST_DIGITS = 18
_TELLING = re.compile(r"application/vnd\.[a-z0-9][a-z0-9.+_-]*", re.IGNORECASE)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the length of the body in bytes, None if there is none; absurd values become 10 to the 18th."""
    told = headers.get("Content-Length", "").strip()
    if _NUMBER.fullmatch(told) is None or not told.isascii():
        return None
    digits = told.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def content_digest(headers: Mapping[str, str]) -> Digest | None:
    """Return the digest in `Docker-Content-Digest`, None if it is missing or malformed."""
    return _digest(headers.get("Docker-Content-Digest", ""))


def media_type(headers: Mapping[str, str]) -> str:
    """Return the media type without parameters if it names a kind of manifest, else "".

    Servers and gateways send `application/json`, `text/plain` and the like for anything.
    """
    told = headers.get("Content-Type", "").partition(";")[0].strip()
    return told if _TELLING.fullmatch(told) else ""


def check_stored(headers: Mapping[str, str], what: str, sent: Digest, content: bytes | None = None) -> None:
    """Compare the digest that a registry says it stored with the digest of what was pushed.

    Specification: "Pushing Manifests", "Pushing blobs".

    Args:
        headers: Headers of the response to the PUT, or to the POST that mounted.
        what: The pushed object, for messages.
        sent: Its digest.
        content: Its content, if the response may name a digest of another algorithm.

    Raises:
        StoredDigestError: The registry names another digest.
    """
    for told in _stored(headers):
        expected = sent
        if told.algorithm != sent.algorithm:
            if content is None:
                continue
            expected = digest_of(content, told.algorithm)
        if told != expected:
            raise StoredDigestError(
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
    except InvalidNameError:
        return None
