"""What `stagefleet doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stagefleet.errors import StagefleetError

__all__ = ["Finding", "State", "failed"]


class State(StrEnum):
    """How a part is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        check: The part that was looked at.
        state: How it is.
        message: What was found.
        advice: What to do about it, "" where nothing needs doing.
        code: The exit code that it gives, 0 unless it failed.
    """

    check: str
    state: State
    message: str
    advice: str = ""
    code: int = 0

    def as_json(self) -> dict[str, Any]:
        """The finding as `doctor --json` prints it."""
        return {
            "check": self.check,
            "state": str(self.state),
            "message": self.message,
            "advice": self.advice or None,
        }


def failed(check: str, error: StagefleetError) -> Finding:
    """Make a finding of an error."""
    return Finding(check, State.FAILED, str(error), code=error.exit_code)
