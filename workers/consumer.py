"""Celery's consumer with batched events, checked messages, and remote commands."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, ItemsView, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Annotated, Any, Literal

from celery.exceptions import WorkerShutdown
from celery.signals import task_unknown
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer, control
from celery.worker.pidbox import Pidbox
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config import envelope
from stagefleet.errors import RedisConfigurationError, StagefleetError
from stagefleet.logs import EventLogger
from stagefleet.runs.messages import problem_of_item, task_name

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
            "workers.consumer:Control",
        )

    refused_since: float | None = None
    has_connected = False

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, and wait for an unreachable Redis; an unsuitable one ends this process.

        The process ends at once, with the status of wrong configuration, unless it has worked before: a
        restarting Redis may load its users a moment later.
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
            self._prepare_headers(message)
            try:
                take(message)
            except envelope.CONTENT_ERRORS as error:
                self._drop(message, f"Celery fails over it ({type(error).__name__})")

        return take_sound

    def _prepare_headers(self, message: Any) -> None:
        """Replace the shown arguments by those that the task allows, whatever the sender wrote.

        Custom headers are none: Celery (5.7) would look for some among all the others.
        """
        show = getattr(self.app.tasks.get(message.headers["task"]), "shown_arguments", None)
        if show is not None:
            positional, named, _ = message.payload
            message.headers |= {"argsrepr": "(...)" if positional else "()", "kwargsrepr": show(named)}
        message.headers["headers"] = {}

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
        envelope.note_dropped(message.delivery_info.get("routing_key", ""), reason, body)
        if not message.acknowledged:
            message.reject_log_error(_LOGGER, self.connection_errors)


# Checks of task messages: Celery's message protocol 2, with arguments that our tasks know.
#
# Source: https://docs.celeryq.dev/en/stable/internals/protocol.html. Celery (5.7) checks little of it. A
# malformed message raises in its loop or in a thread, where nobody acknowledges the message.

_Text = Annotated[str, Field(max_length=1024 * 1024)]
_Limit = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    """Fields that are read of a message; unknown ones are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)


class _Headers(_Part):
    task: envelope.Name
    id: envelope.Name
    root_id: envelope.Name | None = None
    parent_id: envelope.Name | None = None
    group: envelope.Name | None = None
    shadow: envelope.Name | None = None
    eta: _Text | None = None
    expires: _Text | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    timelimit: Annotated[list[_Limit | None], Field(min_length=2, max_length=2)] | None = None
    argsrepr: _Text | None = None
    kwargsrepr: _Text | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: Annotated[int, Field(ge=0)] = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None


class _Embedded(_Part):
    callbacks: list[dict[str, Any]] | None = None
    errbacks: list[dict[str, Any]] | None = None
    chain: list[dict[str, Any]] | None = None
    chord: dict[str, Any] | None = None


class _Body(_Part):
    parts: tuple[list[Any], dict[str, Any], _Embedded | None]


class _Content(_Part):
    content_type: Literal["application/json"]
    content_encoding: Literal["utf-8"] | None


def problem_of(message: Any, tasks: Mapping[str, Any]) -> str | None:
    """Return the reason why a message is invalid, without its content; None if it is valid.

    The message is kombu's, with a valid envelope. A task with a `problem_of` checks its arguments; an unknown
    task does not make the message invalid.
    """
    try:
        task, body = _read(message, tasks)
    except ValidationError as error:
        return envelope.first_problem(error)
    except envelope.MalformedMessageError as error:
        return str(error)
    except envelope.CONTENT_ERRORS as error:
        return f"its body cannot be decoded ({type(error).__name__})"
    positional, named, _ = body
    if "self" in named:  # a method of ours has an argument of that name
        return "an argument has no name of its own"
    look = getattr(task, "problem_of", None)
    return None if look is None else look(positional, named)


def _read(message: Any, tasks: Mapping[str, Any]) -> tuple[Any, Sequence[Any]]:
    headers = message.headers
    if not _are_usual(headers):
        _Headers.model_validate(headers)
    if (message.content_type, message.content_encoding) != _USUAL_CONTENT:
        _Content(content_type=message.content_type, content_encoding=message.content_encoding)
    envelope.check_size(message.body)
    body = message.decode()  # the message caches it for Celery
    if not isinstance(body, list):
        raise envelope.MalformedMessageError("its body is no list")
    if not _is_usual(body):
        body = _Body.model_validate({"parts": tuple(body)}).parts
    return tasks.get(headers["task"]), body


