"""Parsers for a run's hash in Redis; `lua/open.lua` explains its fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from stagefleet.errors import IncompatibleVersionError
from stagefleet.runs.models import ErrorInfo, Run, RunSpec, RunState
from stagefleet.runs.versions import WriterVersion
from stagefleet.runs.waits import Wait, WaitKind, WaitReason

__all__ = ["RunSnapshot", "run_of", "spec_of"]


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """Data beside a run's hash in Redis; times are milliseconds since 1970, 0 for none.

    Attributes:
        claimed: Items under way.
        published: Items in the broker.
        waiting: Items that wait for a retry.
        behind: Items that wait until another one has ended.
        leased_until_ms: End of the last lease.
        retry_at_ms: Time of the first due retry.
        call_at_ms: Time of the next message to a coordinator.
    """

    claimed: int
    published: int
    waiting: int
    behind: int
    leased_until_ms: int
    retry_at_ms: int
    call_at_ms: int

    @classmethod
    def read(cls, answers: Sequence[int | bytes]) -> Self:
        """Parse the values that `lua/snapshot.lua` returns beside the hash, in the attributes' order."""
        return cls(*(int(float(answer)) for answer in answers))


def spec_of(run_id: str, order: bytes, parent: bytes | None, version: WriterVersion) -> RunSpec:
    """Parse the order, with the parent that the ledger gave the run.

    Raises:
        IncompatibleVersionError: An incompatible release wrote it.
    """
    version.check(f"run {run_id}")
    try:
        parsed = RunSpec.model_validate_json(order)
        return parsed.model_copy(update={"parent": parent.decode()}) if parent else parsed
    except ValueError as error:
        raise version.refusal(f"run {run_id}", "its order is of another form") from error


def run_of(run_id: str, fields: dict[bytes, bytes], now_at: float, around: RunSnapshot) -> Run:
    """Parse the run at `now_at`, in seconds since 1970; `UNREADABLE` if its release is incompatible."""
    version = WriterVersion.read(fields.get(b"release"), fields.get(b"schema"))
    try:
        spec = spec_of(run_id, fields.get(b"order", b""), fields.get(b"parent"), version)
        return replace(_read(run_id, spec, fields, now_at, around), version=version)
    except IncompatibleVersionError as error:
        problem = error
    except (KeyError, ValueError):
        problem = version.refusal(f"run {run_id}", "its fields are of another form")
    return Run(
        id=run_id,
        spec=RunSpec(operation="unreadable"),
        state=RunState.UNREADABLE,
        error=ErrorInfo.of(problem),
        version=version,
    )


def _read(run_id: str, spec: RunSpec, fields: dict[bytes, bytes], now_at: float, around: RunSnapshot) -> Run:
    def number(name: bytes) -> int:
        return int(fields.get(name, 0))

    finished_ms, error = fields.get(b"finished_ms"), fields.get(b"error")
    return Run(
        id=run_id,
        spec=spec,
        state=RunState(fields[b"state"].decode()),
        total=number(b"total"),
        succeeded=number(b"succeeded"),
        failed=number(b"failed"),
        skipped=number(b"skipped"),
        cancelled=number(b"cancelled"),
        claimed=around.claimed,
        published=around.published,
        waiting=around.waiting + around.behind,
        bytes=number(b"bytes"),
        error=None if error is None else ErrorInfo.model_validate_json(error),
        created_at=number(b"created_ms") / 1000,
        finished_at=None if finished_ms is None else int(finished_ms) / 1000,
        now_at=now_at,
        lease_seconds=number(b"lease_ms") / 1000,
        leased_until=around.leased_until_ms / 1000,
        waits=tuple(wait for wait in _waits(fields, around) if wait.until > now_at),
    )


def _waits(fields: dict[bytes, bytes], around: RunSnapshot) -> Iterator[Wait]:
    """Yield all recorded waits, ended ones included."""

    def reason(name: bytes) -> WaitReason:
        noted = fields.get(name)
        return WaitReason.model_validate_json(noted) if noted else WaitReason()

    if around.waiting:
        until = around.retry_at_ms / 1000
        yield Wait(WaitKind.RETRY, reason(b"retry_reason"), until, around.waiting)
    if b"pause_until" in fields:
        yield Wait(WaitKind.PAUSE, reason(b"pause_reason"), int(fields[b"pause_until"]) / 1000)
    if fields.get(b"coordinator") == b"paused":
        unacknowledged = int(fields.get(b"unacknowledged", 0))
        until = around.call_at_ms / 1000
        yield Wait(WaitKind.CALLBACK, reason(b"callback_reason"), until, unacknowledged)
