"""Outcomes as they lie in the stream: compact JSON, compressed where that pays.

A description is a kilobyte of JSON whose keys and labels are much alike; with a dictionary known to both
sides it takes about half, which keeps a run of many stages under its bound in Redis.
"""

from __future__ import annotations

import zlib

from stagefleet.runs.model import Outcome

__all__ = ["decode_outcome", "encode_outcome"]

_COMPRESSED_FROM_BYTES = 200
_LEVEL = 6
# What outcomes have in common, the most frequent last (RFC 1950, section 2.2, FDICT).
_DICTIONARY = (
    b'"error":{"type":"RegistryUnavailableError","message":"'
    b'"labels":{"org.opencontainers.image.":"werf.io/base-image-id":"werf-stage-content-digest":"werf-version":"'
    b'"werf":"project","werf.io/parent-stage-id":"werf-project-repo-commit":"'
    b'"env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"size":'
    b'{"item":"","state":"succeeded","result":{"stage_id":"","digest":"","created_ms":17,"name":"",'
    b'"repo_digest":"@sha256:","image_id":"sha256:","parent_id":"sha256:","labels":{},"env":[],"size":,'
    b'"created_at":"2026-T00:00:00+00:00"},"seconds":0.,"bytes":,"attempts":1}'
)


def encode_outcome(outcome: Outcome) -> bytes:
    """The outcome without its position."""
    raw = outcome.model_dump_json(exclude={"position"}, exclude_defaults=True).encode()
    if len(raw) < _COMPRESSED_FROM_BYTES:
        return raw
    packer = zlib.compressobj(_LEVEL, zdict=_DICTIONARY)
    return packer.compress(raw) + packer.flush()


def decode_outcome(data: bytes, position: str) -> Outcome:
    """The outcome at a position of the stream."""
    if not data.startswith(b"{"):
        unpacker = zlib.decompressobj(zdict=_DICTIONARY)
        data = unpacker.decompress(data) + unpacker.flush()
    return Outcome.model_validate_json(data).model_copy(update={"position": position})
