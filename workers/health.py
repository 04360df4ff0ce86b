"""Health of worker processes: their heartbeats, and the check for containers, `python -I -m workers.health`.

A worker sends heartbeats to the ledger only while its process runs and Redis answers. If Redis is unreachable
the check succeeds: a restart would not help, and all of a fleet's workers would restart at once.

"Here" is the same container, or the same machine outside of containers: the same process id namespace.
Workers elsewhere do not count, whatever their host name.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from stagefleet.attempt import AttemptCounters
from stagefleet.errors import RedisUnreachableError, SettingsError, StagefleetError
from stagefleet.logs import EventLogger
from stagefleet.processes import LIFE_SECONDS, HeartbeatFile, machine_hash
from stagefleet.runs.ledger import HeartbeatLedger
from stagefleet.runs.models import ItemTransfer, WorkerInfo
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import WorkerSettings, load_settings

BEAT_SECONDS = 4.0
STALLED_SECONDS = 120.0
"""Longest standstill of the consumer's loop while Redis answers; above kombu's own time-outs (51 s)."""

_log = EventLogger(__name__)


class Heartbeat:
    """Send heartbeats to the ledger, and watch the consumer's loop.

    A consumer that hangs on a broken connection looks alive from outside: its process runs and its heartbeats
    go out (celery #7276, #8030). So the loop itself calls `note_loop_alive`.

    Args:
        on_stalled: Called once when the loop has stood still although Redis answers.
        file: Tells a health check here of the heartbeat; None if nothing does.
        counts: Counts of attempts, for the fleet's metrics; None if nothing counts.
        transfers: Returns what the attempts here move, for people who watch.
    """

    def __init__(
        self,
        heartbeats: HeartbeatLedger,
        worker: WorkerInfo,
        *,
        on_stalled: Callable[[], None],
        file: HeartbeatFile | None = None,
        counts: AttemptCounters | None = None,
        transfers: Callable[[], tuple[ItemTransfer, ...]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transfers = transfers
        self._heartbeats = heartbeats
        self._worker = worker
        self._on_stalled = on_stalled
        self._file = file
        self._counts = AttemptCounters() if counts is None else counts
        self._clock = clock
        self._alive_at = clock()
        self._reported = False

    def note_loop_alive(self) -> None:
        """Record that the consumer's loop runs; the loop calls this every few seconds."""
        self._alive_at = self._clock()

    def beat(self) -> None:
        """Send a heartbeat, and check the loop, unless the ledger is unreachable."""
        if self._file is not None:
            self._file.beat()  # in an outage of Redis, too: a restart would mend nothing
        try:
            self._send(LIFE_SECONDS)
        except Exception:
            self.note_loop_alive()
            raise
        still_seconds = self._clock() - self._alive_at
        if still_seconds > STALLED_SECONDS and not self._reported:
            self._reported = True
            _log.error("consumer_stalled", action="beat", seconds=round(still_seconds))
            self._on_stalled()

    def sign_off(self) -> None:
        """Report to the fleet that this worker is gone."""
        if self._file is not None:
            self._file.remove()
        self._send(0)

    def _send(self, seconds: float) -> None:
        """Send a heartbeat with what was counted; what cannot be sent goes with the next one."""
        counts = self._counts.take()
        try:
            worker = replace(self._worker, transfers=self._transfers())
            self._heartbeats.beat(worker, seconds=seconds, counts=counts)
        except Exception:
            self._counts.put_back(counts)
            raise


# Names of worker processes in the fleet: unique, and readable for people.
#
# Containers with the same host name (ECS, `network_mode: host`, `hostname:` on several replicas) have the
# same small process ids, too. So the name also holds a digest of the container, which a health check beside
# it can compute, and a random part.

_NAME = re.compile(r"worker-[0-9]+@(.+)-[0-9a-f]{6}")


def make_name(settings: WorkerSettings) -> str:
    """Create the name of this process: `worker-PID@NAME-PLACE-RANDOM`."""
    return f"worker-{os.getpid()}@{pool_of(settings)}-{secrets.token_hex(3)}"


def pool_of(settings: WorkerSettings) -> str:
    """Return the common part of the names of all worker processes in this process's container."""
    return f"{settings.name or socket.gethostname()}-{machine_hash()}"


# The check.


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
    """Count the live worker processes of a pool, as `pool_of` names it."""
    names = (_NAME.fullmatch(worker.name) for worker in heartbeats.workers())
    return sum(name is not None and name[1] == pool for name in names)
