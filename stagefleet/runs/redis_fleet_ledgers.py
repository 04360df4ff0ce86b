"""Parts of the ledger on Redis for callbacks of detached runs, and for live workers."""

from __future__ import annotations

import json
import secrets
from typing import Any

from stagefleet.redis_client import map_redis_errors
from stagefleet.redis_keys import PING, WORKERS
from stagefleet.redis_scripts import RedisScripts, milliseconds
from stagefleet.runs.models import CoordinatorClaim, WorkerInfo
from stagefleet.runs.snapshots import encode_reason
from stagefleet.runs.versions import WriterVersion
from stagefleet.runs.waits import WaitReason

_PING_MS = 1000


class RedisCallbackLedger:
    """`CallbackLedger` for `RedisLedger`."""

    def __init__(self, scripts: RedisScripts) -> None:
        self._scripts = scripts

    def claim(self, run_id: str) -> CoordinatorClaim | None:
        answer = self._scripts.call("claim_coordination", run_id, secrets.randbelow(1024))
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

    def renew(self, claim: CoordinatorClaim) -> bool:
        return bool(self._scripts.call("renew_coordination", claim.run_id, claim.epoch))

    def release(self, claim: CoordinatorClaim) -> bool:
        return self._end(claim, "leave")

    def pause(self, claim: CoordinatorClaim, seconds: float, reason: WaitReason | None = None) -> bool:
        return self._end(claim, "pause", milliseconds(seconds), encode_reason(reason))

    def finish(self, claim: CoordinatorClaim) -> bool:
        return self._end(claim, "conclude")

    def _end(self, claim: CoordinatorClaim, how: str, *arguments: Any) -> bool:
        return bool(self._scripts.call("end_coordination", claim.run_id, claim.epoch, how, *arguments))


class RedisHeartbeatLedger:
    """`HeartbeatLedger` for `RedisLedger`."""

    def __init__(self, client: Any, scripts: RedisScripts, *, prefix: str) -> None:
        self._redis = client
        self._scripts = scripts
        self._prefix = prefix

    def beat(self, worker: WorkerInfo, *, seconds: float) -> None:
        version = worker.version
        queues = json.dumps(worker.queues)
        self._scripts.call(
            "beat", worker.name, worker.slots, queues, milliseconds(seconds), version.release, version.schema
        )

    def workers(self, queue: str | None = None) -> list[WorkerInfo]:
        with map_redis_errors(self._redis):
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(WORKERS.of(self._prefix))
            pipe.time()
            entries, (seconds, micros) = pipe.execute()
        now_ms = seconds * 1000 + micros / 1000 + self._scripts.clock_offset_ms
        found = [_worker_of(name, entry, now_ms) for name, entry in sorted(entries.items())]
        return [worker for worker in found if worker and (queue is None or queue in worker.queues)]

    def lead(self, role: str, holder: str, *, seconds: float) -> bool:
        return bool(self._scripts.call("lead", role, holder, milliseconds(seconds)))

    def ping(self) -> None:
        with map_redis_errors(self._redis):
            self._redis.set(PING.of(self._prefix), b"", px=_PING_MS)


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
