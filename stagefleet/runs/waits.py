"""Waits of a run: for whom, why and until when, as whoever follows the run is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict

from stagefleet.bounds import clean
from stagefleet.errors import StagefleetError
from stagefleet.settings import RunSettings

__all__ = ["Wait", "WaitKind", "WaitReason", "bounded_pause"]

_KEPT_CHARACTERS = 200
"""Of a reason: the ledger keeps one a run, of bounded size."""


class WaitKind(StrEnum):
    """Kinds of waits."""

    RETRY = "retry"
    """Items whose attempt failed wait for their next one."""
    PAUSE = "pause"
    """A worker that has an item waits, as a registry asked it to, or for a lock."""
    CALLBACK = "callback"
    """Outcomes wait for a receiver that did not take one."""


class WaitReason(BaseModel):
    """A reason to wait.

    Attributes:
        host: Who is waited for, as `host[:port]`; "" where it is no host.
        text: What happened, as `429 Too Many Requests`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    host: str = ""
    text: str = ""

    @classmethod
    def of(cls, error: StagefleetError) -> Self:
        """Tell whom an error makes us wait for."""
        host, text = error.cause
        return cls(host=host, text=text).bounded()

    def bounded(self) -> Self:
        """Cut it to what a ledger keeps."""
        return self.model_copy(
            update={"host": self.host[:_KEPT_CHARACTERS], "text": clean(self.text[:_KEPT_CHARACTERS])}
        )

    def __str__(self) -> str:
        """Say it after the word "wait": `for HOST (TEXT)`."""
        if not self.text:
            return f"for {self.host}" if self.host else "for another attempt"
        return f"for {self.host} ({self.text})" if self.host else f"({self.text})"


def bounded_pause(seconds: float, settings: RunSettings) -> float:
    """Bound a pause of an item; what is no number is the longest one.

    >>> bounded_pause(float("nan"), RunSettings()), bounded_pause(-1, RunSettings())
    (3600, 0)
    """
    return max(0, min(settings.longest_pause_seconds, seconds))


@dataclass(frozen=True, slots=True)
class Wait:
    """Something in a run that waits, as the ledger knows it at one moment.

    Attributes:
        kind: What waits.
        reason: The latest reason; others may wait for others.
        until: The soonest end, in seconds since 1970 on the ledger's clock.
        count: How many items or outcomes wait; of a pause, one.
    """

    kind: WaitKind
    reason: WaitReason
    until: float
    count: int = 1
