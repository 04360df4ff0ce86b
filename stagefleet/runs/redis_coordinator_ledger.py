"""Sides of the ledger on Redis: observation, callbacks, live workers, and repair."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from stagefleet.errors import (
    IncompatibleVersionError,
    LedgerRewoundError,
    RedisConfigurationError,
    RedisUnreachableError,
    RunNotFoundError,
)
from stagefleet.redaction import quoted
from stagefleet.redis_client import map_redis_errors
from stagefleet.runs.models import CoordinatorClaim, ErrorInfo, Outcome, Run, RunState, WorkerInfo
from stagefleet.runs.snapshots import RunSnapshot, decode_outcome, encode_reason, run_of
from stagefleet.runs.versions import WriterVersion, own_version
from stagefleet.runs.waits import WaitReason
from stagefleet.settings import RunSettings

__all__ = ["RedisCallbackLedger", "RedisCoordinatorLedger", "RedisHeartbeatLedger", "RedisSweeper", "no_run"]

# Observation and cancellation of runs, in the ledger on Redis.

_RUNS_A_CALL = 100
_LONGEST_BLOCK_SECONDS = 2.0  # below the socket's time-out: a quiet stream is no dead connection


class RedisCoordinatorLedger:
    """`CoordinatorLedger` for `RedisLedger`."""

    _redis: Any
    _prefix: str

    def _call(self, script: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def _call_on(self, script: str, run_id: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def _key(self, run_id: str, part: str = "") -> str:
        return f"{self._prefix}run:{run_id}:{part}" if part else f"{self._prefix}run:{run_id}"

    def run(self, run_id: str) -> Run:
        found = self._snapshots([run_id])
        if not found:
            raise no_run(run_id)
        if found[0].state is RunState.UNREADABLE and found[0].error is not None:
            raise IncompatibleVersionError(found[0].error.message)
        return found[0]

    def runs(self) -> Iterator[Run]:
        name = f"{self._prefix}runs"
        with map_redis_errors(self._redis):
            listed = [run.decode() for run in self._redis.zrevrange(name, 0, -1)]
        for first in range(0, len(listed), _RUNS_A_CALL):
            chunk = listed[first : first + _RUNS_A_CALL]
            found = self._snapshots(chunk)
            expired = set(chunk) - {run.id for run in found}
            if expired:
                with map_redis_errors(self._redis):
                    self._redis.zrem(name, *expired)
            yield from found

    def runs_beginning(self, text: str) -> list[str]:
        if not text.isalnum():  # a Redis pattern
            return []
        with map_redis_errors(self._redis):
            found = self._redis.zscan_iter(f"{self._prefix}runs", match=f"{text}*", count=1000)
            return sorted({run.decode() for run, _ in found})

    def _snapshots(self, runs: Sequence[str]) -> list[Run]:
        now_ms, *rows = self._call("snapshot", *runs)
        return [
            run_of(
                run_id,
                dict(zip(hash_[::2], hash_[1::2], strict=True)),
                now_ms / 1000,
                RunSnapshot.read(around),
            )
            for run_id, (hash_, *around) in zip(runs, rows, strict=True)
            if hash_
        ]

    def outcomes(self, run_id: str, after: str, *, limit: int, block_seconds: float) -> list[Outcome] | None:
        stream = self._key(run_id, "outcomes")
        block = _ms(min(block_seconds, _LONGEST_BLOCK_SECONDS)) or None
        with map_redis_errors(self._redis), self._redis.pipeline(transaction=False) as pipe:
            # Entries after a position are complete only if the position itself still exists.
            pipe.xrange(stream, after or "-", after or "+", count=1)
            pipe.xread({stream: after or "0-0"}, count=limit, block=block)
            standing, answer = pipe.execute()
        entries: list[tuple[bytes, dict[bytes, bytes]]] = answer[0][1] if answer else []
        if after and not standing:
            self.run(run_id)
            raise LedgerRewoundError(
                f"Redis has forgotten outcomes of run {run_id}, as after a failover: read on from what it has"
            )
        if not entries:
            self.run(run_id)  # raises if it has expired meanwhile
            return []
        if b"end" in entries[0][1]:
            return None
        return [
            decode_outcome(fields[b"o"], position.decode()) for position, fields in entries if b"o" in fields
        ]

    def coordinate(self, run_id: str) -> int:
        epoch = int(self._call("coordinate", run_id, secrets.randbelow(1024)))
        if not epoch:
            raise no_run(run_id)
        return epoch

    def acknowledge(self, run_id: str, epoch: int, outcomes: Sequence[Outcome], *, before: str = "") -> bool:
        position = outcomes[-1].position if outcomes else before
        answer = self._call_on("acknowledge", run_id, epoch, position, before)
        if answer == b"rewound":
            raise LedgerRewoundError(
                f"Redis has forgotten what was acknowledged of run {run_id}, as after a failover: coordinate "
                "it again, from what it has"
            )
        return bool(answer == b"ok")

    def acknowledged(self, run_id: str) -> str:
        with map_redis_errors(self._redis):
            cursor = self._redis.hget(self._key(run_id), "cursor")
        if cursor is None:
            raise no_run(run_id)
        return str(cursor, "ascii")

    def cancel(self, run_id: str, *, now: bool = False, error: ErrorInfo | None = None) -> bool:
        with map_redis_errors(self._redis):
            release, schema = self._redis.hmget(self._key(run_id), ["release", "schema"])
        WriterVersion.read(release, schema).check(f"run {run_id}")
        answer = self._call_on("cancel", run_id, "1" if now else "", error.model_dump_json() if error else "")
        if answer < 0:
            raise no_run(run_id)
        return bool(answer)


def no_run(run_id: str) -> RunNotFoundError:
    """Build the error for a run that does not exist."""
    return RunNotFoundError(f"there is no run {quoted(run_id)}, or it has expired: see stagefleet runs list")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


# Callbacks of detached runs, in the ledger on Redis.


class RedisCallbackLedger:
    """`CallbackLedger` for `RedisLedger`."""

    _redis: Any
    _prefix: str

    def _call(self, script: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def claim_coordination(self, run_id: str) -> CoordinatorClaim | None:
        answer = self._call("claim_coordination", run_id, secrets.randbelow(1024))
        if answer is None:
            return None
        epoch, failures, failing_ms, lease_ms = answer
        return CoordinatorClaim(
            run_id=run_id,
            epoch=epoch,
            failures=failures,
            failing_seconds=failing_ms / 1000,
            lease_seconds=lease_ms / 1000,
        )

    def renew_coordination(self, coordinator_claim: CoordinatorClaim) -> bool:
        return bool(self._call("renew_coordination", coordinator_claim.run_id, coordinator_claim.epoch))

    def release_coordination(self, coordinator_claim: CoordinatorClaim) -> bool:
        return bool(
            self._call("end_coordination", coordinator_claim.run_id, coordinator_claim.epoch, "leave")
        )

    def pause_coordination(
        self, coordinator_claim: CoordinatorClaim, seconds: float, reason: WaitReason | None = None
    ) -> bool:
        pause_ms = round(seconds * 1000)
        return bool(
            self._call(
                "end_coordination",
                coordinator_claim.run_id,
                coordinator_claim.epoch,
                "pause",
                pause_ms,
                encode_reason(reason),
            )
        )

    def finish_coordination(self, coordinator_claim: CoordinatorClaim) -> bool:
        return bool(
            self._call("end_coordination", coordinator_claim.run_id, coordinator_claim.epoch, "conclude")
        )

    def run_under(self, key: str) -> str | None:
        with map_redis_errors(self._redis):
            run = self._redis.get(f"{self._prefix}key:{key}")
        return None if run is None else str(run, "ascii")


# Live workers, in the ledger on Redis.

_PING_MS = 1000
"""Lifetime of the key that a ping writes."""


class RedisHeartbeatLedger:
    """`HeartbeatLedger` for `RedisLedger`."""

    clock_offset_ms: int
    _redis: Any
    _prefix: str

    def _call(self, script: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def beat(self, worker: WorkerInfo, *, seconds: float) -> None:
        version = worker.version
        queues = json.dumps(worker.queues)
        self._call("beat", worker.name, worker.slots, queues, _ms(seconds), version.release, version.schema)

    def workers(self, queue: str | None = None) -> list[WorkerInfo]:
        with map_redis_errors(self._redis):
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(f"{self._prefix}workers")
            pipe.time()
            entries, (seconds, micros) = pipe.execute()
        now_ms = seconds * 1000 + micros / 1000 + self.clock_offset_ms
        found = [_worker_of(name, entry, now_ms) for name, entry in sorted(entries.items())]
        return [worker for worker in found if worker and (queue is None or queue in worker.queues)]

    def lead(self, role: str, holder: str, *, seconds: float) -> bool:
        return bool(self._call("lead", role, holder, _ms(seconds)))

    def ping(self) -> None:
        with map_redis_errors(self._redis):
            self._redis.set(f"{self._prefix}ping", b"", px=_PING_MS)


def _worker_of(name: bytes, entry: bytes, now_ms: float) -> WorkerInfo | None:
    """Read a heartbeat; None if it has expired, or has an unknown form."""
    try:
        document = json.loads(entry)
        if float(document["until"]) <= now_ms:
            return None
        return WorkerInfo(
            name=name.decode(),
            slots=int(document["slots"]),
            queues=tuple(map(str, document["queues"])),
            version=WriterVersion.read(document.get("release"), document.get("schema")),
        )
    except (ValueError, KeyError, TypeError):
        return None


# Repair of runs after lost messages and dead workers, in the ledger on Redis.

_LOGGER = logging.getLogger("stagefleet")
_COORDINATOR_LOST = ErrorInfo(
    type="CoordinatorLostError",
    message="the client that submitted the run and held its callback vanished; submit it again",
)
_ITEMS_LOST = ErrorInfo(
    type="ItemLostError",
    message="Redis lost items of the run: run it again, and see whether its keys "
    "were deleted or evicted (maxmemory-policy has to be noeviction)",
)


class RedisSweeper:
    """`WorkerLedger.sweep` for `RedisLedger`."""

    _redis: Any
    _prefix: str
    _settings: RunSettings
    _damaged: set[str]

    def _call(self, script: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def _call_on(self, script: str, run_id: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def sweep(self) -> int:
        """Repair all live runs; log a run that cannot be swept once, and sweep the others."""
        with map_redis_errors(self._redis):
            live = [run.decode() for run in self._redis.zrange(f"{self._prefix}live", 0, -1)]
            swept_ms = int(self._redis.get(f"{self._prefix}swept") or 0)
        mended: int = sum(self._sweep_run(run, swept_ms) for run in live)
        # Last, as it records the end of this sweep: after an interrupted sweep the gap shows.
        touched, *failures = self._call("enqueue_lost_coordinators", self._sweep_ms)
        for run, problem in zip(failures[::2], failures[1::2], strict=True):
            self._note_damage(run.decode(), problem.decode(errors="replace"))
        self._damaged.intersection_update(live)
        return mended + int(touched)

    @property
    def _sweep_ms(self) -> int:
        return round(self._settings.sweep_seconds * 1000)

    def _sweep_run(self, run_id: str, swept_ms: int) -> int:
        errors = _COORDINATOR_LOST.model_dump_json(), own_version().major, _ITEMS_LOST.model_dump_json()
        try:
            touched: int = self._call_on("sweep", run_id, *errors, swept_ms, self._sweep_ms)
        except (RedisUnreachableError, RedisConfigurationError):
            raise
        except Exception as error:  # noqa: BLE001 - one broken run must not stop the sweep of others
            self._note_damage(run_id, str(error))
            return 0
        self._damaged.discard(run_id)
        return touched

    def _note_damage(self, run_id: str, problem: str) -> None:
        if run_id not in self._damaged:
            self._damaged.add(run_id)
            _LOGGER.error("run %s cannot be swept: %s; the others go on", run_id, problem)
