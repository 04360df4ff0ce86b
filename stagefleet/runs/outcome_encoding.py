"""Encoding of outcomes and reasons in Redis."""

from __future__ import annotations

import json

from stagefleet.bounds import OUTCOME_BYTES, fit
from stagefleet.compression import compress_json, decompress_json
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome
from stagefleet.runs.versions import WriterVersion
from stagefleet.runs.waits import WaitReason

__all__ = ["bounded", "decode_outcome", "encode_outcome", "encode_reason"]


def encode_outcome(outcome: Outcome) -> bytes:
    """Encode an outcome without its position, in bounded size.

    Raises:
        ValueError: It holds values that cannot be encoded.
    """
    document = _json(outcome)
    return compress_json(document if len(document) <= OUTCOME_BYTES else _json(_cut(outcome)))


def bounded(outcome: Outcome) -> Outcome:
    """Shorten an outcome to the stored size, `OUTCOME_BYTES` of JSON; a small one stays unchanged.

    Raises:
        ValueError: It holds values that cannot be encoded.
    """
    return outcome if len(_json(outcome)) <= OUTCOME_BYTES else _cut(outcome)


def decode_outcome(data: bytes, position: str) -> Outcome:
    """Decode the outcome at a position of the stream; an unknown form becomes a failure that says so.

    The ledger has counted it in any case, and later outcomes must stay readable.
    """
    try:
        return Outcome.model_validate_json(decompress_json(data)).model_copy(update={"position": position})
    except ValueError:
        problem = WriterVersion().refusal("an outcome", "it is of another form")
        return Outcome(
            item=_item_of(data), state=ItemState.FAILED, error=ErrorInfo.of(problem), position=position
        )


def _item_of(data: bytes) -> str:
    """Find the item of an outcome in an unknown form."""
    try:
        item = json.loads(decompress_json(data))["item"]
    except (ValueError, KeyError, TypeError):
        return "?"
    return item if isinstance(item, str) else "?"


def encode_reason(reason: WaitReason | None) -> str:
    """Encode the reason of a wait, in bounded size; "" for none."""
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
