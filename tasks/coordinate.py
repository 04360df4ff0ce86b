"""Task that makes the callbacks of detached runs; published when callbacks are due."""

from __future__ import annotations

from typing import Any

import structlog
from celery import Task

from stagefleet.errors import RedisConfigurationError, RedisUnreachableError
from stagefleet.logs import EventLogger
from stagefleet.runs.detached_coordinator import DetachedCoordinator
from stagefleet.runs.messages import COORDINATE_NEXT_RUN, problem_of_run, task_name

_log = EventLogger(__name__)


class CoordinateTask(Task):  # type: ignore[misc]  # Celery ships no types
    """One coordination; after a failure the ledger's sweep starts the next coordinator."""

    name = task_name("coordinate")
    ignore_result = True
    acks_late = True
    typing = False  # `problem_of` has checked the arguments
    problem_of = staticmethod(problem_of_run)

    def __init__(self, coordinator: DetachedCoordinator) -> None:
        self._coordinator = coordinator

    def run(self, *, run: str, **_unknown: Any) -> None:
        """Make the due callbacks of a run; unknown arguments are ignored."""
        with structlog.contextvars.bound_contextvars(run=run):
            try:
                self._coordinator.coordinate(run)
            except (RedisUnreachableError, RedisConfigurationError) as error:
                _log.warning("coordination_failed", action="coordinate", error=str(error))


class CoordinateNextRunTask(CoordinateTask):
    """One coordination of a run that another one waits for."""

    name = task_name(COORDINATE_NEXT_RUN)
