"""Outcomes and reasons as they lie in Redis."""

from __future__ import annotations

import json

from stagefleet.bounds import OUTCOME_BYTES, fit
from stagefleet.packing import pack, unpack
from stagefleet.runs.model import ErrorInfo, ItemState, Outcome
from stagefleet.runs.versions import WriterVersion
from stagefleet.runs.waits import WaitReason

__all__ = ["bounded", "decode_outcome", "encode_outcome", "encode_reason"]


def encode_outcome(outcome: Outcome) -> bytes:
    """Write an outcome without its position, of bounded size.

    Raises:
        ValueError: It holds what cannot be encoded.
    """
    document = _json(outcome)
    return pack(document if len(document) <= OUTCOME_BYTES else _json(_cut(outcome)))


def bounded(outcome: Outcome) -> Outcome:
    """Cut an outcome to what a ledger keeps, `OUTCOME_BYTES` of JSON; one that is small stays as it is.

    Raises:
        ValueError: It holds what cannot be encoded.
    """
    return outcome if len(_json(outcome)) <= OUTCOME_BYTES else _cut(outcome)


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


def _cut(outcome: Outcome) -> Outcome:
    error = None if outcome.error is None else outcome.error.bounded()
    cut = outcome.model_copy(update={"error": error})
    if outcome.result is None:
        return cut
    frame = len(_json(cut.model_copy(update={"result": {}})))
    return cut.model_copy(update={"result": fit(outcome.result, OUTCOME_BYTES - frame)})


def _json(outcome: Outcome) -> bytes:
    return outcome.model_dump_json(exclude={"position"}, exclude_defaults=True).encode()
