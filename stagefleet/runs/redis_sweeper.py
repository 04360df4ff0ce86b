"""Repair of runs after lost messages and dead workers, in the ledger on Redis."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from stagefleet.errors import RedisConfigurationError, RedisUnreachableError
from stagefleet.redis_client import map_redis_errors
from stagefleet.redis_keys import LIVE_RUNS, SWEPT
from stagefleet.redis_scripts import milliseconds
from stagefleet.runs.models import ErrorInfo
from stagefleet.runs.redis_runs import RedisRuns
from stagefleet.runs.versions import own_version
from stagefleet.settings import RunSettings

if TYPE_CHECKING:
    import redis

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


class RedisSweeper(RedisRuns):
    """`WorkerLedger.sweep` for `RedisLedger`."""

    def __init__(self, client: redis.Redis, *, prefix: str, settings: RunSettings) -> None:
        super().__init__(client, prefix=prefix, settings=settings)
        self._damaged: set[str] = set()

    def sweep(self) -> int:
        """Repair all live runs; log a run that cannot be swept once, and sweep the others."""
        with map_redis_errors(self._redis):
            live = [run.decode() for run in self._redis.zrange(LIVE_RUNS.of(self._prefix), 0, -1)]
            swept_ms = int(self._redis.get(SWEPT.of(self._prefix)) or 0)
        mended: int = sum(self._sweep_run(run, swept_ms) for run in live)
        # Last, as it records the end of this sweep: after an interrupted sweep the gap shows.
        touched, *failures = self.scripts.call(
            "enqueue_lost_coordinators", milliseconds(self._settings.sweep_seconds)
        )
        for run, problem in zip(failures[::2], failures[1::2], strict=True):
            self._note_damage(run.decode(), problem.decode(errors="replace"))
        self._damaged.intersection_update(live)
        return mended + int(touched)

    def _sweep_run(self, run_id: str, swept_ms: int) -> int:
        errors = _COORDINATOR_LOST.model_dump_json(), own_version().major, _ITEMS_LOST.model_dump_json()
        try:
            touched: int = self._call_on(
                "sweep", run_id, *errors, swept_ms, milliseconds(self._settings.sweep_seconds)
            )
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
