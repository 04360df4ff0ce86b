"""Data of runs in Redis: parsers for a run's hash, and the encoding of outcomes."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from stagefleet import errors
from stagefleet.bounds import OUTCOME_BYTES, compress_json, decompress_json, fit
from stagefleet.redis_client import RedisScripts
from stagefleet.runs import models
from stagefleet.runs.versions import WriterVersion

# Parsers for a run's hash in Redis; `lua/open.lua` explains its fields.


class RunSnapshot(NamedTuple):
    """Data beside a run's hash, as `lua/snapshot.lua` returns it; times in ms since 1970, 0 for none."""

    claimed: int
    published: int
    waiting: int  # for a retry
    behind: int  # another item
    leased_until_ms: int
    retry_at_ms: int
    call_at_ms: int  # of the next message to a coordinator


def read_runs(scripts: RedisScripts, run_ids: Sequence[str]) -> list[models.Run]:
    """Read the states of runs at one moment, in one call; leave out those that do not exist."""
    now_ms, *rows = scripts.call("snapshot", *run_ids)
    return [
        run_of(
            run_id,
            dict(zip(hash_[::2], hash_[1::2], strict=True)),
            now_ms / 1000,
            RunSnapshot(*(int(float(value)) for value in around)),
        )
        for run_id, (hash_, *around) in zip(run_ids, rows, strict=True)
        if hash_
    ]


def spec_of(run_id: str, written: bytes, parent: bytes | None, version: WriterVersion) -> models.RunSpec:
    """Parse the spec, with the parent that the ledger gave the run; raises as `WriterVersion.check`."""
    version.check(f"run {run_id}")
    try:
        parsed = models.RunSpec.model_validate_json(written)
        return parsed.model_copy(update={"parent": parent.decode()}) if parent else parsed
    except ValueError as error:
        raise version.refusal(f"run {run_id}", "its spec is of another form") from error


def run_of(run_id: str, fields: dict[bytes, bytes], now_at: float, around: RunSnapshot) -> models.Run:
    """Parse the run at `now_at`, in seconds since 1970; `UNREADABLE` if its release is incompatible."""
    version = WriterVersion.read(fields.get(b"release"), fields.get(b"schema"))
    try:
        spec = spec_of(run_id, fields.get(b"order", b""), fields.get(b"parent"), version)
        return replace(_read(run_id, spec, fields, now_at, around), version=version)
    except errors.IncompatibleVersionError as error:
        problem = error
    except (KeyError, ValueError):
        problem = version.refusal(f"run {run_id}", "its fields are of another form")
    return models.Run(
        id=run_id,
        spec=models.RunSpec(operation="unreadable"),
        state=models.RunState.UNREADABLE,
        error=models.ErrorInfo.of(problem),
        version=version,
    )


def _read(
    run_id: str, spec: models.RunSpec, fields: dict[bytes, bytes], now_at: float, around: RunSnapshot
) -> models.Run:
    def number(name: bytes) -> int:
        return int(fields.get(name, 0))

    finished_ms, error = fields.get(b"finished_ms"), fields.get(b"error")
    return models.Run(
        id=run_id,
        spec=spec,
        state=_state_of(fields),
        total=number(b"total"),
        succeeded=number(b"succeeded"),
        failed=number(b"failed"),
        skipped=number(b"skipped"),
        cancelled=number(b"cancelled"),
        claimed=around.claimed,
        published=around.published,
        waiting=around.waiting + around.behind,
        bytes=number(b"bytes"),
        error=None if error is None else models.ErrorInfo.model_validate_json(error),
        created_at=number(b"created_ms") / 1000,
        finished_at=None if finished_ms is None else int(finished_ms) / 1000,
        now_at=now_at,
        lease_seconds=number(b"lease_ms") / 1000,
        leased_until=around.leased_until_ms / 1000,
        waits=tuple(wait for wait in _waits(fields, around) if wait.until > now_at),
    )


def _state_of(fields: dict[bytes, bytes]) -> models.RunState:
    state = models.RunState(fields[b"state"].decode())
    return models.RunState.PAUSED if state is models.RunState.RUNNING and b"paused" in fields else state


