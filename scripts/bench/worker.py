"""A worker for measurements: `python -m scripts.bench.worker noop | bare`."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

from celery.app.trace import setup_worker_optimizations
from celery.worker import state

from config.celery import make_app
from config.logging import configure_logging
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.settings import load_settings
from workers.process import serve

__all__ = ["BARE", "CONCURRENCY", "NOOP"]

NOOP, BARE = "noop", "bare"
CONCURRENCY = 8


def _wait(_storages: object, attempt: Attempt) -> ItemResult:
    """Do nothing, for as long as the run says."""
    if seconds := attempt.options.get("seconds"):
        time.sleep(seconds)
    return ItemResult()


def main(kind: str) -> int:
    """Work until told to stop."""
    settings = load_settings()
    if kind == NOOP:
        return serve(settings, concurrency=CONCURRENCY, operations={NOOP: _wait})
    configure_logging(settings.log, worker=BARE)
    app = make_app(settings, [BARE])
    app.conf.broker_transport_options["ack_emulation"] = True  # as everybody else's Celery works on Redis

    @app.task(name=f"stagefleet.{BARE}")  # type: ignore[untyped-decorator]  # Celery ships no types
    def bare(**_: Any) -> None:
        return

    signal.signal(signal.SIGTERM, lambda *_: setattr(state, "should_stop", 0))
    name = f"bare-{id(app)}@localhost"
    setup_worker_optimizations(app, name)
    controller = app.WorkController(hostname=name, pool_cls="threads", concurrency=CONCURRENCY, queues=[BARE])
    controller.start()
    return int(controller.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
