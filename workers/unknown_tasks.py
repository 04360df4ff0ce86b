"""Messages for operations that this release does not know, as from a newer client."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from celery.signals import task_unknown

from stagefleet.errors import StagefleetError
from stagefleet.logs import EventLogger
from stagefleet.runs.messages import task_name
from tasks.arguments import problem_of_item

__all__ = ["fail_unknown_tasks"]

_log = EventLogger(__name__)

Refuse = Callable[[str, int, str], None]
"""Fails an item: run, index, problem."""


def fail_unknown_tasks(refuse: Refuse, closing: ExitStack) -> None:
    """Fail the item of each message whose task this worker lacks.

    Celery drops such a message, and the ledger would publish it again for ever: no worker of this release can
    claim the item, and the run would not end.

    Args:
        refuse: Fails an item.
        closing: Undoes it.
    """
    pool = closing.enter_context(ThreadPoolExecutor(1, thread_name_prefix="unknown-tasks"))

    def refuse_item(run_id: str, index: int, name: str) -> None:
        try:
            refuse(run_id, index, f"it knows no task {name!r}")
        except StagefleetError as error:  # the sweep publishes the item again
            _log.warning("unknown_task_not_failed", action="refuse", run=run_id, task=name, error=str(error))

    def on_unknown(*, message: Any, name: str, **_more: Any) -> None:
        found = _item_of(message)
        if found is None or not name.startswith(task_name("")):
            return
        run_id, index = found
        _log.warning("unknown_task", action="refuse", run=run_id, index=index, task=name)
        pool.submit(refuse_item, run_id, index, name)

    task_unknown.connect(on_unknown, weak=False)
    closing.callback(task_unknown.disconnect, on_unknown)


def _item_of(message: Any) -> tuple[str, int] | None:
    """Return the item that a message names; None if it names none."""
    positional, named, _ = message.payload  # the consumer has checked it
    return None if problem_of_item(positional, named) else (named["run"], named["index"])
