"""Callbacks of detached runs, in the ledger on Redis."""

from __future__ import annotations

import secrets
from typing import Any

from stagefleet.redis_client import map_redis_errors
from stagefleet.runs.models import CoordinatorClaim
from stagefleet.runs.outcome_encoding import encode_reason
from stagefleet.runs.waits import WaitReason

__all__ = ["RedisCallbackLedger"]


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