def _waits(fields: dict[bytes, bytes], around: RunSnapshot) -> Iterator[models.Wait]:
    """Yield all recorded waits, ended ones included."""

    def reason(name: bytes) -> models.WaitReason:
        noted = fields.get(name)
        return models.WaitReason.model_validate_json(noted) if noted else models.WaitReason()

    if around.waiting:
        until = around.retry_at_ms / 1000
        yield models.Wait(models.WaitKind.RETRY, reason(b"retry_reason"), until, around.waiting)
    if b"pause_until" in fields:
        yield models.Wait(models.WaitKind.PAUSE, reason(b"pause_reason"), int(fields[b"pause_until"]) / 1000)
    if fields.get(b"coordinator") == b"paused":
        unacknowledged = int(fields.get(b"unacknowledged", 0))
        until = around.call_at_ms / 1000
        yield models.Wait(models.WaitKind.CALLBACK, reason(b"callback_reason"), until, unacknowledged)


# Encoding of outcomes and reasons in Redis.


def encode_outcome(outcome: models.Outcome) -> bytes:
    """Encode an outcome without its position, in bounded size; ValueError if a value cannot be encoded."""
    document = _json(outcome)
    return compress_json(document if len(document) <= OUTCOME_BYTES else _json(_cut(outcome)))


def bounded(outcome: models.Outcome) -> models.Outcome:
    """Shorten an outcome to the stored size, `OUTCOME_BYTES` of JSON; a small one stays unchanged."""
    return outcome if len(_json(outcome)) <= OUTCOME_BYTES else _cut(outcome)


def decode_outcome(data: bytes, position: str) -> models.Outcome:
    """Decode the outcome at a position of the stream; an unknown form becomes a failure that says so.

    The ledger has counted it in any case, and later outcomes must stay readable.
    """
    try:
        return models.Outcome.model_validate_json(decompress_json(data)).model_copy(
            update={"position": position}
        )
    except ValueError:
        problem = WriterVersion().refusal("an outcome", "it is of another form")
        return models.Outcome(
            item=_item_of(data),
            state=models.ItemState.FAILED,
            error=models.ErrorInfo.of(problem),
            position=position,
        )


def _item_of(data: bytes) -> str:
    """Find the item of an outcome in an unknown form."""
    try:
        item = json.loads(decompress_json(data))["item"]
    except (ValueError, KeyError, TypeError):
        return "?"
    return item if isinstance(item, str) else "?"


def encode_reason(reason: models.WaitReason | None) -> str:
    """Encode the reason of a wait, in bounded size; "" for none."""
    return "" if reason is None else reason.bounded().model_dump_json()


# Labels of what the ledger counts: of closed sets, so that the counters of a fleet are few.

DURATION_BOUNDS_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
"""Bounds of the durations of items: from one that is there already to a stage of many gigabytes."""
DURATION_LABELS = (*(f"{bound:g}" for bound in DURATION_BOUNDS_SECONDS), "+Inf")
_ERRORS = frozenset(name for name, kind in vars(errors).items() if isinstance(kind, type))


def error_label(outcome: models.Outcome) -> str:
    """Return the type of an outcome's error: one of `stagefleet.errors`, or "other"; "-" for no error."""
    if outcome.error is None:
        return "-"
    return outcome.error.type if outcome.error.type in _ERRORS else "other"


def duration_label(seconds: float) -> str:
    """Return the bound that a duration does not exceed.

    >>> duration_label(0.3), duration_label(5), duration_label(1e9)
    ('0.5', '5', '+Inf')
    """
    return DURATION_LABELS[bisect_left(DURATION_BOUNDS_SECONDS, seconds)]


def _cut(outcome: models.Outcome) -> models.Outcome:
    error = None if outcome.error is None else outcome.error.bounded()
    cut = outcome.model_copy(update={"error": error})
    if outcome.result is None:
        return cut
    frame = len(_json(cut.model_copy(update={"result": {}})))
    return cut.model_copy(update={"result": fit(outcome.result, OUTCOME_BYTES - frame)})


def _json(outcome: models.Outcome) -> bytes:
    return outcome.model_dump_json(exclude={"position"}, exclude_defaults=True).encode()
