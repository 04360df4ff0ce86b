"""The part of the ledger on Redis that watches and cancels runs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from stagefleet.errors import LedgerRewoundError
from stagefleet.redis_client import map_redis_errors
from stagefleet.redis_keys import RUN_OUTCOMES, RUNS
from stagefleet.redis_scripts import milliseconds
from stagefleet.runs.models import ErrorInfo, Outcome, Run
from stagefleet.runs.redis_runs import RedisRuns, no_run
from stagefleet.runs.snapshots import decode_outcome
from stagefleet.runs.versions import WriterVersion

_RUNS_A_CALL = 100
_LONGEST_BLOCK_SECONDS = 2.0  # below the socket's time-out: a quiet stream is no dead connection


class RedisCoordinatorLedger(RedisRuns):
    """`CoordinatorLedger` for `RedisLedger`."""

    def runs(self) -> Iterator[Run]:
        name = RUNS.of(self._prefix)
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
            found = self._redis.zscan_iter(RUNS.of(self._prefix), match=f"{text}*", count=1000)
            return sorted({run.decode() for run, _ in found})

    def outcomes(self, run_id: str, after: str, *, limit: int, block_seconds: float) -> list[Outcome] | None:
        stream = RUN_OUTCOMES.of(self._prefix, run_id)
        block = milliseconds(min(block_seconds, _LONGEST_BLOCK_SECONDS)) or None
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
        epoch = int(self.scripts.call("coordinate", run_id, secrets.randbelow(1024)))
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
