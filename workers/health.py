"""Health check of the workers here, for containers: `python -I -m workers.health`.

A worker sends heartbeats to the ledger only while its process runs and Redis answers. If Redis is unreachable
the check succeeds: a restart would not help, and all of a fleet's workers would restart at once.

"Here" is the same container, or the same machine outside of containers: the same process id namespace.
Workers elsewhere do not count, whatever their host name.
"""

from __future__ import annotations

import sys

from stagefleet.errors import RedisUnreachableError, SettingsError, StagefleetError
from stagefleet.runs.ledger import HeartbeatLedger
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import load_settings
from workers.heartbeat import is_of, pool_of


def main() -> None:
    """Exit with 0 if a worker here lives, 1 if none does, 2 if the settings are wrong."""
    try:
        settings = load_settings()
        if settings.redis_url is None:
            raise SettingsError("workers need a Redis: set STAGEFLEET_REDIS_URL")
        ledger = RedisLedger.connect(settings.redis_url, settings)
        found = count_workers(ledger.heartbeats, pool_of(settings.worker))
        ledger.close()
    except RedisUnreachableError as error:
        sys.stdout.write(f"unknown: {error}\n")
        return
    except StagefleetError as error:
        sys.stderr.write(f"stagefleet: error: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(f"{found} worker processes live here\n")
    sys.exit(0 if found else 1)


def count_workers(heartbeats: HeartbeatLedger, pool: str) -> int:
    """Count the live worker processes of a pool, as `heartbeat.pool_of` names it."""
    return sum(is_of(worker.name, pool) for worker in heartbeats.workers())
