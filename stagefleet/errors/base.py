"""The base class of all errors."""

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
        *arguments: The message first, without secrets. Secrets that this process has read are masked anyway,
            since a message may quote other text.
    """

    retryable: ClassVar[bool] = False
    """True if the same attempt may succeed later without any change by a person."""
    retry_pauses_seconds: ClassVar[tuple[float, ...]] = ()
    """The pauses before further attempts, one per attempt; if empty, the settings apply."""
    stops_others: bool = False
    """True if the error would affect the other stages of a storage too, so that all work on it stops."""
    exit_code: ClassVar[int] = 1
    """The exit code of a command that ends with this error."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(part) if isinstance(part, str) else part for part in arguments))

    @property
    def cause(self) -> tuple[str, str]:
        """The host that delays others, as `host[:port]` or "", and the reason in a few words."""
        return "", " ".join(str(self).split())

    def __reduce__(
        self,
    ) -> tuple[Callable[..., StagefleetError], tuple[type[Self], tuple[Any, ...], dict[str, Any]]]:
        """Pickle by state, which works for keyword-only constructors."""
        return _rebuild, (type(self), self.args, dict(self.__dict__))
