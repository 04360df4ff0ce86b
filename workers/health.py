"""Whether this host's workers live: `python -I -m workers.health`, for a container's health check.

A worker beats in the ledger only while its process runs and Redis answers. When Redis is out of reach the
answer is yes: starting the worker again would mend nothing, and all of a fleet's would start at once.
"""

from __future__ import annotations

import socket
import sys

from stagefleet.errors import RedisUnreachableError, SettingsError, StagefleetError
from stagefleet.runs.ledger import Attendance
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import load_settings

__all__ = ["count_workers", "main"]


def main() -> None:
    """Exit with 0 if a worker of this host lives, 1 if none does, 2 if the settings are wrong."""
    try:
        settings = load_settings()
        if settings.redis_url is None:
            raise SettingsError("workers need a Redis: set STAGEFLEET_REDIS_URL")
        ledger = RedisLedger.connect(settings.redis_url, settings)
        found = count_workers(ledger, socket.gethostname())
        ledger.close()
    except RedisUnreachableError as error:
        sys.stdout.write(f"unknown: {error}\n")
        return
    except StagefleetError as error:
        sys.stderr.write(f"stagefleet: error: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(f"{found} worker processes of this host live\n")
    sys.exit(0 if found else 1)


def count_workers(attendance: Attendance, host: str) -> int:
    """How many live worker processes a host has."""
    return sum(worker.name.endswith(f"@{host}") for worker in attendance.workers())


if __name__ == "__main__":
    main()
