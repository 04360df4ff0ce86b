"""What the headers of an answer say, from servers that nobody vouches for."""

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
    """The length of the body, None where it is not told; beyond all bounds it is 10 to the 18th."""
    told = headers.get("Content-Length", "").strip()
    if _NUMBER.fullmatch(told) is None or not told.isascii():
        return None
    digits = told.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def content_digest(headers: Mapping[str, str]) -> Digest | None:
    """The digest that `Docker-Content-Digest` tells, None where it tells none that can be."""
    return _digest(headers.get("Docker-Content-Digest", ""))


def media_type(headers: Mapping[str, str]) -> str:
    """The media type, without parameters, where it says what kind of manifest it is; "" else.

    `application/json`, `text/plain` and the like are what servers and gateways say of anything.
    """
    told = headers.get("Content-Type", "").partition(";")[0].strip()
    return told if _TELLING.fullmatch(told) else ""


def check_stored(headers: Mapping[str, str], what: str, sent: Digest, content: bytes | None = None) -> None:
    """Compare what a registry says it stored with what it was sent ("Pushing Manifests", "Pushing blobs").

    Args:
        headers: Of the answer to the PUT, or to the POST that mounted.
        what: What was sent, for a person.
        sent: Its digest.
        content: Its content, for where the answer tells a digest by another algorithm.

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
    """The digests that an answer names: by its own header, and as the end of where it can be pulled."""
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
