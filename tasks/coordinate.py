"""The coordinator of runs that nobody watches, as a task: called when a run has something to tell."""

from __future__ import annotations

from typing import Any

import structlog
from celery import Task

from stagefleet.errors import RedisConfigurationError, RedisUnreachableError
from stagefleet.logs import EventLogger
from stagefleet.runs.detached import DetachedCoordinator
from stagefleet.runs.dispatch import task_name
from tasks.arguments import problem_of_run

__all__ = ["CoordinateTask"]

_log = EventLogger(__name__)


class CoordinateTask(Task):  # type: ignore[misc]  # Celery ships no types
    """One visit; what fails is mended by the ledger's sweep, which calls the next coordinator."""

    name = task_name("coordinate")
    ignore_result = True
    acks_late = True
    typing = False  # `problem_of` has checked the arguments
    problem_of = staticmethod(problem_of_run)

    def __init__(self, coordinator: DetachedCoordinator) -> None:
        self._coordinator = coordinator

    def run(self, *, run: str, **_unknown: Any) -> None:
        """Tell what there is to tell of a run; what a later release adds to the message is ignored."""
        with structlog.contextvars.bound_contextvars(run=run):
            try:
                self._coordinator.coordinate(run)
            except (RedisUnreachableError, RedisConfigurationError) as error:
                _log.warning("visit_broken_off", action="coordinate", error=str(error))
