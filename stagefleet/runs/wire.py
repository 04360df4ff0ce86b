"""Outcomes as they lie in the stream, packed."""

from __future__ import annotations

from stagefleet.packing import pack, unpack
from stagefleet.runs.model import Outcome

__all__ = ["decode_outcome", "encode_outcome"]


def encode_outcome(outcome: Outcome) -> bytes:
    """The outcome without its position."""
    return pack(outcome.model_dump_json(exclude={"position"}, exclude_defaults=True).encode())


def decode_outcome(data: bytes, position: str) -> Outcome:
    """The outcome at a position of the stream."""
    return Outcome.model_validate_json(unpack(data)).model_copy(update={"position": position})
