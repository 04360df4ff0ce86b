"""Flower's view of tasks: Celery's state for the end of an attempt, arguments without secrets, reasons.

The ledger holds the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore, Retry, Terminated
from celery.worker.request import Request

from stagefleet.redaction import masked_url, quoted

_SHOWN_CHARACTERS = 1000
"""Most characters of a result or reason: each event carries it, and Flower keeps it for each task."""


class ItemFailedError(Exception):
    """The item failed for good; its outcome is in the ledger."""


class EndKind(StrEnum):
    """Ends of an attempt, by Celery's states."""

    DONE = "done"
    """The item succeeded or was skipped."""
    RETRY = "retry"
    """The ledger schedules another attempt, on this or another worker."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOTHING = "nothing"
    """There was nothing to claim, or the result is unknown: no state."""


TOLD_BY_EXCEPTION = (ItemFailedError, Terminated)
"""Exceptions that tasks raise on purpose: Celery logs no traceback of these."""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """End of one attempt; the text is the result or the reason, in one line."""

    kind: EndKind
    text: str = ""
    retry_after_seconds: float = 0.0

    def tell(self) -> str:
        """Return the result of an item that succeeded or was skipped; raise the exception for another state.

        Raises:
            ItemFailedError: State FAILURE.
            Retry: State RETRY; Celery does not send the message again, as the ledger does that.
            Terminated: State REVOKED.
            Ignore: No state.
        """
        text = " ".join(self.text.split())[:_SHOWN_CHARACTERS]
        match self.kind:
            case EndKind.DONE:
                return text
            case EndKind.FAILED:
                raise ItemFailedError(text)
            case EndKind.RETRY:
                raise Retry(message=text, exc=ItemFailedError(text), when=round(self.retry_after_seconds, 1))
            case EndKind.CANCELLED:
                raise Terminated(text)
            case EndKind.NOTHING:
                raise Ignore


# Arguments without secrets, and reasons without tracebacks.

_MOST_ENTRIES = 3


def shown_arguments(named: Mapping[str, Any]) -> str:
    """Format the unchecked arguments of a request, as Celery formats those of tasks.

    A callback URL is reduced to its host: path and query may hold a token.
    """
    shown = {quoted(name)[1:-1]: _shown(value) for name, value in named.items()}
    return repr(shown)[:_SHOWN_CHARACTERS]


def _shown(value: Any) -> Any:
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(value, str):
        return masked_url(value) if "://" in value else quoted(value)[1:-1]
    if isinstance(value, Sequence):
        more = len(value) - _MOST_ENTRIES
        return [*map(_shown, value[:_MOST_ENTRIES]), *([f"and {more} more"] if more > 0 else ())]
    return "..."


class ItemRequest(Request):  # type: ignore[misc]  # Celery ships no types
    """Request of an item task that reports the task's intended exceptions without a traceback.

    A traceback says nothing about a registry, and costs 1 KiB in each event and in Flower's memory of each
    task. For a retry, Celery (5.7) would show the retry instead of its reason.
    """

    _reason: str | None = None

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Report the end of a task that raised an exception."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, Retry):
            error = error.exc
        if isinstance(error, TOLD_BY_EXCEPTION):
            self._reason = repr(error)
        return super().on_failure(exc_info, *args, **kwargs)

    def send_event(self, kind: str, **fields: Any) -> None:
        """Send an event with the fields that Flower shows."""
        if self._reason is not None and "exception" in fields:
            fields |= {"exception": self._reason, "traceback": None}
        super().send_event(kind, **fields)


class MaskedRequest(Request):  # type: ignore[misc]  # Celery ships no types
    """Task request whose reply to remote commands shows no more than events do."""

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002 - Celery's signature
        """Return the description with masked arguments."""
        described: dict[str, Any] = super().info(safe=True)
        return described
