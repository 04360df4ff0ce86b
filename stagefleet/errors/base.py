"""What all errors of Stagefleet have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

from stagefleet.redaction import redact

__all__ = ["StagefleetError"]


def _rebuild(cls: type[StagefleetError], args: tuple[Any, ...], state: dict[str, Any]) -> StagefleetError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class StagefleetError(Exception):
    """The base of all errors that Stagefleet raises on purpose.

    Args:
        *arguments: The message first, written so that it holds no secret. What this process has read as one
            is masked all the same: a message may quote others.
    """

    retryable: ClassVar[bool] = False
    """Whether the same attempt may succeed later without anybody changing anything."""
    retry_pauses_seconds: ClassVar[tuple[float, ...]] = ()
    """The pause before each further attempt, after which there is none; where empty, the settings say."""
    stops_others: bool = False
    """Whether the other stages of a storage would meet it too, so that the work on all of them stops."""
    exit_code: ClassVar[int] = 1
    """The command's exit code when this error ends it."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(part) if isinstance(part, str) else part for part in arguments))

    @property
    def cause(self) -> tuple[str, str]:
        """Whom it makes others wait for, as `host[:port]` or "", and why, in a few words."""
        return "", " ".join(str(self).split())

    def __reduce__(
        self,
    ) -> tuple[Callable[..., StagefleetError], tuple[type[Self], tuple[Any, ...], dict[str, Any]]]:
        """Pickle by state, so that keyword-only constructors do not matter."""
        return _rebuild, (type(self), self.args, dict(self.__dict__))
