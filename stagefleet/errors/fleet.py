"""Errors of runs, items, locks and callbacks."""

from __future__ import annotations

from stagefleet.errors.base import StagefleetError

__all__ = [
    "CallbackDeclinedError",
    "CallbackError",
    "CallbackLostError",
    "CoordinatorLostError",
    "HostLostError",
    "ItemCancelledError",
    "ItemLostError",
    "ItemPostponedError",
    "LeaseLostError",
    "LockLostError",
    "LockTimeoutError",
    "RemoteError",
    "WaitTooLongError",
    "WorkerLostError",
]


class LeaseLostError(StagefleetError):
    """The lease on the item has expired: another worker may hold it now."""

    stops_others = True


class LockTimeoutError(StagefleetError):
    """A lock was not acquired in time; the message names its holder."""

    retryable = True


class LockLostError(StagefleetError):
    """The lease of a lock has expired: another process may hold it now."""

    stops_others = True

    retryable = True


class ItemCancelledError(StagefleetError):
    """The run was cancelled while the item was in progress."""

    stops_others = True


class WaitTooLongError(StagefleetError):
    """An item waited too long in one attempt; the next attempt begins after a pause.

    Args:
        message: The host waited for, and the time.
        retry_after_seconds: The wait that would have come next.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ItemPostponedError(StagefleetError):
    """The item must wait until another item of its run has ended.

    Args:
        message: The other item and the reason.
        behind: The index of the other item in the run.
    """

    def __init__(self, message: str, behind: int = 0) -> None:
        super().__init__(message)
        self.behind = behind


class WorkerLostError(StagefleetError):
    """The worker of an item died, as many times as an item may be attempted."""


class ItemLostError(StagefleetError):
    """Redis lost an item or its outcome, as many times as an item may be attempted."""


class HostLostError(StagefleetError):
    """The host of an item no longer has a worker."""


class CoordinatorLostError(StagefleetError):
    """The client with a run's callback died."""


class CallbackError(StagefleetError):
    """The receiver of a callback did not answer, or not with a success.

    Args:
        message: The receiver, and its answer.
        host: The receiver, as `host[:port]`; "" for a task.
        retry_after_seconds: The wait that the receiver asked for; None if it did not.
    """

    retryable = True

    def __init__(self, message: str, *, host: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.host = host
        self.retry_after_seconds = retry_after_seconds

    @property
    def cause(self) -> tuple[str, str]:
        """The receiver, and its failure."""
        return self.host, super().cause[1].removeprefix(f"the webhook at {self.host} ")


class CallbackDeclinedError(StagefleetError):
    """The receiver of a callback asked for no more calls, which cancels the run."""


class CallbackLostError(StagefleetError):
    """The receiver of a callback failed for longer than the settings allow."""


class RemoteError(StagefleetError):
    """An error in a worker, read from the outcome of an item.

    Args:
        message: The error's message.
        type_name: The name of the error's class in the worker.
    """

    def __init__(self, message: str, *, type_name: str) -> None:
        super().__init__(message)
        self.type_name = type_name
