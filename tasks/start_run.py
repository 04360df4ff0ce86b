"""Starting a run on request: what Flower's API calls, and what any Celery client may publish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import structlog
from celery import Task
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stagefleet.client import Fleet
from stagefleet.client.callbacks import RemoteCallback
from stagefleet.errors import StagefleetError, UsageError
from stagefleet.runs.dispatch import task_name
from stagefleet.runs.model import MAX_ITEMS, Run

__all__ = ["StartRunTask"]

_log = structlog.get_logger(__name__)


class _Request(BaseModel):
    """The arguments; those of an operation that has no use for them are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operation: Literal["copy", "delete"]
    source: str | None = None
    destination: str | None = None
    repository: str | None = None
    stage_ids: list[str] | None = Field(default=None, max_length=MAX_ITEMS)
    verify: bool = False
    parallel: int | None = Field(default=None, ge=1)
    idempotency_key: str | None = None
    on_outcome_url: str | None = None
    on_outcome_task: str | None = None
    on_finish_url: str | None = None

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            UsageError: Names the argument.
        """
        needs = ("source", "destination") if self.operation == "copy" else ("repository", "stage_ids")
        refuses = ("repository",) if self.operation == "copy" else ("source", "destination")
        for name in needs:
            if getattr(self, name) is None:
                raise UsageError(f"{name}: {self.operation} needs it")
        for name in refuses:
            if getattr(self, name) is not None:
                raise UsageError(f"{name}: {self.operation} has no use for it")

    def start(self, fleet: Fleet, key: str) -> Run:
        """Start the run."""
        called = (self.on_outcome_url, self.on_outcome_task, self.on_finish_url)
        options: dict[str, Any] = {
            "parallel": self.parallel,
            "idempotency_key": self.idempotency_key or key,
            "detach": True,
        }
        callback = RemoteCallback(*called) if any(called) else None
        if self.operation == "copy":
            return fleet.for_each_copy_stage(
                self.source or "",
                self.destination or "",
                self.stage_ids,
                callback,
                verify=self.verify,
                **options,
            )
        return fleet.for_each_delete_stage(self.repository or "", self.stage_ids, callback, **options)


class StartRunTask(Task):  # type: ignore[misc]  # Celery ships no types
    """Starts a run. Without an idempotency key the task's id is the key: a redelivery does no harm.

    Args:
        open_fleet: Gives a fleet on this worker's Redis, to be closed.
    """

    name = task_name("start_run")
    ignore_result = True
    acks_late = True
    typing = False  # the arguments are checked in `run`, and refused by name

    def __init__(self, open_fleet: Callable[[], Fleet]) -> None:
        self._open_fleet = open_fleet

    def run(self, *positional: Any, **arguments: Any) -> None:
        """Start the run that the keyword arguments describe.

        Raises:
            UsageError: One of them is wrong, by name; it is what Flower shows of the task.
            StagefleetError: A registry or Redis did not answer; the same request may be sent again.
        """
        key = str(self.request.id)
        try:
            request = _parse(positional, arguments)
            with self._open_fleet() as fleet:
                run = request.start(fleet, key)
        except StagefleetError as error:
            _log.error("run_not_started", action="start_run", task=key, error=str(error))
            raise
        _log.info("run_started", action="start_run", task=key, run=run.id, total=run.total)


def _parse(positional: tuple[Any, ...], arguments: dict[str, Any]) -> _Request:
    if positional:
        raise UsageError("arguments are given by name: leave args empty, use kwargs")
    try:
        request = _Request.model_validate(arguments)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{name}: {first['msg']}") from None
    request.check()
    return request
