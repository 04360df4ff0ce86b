"""Waits of a run: host, reason and end, as the run's observers see them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict

from stagefleet.bounds import clean
from stagefleet.errors import StagefleetError
from stagefleet.settings import RunSettings

_KEPT_CHARACTERS = 200
"""Most characters of a reason: the ledger stores one per run, of bounded size."""


class WaitKind(StrEnum):
    """Kind of a wait."""

    RETRY = "retry"
    """Failed items wait for their next attempt."""
    PAUSE = "pause"
    """A worker with an item waits, as a registry asked it to, or for a lock."""
    CALLBACK = "callback"
    """Outcomes wait for a receiver that did not accept one."""


class WaitReason(BaseModel):
    """Reason of a wait: the host, `host[:port]` or "", and the event, as `429 Too Many Requests`."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True)

    host: str = ""
    text: str = ""

    @classmethod
    def of(cls, error: StagefleetError) -> Self:
        """Build the reason from an error."""
        host, text = error.cause
        return cls(host=host, text=text).bounded()

    def bounded(self) -> Self:
        """Shorten it to the size that the ledger stores."""
        return self.model_copy(
            update={"host": self.host[:_KEPT_CHARACTERS], "text": clean(self.text[:_KEPT_CHARACTERS])}
        )

    def __str__(self) -> str:
        """Format it to follow the word "wait": `for HOST (TEXT)`."""
        if not self.text:
            return f"for {self.host}" if self.host else "for another attempt"
        return f"for {self.host} ({self.text})" if self.host else f"({self.text})"


def bounded_pause(seconds: float, settings: RunSettings) -> float:
    """Limit a pause of an item; a NaN becomes the longest one.

    >>> bounded_pause(float("nan"), RunSettings()), bounded_pause(-1, RunSettings())
    (3600, 0)
    """
    return max(0, min(settings.longest_pause_seconds, seconds))


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait in a run at one moment, from the ledger.

    Attributes:
        reason: The latest reason; other items may wait for other reasons.
        until: The earliest end, in seconds since 1970 on the ledger's clock.
        count: Number of waiting items or outcomes; 1 for a pause.
    """

    kind: WaitKind
    reason: WaitReason
    until: float
    count: int = 1
