"""How an attempt ends, told to Celery: that is what Flower shows; the ledger has the truth already."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from celery.exceptions import Ignore, Retry, Terminated

__all__ = ["TOLD_BY_EXCEPTION", "AttemptEnd", "EndKind", "ItemFailedError"]

_SHOWN_CHARACTERS = 1000
"""Of a result or reason: each event carries it, and Flower keeps it for each task."""


class ItemFailedError(Exception):
    """The item failed for good; its outcome stands in the ledger."""


class EndKind(Enum):
    """Ends of an attempt, as Celery tells them apart."""

    DONE = "done"
    """The item succeeded or was skipped."""
    RETRY = "retry"
    """The ledger has the item tried again, here or elsewhere."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOTHING = "nothing"
    """There was nothing to claim, or nobody knows: no state."""


TOLD_BY_EXCEPTION = (ItemFailedError, Terminated)
"""What a task raises on purpose: Celery logs no traceback of these."""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """The end of one attempt.

    Attributes:
        kind: How it ended.
        text: The result or the reason, in one line.
        retry_after_seconds: When the next attempt is due.
    """

    kind: EndKind
    text: str = ""
    retry_after_seconds: float = 0.0

    def tell(self) -> str:
        """Give the result, or raise what makes Celery tell the state.

        Returns:
            The result of an item that succeeded or was skipped.

        Raises:
            ItemFailedError: State FAILURE.
            Retry: State RETRY; the message is not sent again, as the ledger does that.
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
