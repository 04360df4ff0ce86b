"""Celery states for the end of an attempt, for Flower; the ledger holds the truth."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from celery.exceptions import Ignore, Retry, Terminated

__all__ = ["TOLD_BY_EXCEPTION", "AttemptEnd", "EndKind", "ItemFailedError"]

_SHOWN_CHARACTERS = 1000
"""Most characters of a result or reason: each event carries it, and Flower keeps it for each task."""


class ItemFailedError(Exception):
    """The item failed for good; its outcome is in the ledger."""


class EndKind(Enum):
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
    """End of one attempt.

    Attributes:
        kind: Its kind.
        text: The result or the reason, in one line.
        retry_after_seconds: Time until the next attempt.
    """

    kind: EndKind
    text: str = ""
    retry_after_seconds: float = 0.0

    def tell(self) -> str:
        """Return the result, or raise the exception for Celery's state.

        Returns:
            The result of an item that succeeded or was skipped.

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
