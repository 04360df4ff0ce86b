"""Mailbox of a worker for remote commands, as Flower sends them; it survives every message.

Celery's own (5.7) closes its channel and opens another after a message that it cannot read.
"""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import control
from celery.worker.pidbox import Pidbox
from pydantic import BaseModel, ConfigDict, ValidationError

from config.envelope import Name, first_problem, note_dropped

__all__ = ["Control", "Mailbox"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)


class _ReplyTo(_Part):
    exchange: Name
    routing_key: Name


class _Command(_Part):
    """A remote command, as kombu's `pidbox.Mailbox` publishes it."""

    method: Name
    arguments: dict[str, Any] | None = None
    destination: list[str] | None = None
    pattern: str | None = None
    matcher: str | None = None
    ticket: Name | None = None
    reply_to: _ReplyTo | None = None


class _Headers(_Part):
    clock: int | None = None


class Mailbox(Pidbox):  # type: ignore[misc]  # Celery ships no types
    """Celery's mailbox; a malformed command is logged and dropped."""

    def on_message(self, body: Any, message: Any) -> None:
        """Execute a command, if it is well-formed."""
        problem: str | None = None
        try:
            _Headers.model_validate(message.headers)
            command = _Command.model_validate(body)
        except ValidationError as error:
            problem = first_problem(error)
        else:
            problem = None if command.method in self.node.handlers else "there is no such command"
        if problem is None:
            super().on_message(body, message)
        else:
            note_dropped(message.delivery_info.get("routing_key", ""), problem, bytes(message.body))


class Control(control.Control):  # type: ignore[misc]  # Celery ships no types
    """Worker step that opens the mailbox."""

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.box = Mailbox(consumer)
        self.start, self.stop, self.shutdown = self.box.start, self.box.stop, self.box.shutdown
