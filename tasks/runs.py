"""Tasks about whole runs: one that starts a run on request, and those that call back for detached ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from celery import Task

from stagefleet.errors import RedisConfigurationError, RedisUnreachableError, StagefleetError
from stagefleet.fleet.fleet import Fleet
from stagefleet.fleet.requests import RunRequest
from stagefleet.logs import EventLogger
from stagefleet.redis_client import OUTAGE_SECONDS, RedisRetry
from stagefleet.runs.detached_coordinator import DetachedCoordinator
from stagefleet.runs.messages import COORDINATE_NEXT_RUN, problem_of_run, start_run_message, task_name
from tasks.flower_view import MaskedRequest, shown_arguments

_log = EventLogger(__name__)


class StartRunTask(Task):  # type: ignore[misc]  # Celery ships no types
    """Start a run. Without an idempotency key the task's id is the key, so that a repeat is harmless.

    The run is opened before it is planned, and holds its request: if this worker dies, the sweep publishes
    the request again. A plan that is refused ends the run as failed.

    `open_fleet` opens a fleet on this worker's Redis; the task closes it.
    """

    name = task_name("start_run")
    ignore_result = True
    acks_late = True
    typing = False  # the arguments are checked in `run`, and refused by name
    Request = MaskedRequest
    shown_arguments = staticmethod(shown_arguments)

    def __init__(self, open_fleet: Callable[[], Fleet]) -> None:
        self._open_fleet = open_fleet

    def run(self, *positional: Any, **arguments: Any) -> None:
        """Start the run of the keyword arguments.

        Raises:
            UsageError: An argument is wrong; the message names it, and Flower shows it.
            StagefleetError: A registry or Redis did not answer; send the same request again. Or an internal
                error.
        """
        key = str(self.request.id)
        try:
            message = start_run_message(key, arguments)
            request = RunRequest.parse(positional, arguments)
            with self._open_fleet() as fleet:
                # With its key a repeated request finds the started run, so that an outage loses none.
                run = RedisRetry(OUTAGE_SECONDS)(partial(request.start, fleet, key, message))
        except StagefleetError as error:
            _log.error("run_not_started", action="start_run", task=key, error=str(error))
            raise
        except Exception as error:  # noqa: BLE001 - an internal error is logged, and raised as ours
            _log.error("unexpected_error", action="start_run", task=key, exc_info=error)
            # Flower shows the error, and foreign errors may quote their arguments.
            name = type(error).__name__
            raise StagefleetError(f"unexpected {name}: this is a bug; the worker's log says where") from None
        _log.info("run_started", action="start_run", task=key, run=run.id, total=run.total)


# Callbacks of detached runs; published when they are due.


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
