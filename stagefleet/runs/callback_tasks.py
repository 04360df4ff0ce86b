"""Celery tasks of users that receive outcomes, by name and queue."""

from __future__ import annotations

import re

from stagefleet.errors import UsageError
from stagefleet.redaction import quoted
from stagefleet.runs.messages import QUEUES, host_of_queue

__all__ = ["check_task"]

_MOST_CHARACTERS = 255
_TASK = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(@(?P<queue>[A-Za-z0-9_.:-]+))?")
_QUEUE_OF_KOMBU = re.compile(r"unacked(_index|_mutex)?|_kombu\..*|celeryev.*|(.*\.)?pidbox")
"""Names of kombu's own keys for bookkeeping, bindings, events and replies, next to the queues."""


def check_task(target: str) -> None:
    """Refuse malformed tasks, and queues that are not a user's: no worker takes a user's task out of them.

    Args:
        target: The task, `NAME[@QUEUE]`.

    Raises:
        UsageError: Tasks cannot be published to it.
    """
    match = _TASK.fullmatch(target)
    if match is None or len(target) > _MOST_CHARACTERS:
        shown = quoted(target) if "://" in target else repr(target[:_MOST_CHARACTERS])  # a URL by mistake
        raise UsageError(
            f"{shown} names no Celery task: write NAME or NAME@QUEUE, in letters, digits and _.-"
        )
    queue = match["queue"] or ""
    if queue in QUEUES.values() or host_of_queue(queue) is not None:
        raise UsageError(
            f"the queue {quoted(queue)} is one of the fleet's own: name one that your workers listen to"
        )
    if _QUEUE_OF_KOMBU.fullmatch(queue):
        raise UsageError(f"the queue {quoted(queue)} has a name that Celery needs itself: name another")