# What the ledger writes is checked without the models: see `envelope.open_envelope`.

_USUAL_CONTENT = ("application/json", "utf-8")
_USUAL_HEADERS: ItemsView[str, Any] = {
    **dict.fromkeys(("parent_id", "group", "shadow", "eta", "expires", "stamped_headers")),
    "timelimit": [None, None],
    "stamps": {},
}.items()
_USUALLY_EMBEDDED = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
_SHORT_CHARACTERS = 4096


def _are_usual(headers: dict[str, Any]) -> bool:
    """Return True for headers as the ledger writes them, which `_Headers` would accept."""
    get = headers.get
    arguments, named = get("argsrepr"), get("kwargsrepr")
    return (
        headers.items() >= _USUAL_HEADERS
        and envelope.is_name(get("task"))
        and envelope.is_name(get("id"))
        and envelope.is_name(get("root_id"))
        and type(arguments) is type(named) is str
        and len(arguments) + len(named) <= _SHORT_CHARACTERS
        and type(get("retries")) is type(get("replaced_task_nesting")) is int
        and get("retries") == get("replaced_task_nesting") == 0
        and get("ignore_result") is True
    )


def _is_usual(body: list[Any]) -> bool:
    """Return True for a body as the ledger writes it, which `_Body` would accept."""
    return list(map(type, body)) == [list, dict, dict] and body[2] == _USUALLY_EMBEDDED


# Messages for operations that this release does not know, as from a newer client.

Refuse = Callable[[str, int, str], None]
"""Fails an item: run, index, problem."""


def fail_unknown_tasks(refuse: Refuse, closing: ExitStack) -> None:
    """Fail the item of each message whose task this worker lacks, until `closing` ends.

    Celery drops such a message, and the ledger would publish it again for ever: no worker of this release can
    claim the item, and the run would not end.
    """
    pool = closing.enter_context(ThreadPoolExecutor(1, thread_name_prefix="unknown-tasks"))

    def refuse_item(run_id: str, index: int, name: str) -> None:
        try:
            refuse(run_id, index, f"it knows no task {name!r}")
        except StagefleetError as error:  # the sweep publishes the item again
            _log.warning("unknown_task_not_failed", action="refuse", run=run_id, task=name, error=str(error))

    def on_unknown(*, message: Any, name: str, **_more: Any) -> None:
        positional, named, _ = message.payload  # the consumer has checked it
        if problem_of_item(positional, named) or not name.startswith(task_name("")):
            return
        run_id, index = named["run"], named["index"]
        _log.warning("unknown_task", action="refuse", run=run_id, index=index, task=name)
        pool.submit(refuse_item, run_id, index, name)

    task_unknown.connect(on_unknown, weak=False)
    closing.callback(task_unknown.disconnect, on_unknown)


# Mailbox of a worker for remote commands, as Flower sends them; it survives every message.
#
# Celery's own (5.7) closes its channel and opens another after a message that it cannot read.


class _ReplyTo(_Part):
    exchange: envelope.Name
    routing_key: envelope.Name


class _Command(_Part):
    """A remote command, as kombu's `pidbox.Mailbox` publishes it."""

    method: envelope.Name
    arguments: dict[str, Any] | None = None
    destination: list[str] | None = None
    pattern: str | None = None
    matcher: str | None = None
    ticket: envelope.Name | None = None
    reply_to: _ReplyTo | None = None


class _CommandHeaders(_Part):
    clock: int | None = None


class Mailbox(Pidbox):  # type: ignore[misc]  # Celery ships no types
    """Celery's mailbox; a malformed command is logged and dropped."""

    def on_message(self, body: Any, message: Any) -> None:
        """Execute a command, if it is well-formed."""
        try:
            _CommandHeaders.model_validate(message.headers)
            is_known = _Command.model_validate(body).method in self.node.handlers
            problem = "" if is_known else "there is no such command"
        except ValidationError as error:
            problem = envelope.first_problem(error)
        if not problem:
            super().on_message(body, message)
        else:
            envelope.note_dropped(message.delivery_info.get("routing_key", ""), problem, bytes(message.body))


class Control(control.Control):  # type: ignore[misc]  # Celery ships no types
    """Worker step that opens the mailbox."""

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.box = Mailbox(consumer)
        self.start, self.stop, self.shutdown = self.box.start, self.box.stop, self.box.shutdown
