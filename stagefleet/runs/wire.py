"""Outcomes and reasons as they lie in Redis."""

from __future__ import annotations

from stagefleet.packing import pack, unpack
from stagefleet.runs.model import Outcome
from stagefleet.runs.waits import WaitReason

__all__ = ["decode_outcome", "encode_outcome", "encode_reason"]


def encode_outcome(outcome: Outcome) -> bytes:
    """The outcome without its position."""
    return pack(outcome.model_dump_json(exclude={"position"}, exclude_defaults=True).encode())


def decode_outcome(data: bytes, position: str) -> Outcome:
    """The outcome at a position of the stream."""
    return Outcome.model_validate_json(unpack(data)).model_copy(update={"position": position})


def encode_reason(reason: WaitReason | None) -> str:
    """Write the reason of a wait, of bounded size; "" for none."""
    return "" if reason is None else reason.bounded().model_dump_json()
