"""A worker whose streams are closed, or lead to a full disk (`/dev/full`, full(4))."""

from __future__ import annotations

import signal
import subprocess

from tests.integration.workers.conftest import LIMIT_SECONDS, eventually
from tests.services import clean_environment, stagefleet_command


def test_a_worker_depends_on_no_stream(redis_server, fleet, tmp_path, cleanup):
    """U3: a worker that can log nothing works, and stops as it is told."""
    command = stagefleet_command("worker", "--processes", "1")
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- >&- 2>/dev/full', "sh", *command],
        env=clean_environment(STAGEFLEET_REDIS_URL=redis_server.url, DOCKER_CONFIG=str(tmp_path)),
        cwd=tmp_path,
    )
    cleanup.callback(process.kill)
    eventually(fleet.ledger.heartbeats.workers, "it listens")
    assert None is process.poll()
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(LIMIT_SECONDS)
