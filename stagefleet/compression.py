"""Compression of the JSON that Redis holds by the million.

Descriptions are about a kilobyte of JSON each, with similar keys and labels. A preset dictionary reduces
them to less than half.
"""

from __future__ import annotations

import zlib

_COMPRESSED_FROM_BYTES = 200
_LEVEL = 6
# Text common to descriptions and outcomes, the most frequent last (RFC 1950, section 2.2, FDICT).
_DICTIONARY = (
    b'"error":{"type":"RegistryUnavailableError","message":"'
    b'"labels":{"org.opencontainers.image.":"werf.io/base-image-id":"werf-stage-content-digest":"werf-version":"'
    b'"werf":"project","werf.io/parent-stage-id":"werf-project-repo-commit":"'
    b'"env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"size":'
    b'{"item":"","state":"succeeded","result":{"stage_id":"","digest":"","created_ms":17,"name":"",'
    b'"repo_digest":"@sha256:","image_id":"sha256:","parent_id":"sha256:","labels":{},"env":[],"size":,'
    b'"created_at":"2026-T00:00:00+00:00"},"seconds":0.,"bytes":,"attempts":1}'
)


def compress_json(document: bytes) -> bytes:
    """Compress a JSON object, if that makes it smaller."""
    if len(document) < _COMPRESSED_FROM_BYTES:
        return document
    packer = zlib.compressobj(_LEVEL, zdict=_DICTIONARY)
    return packer.compress(document) + packer.flush()


def decompress_json(data: bytes) -> bytes:
    """Restore a JSON object that `compress_json` returned.

    Raises:
        ValueError: The data is not from `compress_json`.
    """
    if data.startswith(b"{"):
        return data
    unpacker = zlib.decompressobj(zdict=_DICTIONARY)
    try:
        return unpacker.decompress(data) + unpacker.flush()
    except zlib.error as error:
        raise ValueError(str(error)) from error
