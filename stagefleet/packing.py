"""What is kept in Redis by the million: JSON, compressed where that pays.

A description is a kilobyte of JSON whose keys and labels are much alike; with a dictionary known to both
sides it takes less than half.
"""

from __future__ import annotations

import zlib

__all__ = ["pack", "unpack"]

_COMPRESSED_FROM_BYTES = 200
_LEVEL = 6
# What descriptions and outcomes have in common, the most frequent last (RFC 1950, section 2.2, FDICT).
_DICTIONARY = (
    b'"error":{"type":"RegistryUnavailableError","message":"'
    b'"labels":{"org.opencontainers.image.":"werf.io/base-image-id":"werf-stage-content-digest":"werf-version":"'
    b'"werf":"project","werf.io/parent-stage-id":"werf-project-repo-commit":"'
    b'"env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"size":'
    b'{"item":"","state":"succeeded","result":{"stage_id":"","digest":"","created_ms":17,"name":"",'
    b'"repo_digest":"@sha256:","image_id":"sha256:","parent_id":"sha256:","labels":{},"env":[],"size":,'
    b'"created_at":"2026-T00:00:00+00:00"},"seconds":0.,"bytes":,"attempts":1}'
)


def pack(document: bytes) -> bytes:
    """A JSON object as it is kept."""
    if len(document) < _COMPRESSED_FROM_BYTES:
        return document
    packer = zlib.compressobj(_LEVEL, zdict=_DICTIONARY)
    return packer.compress(document) + packer.flush()


def unpack(data: bytes) -> bytes:
    """The JSON object that was packed.

    Raises:
        ValueError: It was not.
    """
    if data.startswith(b"{"):
        return data
    unpacker = zlib.decompressobj(zdict=_DICTIONARY)
    try:
        return unpacker.decompress(data) + unpacker.flush()
    except zlib.error as error:
        raise ValueError(str(error)) from error
