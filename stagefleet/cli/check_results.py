"""Findings of `stagefleet doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stagefleet.errors import StagefleetError

__all__ = ["CheckResult", "State", "failed"]


class State(StrEnum):
    """The state of a part."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check.

    Attributes:
        check: The part that was checked.
        state: Its state.
        message: The finding.
        advice: The advice; "" if none is needed.
        code: The exit code; 0 unless the check failed.
    """

    check: str
    state: State
    message: str
    advice: str = ""
    code: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the finding as `doctor --json` prints it."""
        return {
            "check": self.check,
            "state": str(self.state),
            "message": self.message,
            "advice": self.advice or None,
        }


def failed(check: str, error: StagefleetError) -> CheckResult:
    """Build a finding from an error."""
    return CheckResult(check, State.FAILED, str(error), code=error.exit_code)
