"""One client of the locks, a process that may be frozen: takes locks, and writes down what it saw."""

from __future__ import annotations

import json
import random
import sys
import time
from typing import cast

from stagefleet.errors import LockTimeoutError, RedisUnreachableError
from stagefleet.locks import RedisLocks
from stagefleet.redis_client import connect_redis
from stagefleet.settings import LockSettings
from tests.contract.lock_history import Recorder

NAMES = ("x", "y")


def wander(url: str, client: str, seconds: float, settings: LockSettings) -> Recorder:
    """Take locks for some seconds, and hold each for a while."""
    locks = RedisLocks(connect_redis(url), prefix="chaos:", settings=settings)
    recorder, draw = Recorder(locks, client), random.Random(client)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        both = {name: draw.random() < 0.6 for name in NAMES}
        one = recorder.take_and_release(draw.choice(NAMES), shared=draw.random() < 0.6, wait_seconds=8)
        try:
            with one if draw.random() < 0.7 else recorder.take_and_release_if_free(both) as is_held:
                # Some stay long enough to be frozen while they hold it.
                leave_at = time.monotonic() + draw.uniform(
                    0, 0.1 if draw.random() < 0.9 else settings.lease_seconds
                )
                while time.monotonic() < leave_at and is_held():
                    time.sleep(0.001)
        except (LockTimeoutError, RedisUnreachableError):
            pass
    locks.close()
    return recorder


def main(url: str, client: str, seconds: str, settings: str) -> None:
    """Say "ready", wander, and write the tenures."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    found = LockSettings.model_validate_json(settings)
    recorder = wander(url, client, float(seconds), found)
    json.dump([tenure.as_json() for tenure in recorder.tenures], sys.stdout)


if __name__ == "__main__":
    main(*cast("tuple[str, str, str, str]", sys.argv[1:]))
