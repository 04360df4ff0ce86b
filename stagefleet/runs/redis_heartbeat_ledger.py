"""Live workers, in the ledger on Redis."""

from __future__ import annotations

import json
from typing import Any

from stagefleet.redis_client import map_redis_errors
from stagefleet.runs.models import WorkerInfo
from stagefleet.runs.versions import WriterVersion

__all__ = ["RedisHeartbeatLedger"]

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


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
