"""Celery's consumer with batched events and checked messages."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from celery.exceptions import WorkerShutdown
from celery.signals import task_unknown
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer

from config.envelope import CONTENT_ERRORS, note_dropped
from stagefleet.errors import RedisConfigurationError
from stagefleet.logs import EventLogger
from workers.messages import problem_of

__all__ = ["FLUSH_SECONDS", "BatchedEventsConsumer"]

FLUSH_SECONDS = 0.5
"""Longest delay of an event; shorter when Celery's buffer of 24 events is full."""

_REFUSAL_SECONDS = 10.0
"""Time for which a worker that has worked retries a Redis that refuses its login, or is unsuitable."""

_log = EventLogger(__name__)
_LOGGER = get_logger(__name__)  # Celery logs failed acknowledgements here


class BatchedEventsConsumer(Consumer):  # type: ignore[misc]  # Celery ships no types
    """Consumer that publishes its events in batches, and survives every message.

    Celery publishes the buffered events at each turn of its loop, which is a request to Redis for nearly
    every item, in the one thread that feeds the pool. See docs/operations.md for the costs.

    For a message that it cannot read, Celery logs the content, which may be secret; or it raises, and the
    worker shuts down.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]  # Celery ships no types
        """Celery's steps, with our own mailbox for remote commands."""

        default_steps = (
            *(step for step in Consumer.Blueprint.default_steps if not step.endswith(":Control")),
            "workers.mailbox:Control",
        )

    refused_since: float | None = None
    has_connected = False

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, and wait for an unreachable Redis; an unsuitable one ends this process.

        The process ends at once, unless it has worked before: a restarting Redis may load its users a moment
        later.

        Raises:
            WorkerShutdown: With the status of wrong configuration.
        """
        while True:
            try:
                connected = super().ensure_connected(conn)
            except RedisConfigurationError as error:
                self._sit_out(error)
            else:
                self.has_connected, self.refused_since = True, None
                return connected

    def _sit_out(self, error: RedisConfigurationError) -> None:
        now = time.monotonic()
        self.refused_since = now if self.refused_since is None else self.refused_since
        if self.has_connected and now - self.refused_since < _REFUSAL_SECONDS:
            time.sleep(1)
            state.maybe_shutdown()
            return
        _log.error("redis_refuses", action="connect", error=str(error))
        state.should_stop = error.exit_code
        os.kill(os.getpid(), signal.SIGTERM)  # items under way are handed back in time, as at any stop
        raise WorkerShutdown(error.exit_code)

    def on_send_event_buffered(self) -> None:
        """Leave the event in the buffer: `flush_events` is called every `FLUSH_SECONDS`."""

    def flush_events(self) -> None:
        """Publish the buffered events; the loop calls this."""
        if self.event_dispatcher:
            self.event_dispatcher.flush()

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], None]:
        """Create a handler that accepts valid messages and drops all others."""
        take = super().create_task_handler(*arguments, **options)

        def take_sound(message: Any) -> None:
            problem = problem_of(message, self.app.tasks)
            if problem is not None:
                self._drop(message, problem)
                return
            self._hide_arguments(message)
            try:
                take(message)
            except CONTENT_ERRORS as error:
                self._drop(message, f"Celery fails over it ({type(error).__name__})")

        return take_sound

    def _hide_arguments(self, message: Any) -> None:
        """Replace the shown arguments by those that the task allows, whatever the sender wrote."""
        show = getattr(self.app.tasks.get(message.headers["task"]), "shown_arguments", None)
        if show is not None:
            positional, named, _ = message.payload
            message.headers |= {"argsrepr": "(...)" if positional else "()", "kwargsrepr": show(named)}

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop a message whose body cannot be read."""
        self._drop(message, f"its body cannot be decoded ({type(exc).__name__})")

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        """Drop a message that is not for a task."""
        self._drop(message, "it names no task")

    def on_unknown_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Drop a message for a task that this worker lacks, and let its item fail."""
        headers = message.headers
        task_unknown.send(sender=self, message=message, exc=exc, name=headers["task"], id=headers["id"])
        self._drop(message, "this worker has no such task")

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Drop a message that Celery refuses."""
        self._drop(message, f"Celery does not take it ({type(exc).__name__})")

    def _drop(self, message: Any, reason: str) -> None:
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode(errors="replace")
        note_dropped(message.delivery_info.get("routing_key", ""), reason, body)
        if not message.acknowledged:
            message.reject_log_error(_LOGGER, self.connection_errors)
