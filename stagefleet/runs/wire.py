"""Outcomes and reasons as they lie in Redis."""

from __future__ import annotations

import json

from stagefleet.packing import pack, unpack
from stagefleet.runs.model import ErrorInfo, ItemState, Outcome
from stagefleet.runs.versions import WriterVersion
from stagefleet.runs.waits import WaitReason

__all__ = ["decode_outcome", "encode_outcome", "encode_reason"]


def encode_outcome(outcome: Outcome) -> bytes:
    """The outcome without its position."""
    return pack(outcome.model_dump_json(exclude={"position"}, exclude_defaults=True).encode())


def decode_outcome(data: bytes, position: str) -> Outcome:
    """Read the outcome at a position of the stream; one of another form is given as a failure that says so.

    Whatever it says, the ledger has counted it, and those behind it are to be read.
    """
    try:
        return Outcome.model_validate_json(unpack(data)).model_copy(update={"position": position})
    except ValueError:
        problem = WriterVersion().refusal("an outcome", "it is of another form")
        return Outcome(
            item=_item_of(data), state=ItemState.FAILED, error=ErrorInfo.of(problem), position=position
        )


def _item_of(data: bytes) -> str:
    """Find the item of an outcome that is of another form."""
    try:
        item = json.loads(unpack(data))["item"]
    except (ValueError, KeyError, TypeError):
        return "?"
    return item if isinstance(item, str) else "?"


def encode_reason(reason: WaitReason | None) -> str:
    """Write the reason of a wait, of bounded size; "" for none."""
    return "" if reason is None else reason.bounded().model_dump_json()
