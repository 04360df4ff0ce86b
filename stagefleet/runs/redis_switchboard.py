"""Callbacks of detached runs, in the ledger on Redis."""

from __future__ import annotations

import secrets
from typing import Any

from stagefleet.connection import reaching
from stagefleet.runs.model import Visit
from stagefleet.runs.waits import WaitReason
from stagefleet.runs.wire import encode_reason

__all__ = ["RedisSwitchboard"]


class RedisSwitchboard:
    """`Switchboard` for `RedisLedger`."""

    _redis: Any
    _prefix: str

    def _call(self, script: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def attend(self, run: str) -> Visit | None:
        answer = self._call("attend", run, secrets.randbelow(1024))
        if answer is None:
            return None
        epoch, failures, failing_ms, lease_ms = answer
        return Visit(
            run=run,
            epoch=epoch,
            failures=failures,
            failing_seconds=failing_ms / 1000,
            lease_seconds=lease_ms / 1000,
        )

    def renew_visit(self, visit: Visit) -> bool:
        return bool(self._call("renew_visit", visit.run, visit.epoch))

    def leave(self, visit: Visit) -> bool:
        return bool(self._call("leave", visit.run, visit.epoch, "leave"))

    def pause(self, visit: Visit, seconds: float, reason: WaitReason | None = None) -> bool:
        pause_ms = round(seconds * 1000)
        return bool(self._call("leave", visit.run, visit.epoch, "pause", pause_ms, encode_reason(reason)))

    def conclude(self, visit: Visit) -> bool:
        return bool(self._call("leave", visit.run, visit.epoch, "conclude"))

    def run_under(self, key: str) -> str | None:
        with reaching(self._redis):
            run = self._redis.get(f"{self._prefix}key:{key}")
        return None if run is None else str(run, "ascii")
