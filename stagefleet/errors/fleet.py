"""What happens to runs, items and locks in a fleet of many."""

from __future__ import annotations

from stagefleet.errors.base import StagefleetError

__all__ = [
    "CallbackError",
    "CallbackGoneError",
    "CallbackLostError",
    "CoordinatorLostError",
    "HostGoneError",
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
    """The lease on the item is over: somebody else may hold it by now."""

    stops_others = True


class LockTimeoutError(StagefleetError):
    """A lock was not to be had in time; says who has it."""

    retryable = True


class LockLostError(StagefleetError):
    """The lease of a lock is over: somebody else may hold it by now."""

    stops_others = True

    retryable = True


class ItemCancelledError(StagefleetError):
    """The run was cancelled while the item was under way."""

    stops_others = True


class WaitTooLongError(StagefleetError):
    """An item has waited for too long in one attempt; the next one begins after a pause.

    Args:
        message: For whom, and for how long.
        retry_after_seconds: The wait that was to come.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ItemPostponedError(StagefleetError):
    """The item has to wait until another item of its run has ended.

    Args:
        message: For whom and why.
        behind: The index of the other item in the run.
    """

    def __init__(self, message: str, behind: int = 0) -> None:
        super().__init__(message)
        self.behind = behind


class WorkerLostError(StagefleetError):
    """The worker of an item vanished, as often as an item may be tried."""


class ItemLostError(StagefleetError):
    """Redis lost an item, or how it ended: it was in no set any more, as often as an item may be tried."""


class HostGoneError(StagefleetError):
    """The host that an item was for has no worker any more."""


class CoordinatorLostError(StagefleetError):
    """The client that held a run's callback vanished."""


class CallbackError(StagefleetError):
    """Who is to be called back does not answer, or not with a success.

    Args:
        message: Who, and what came instead.
        host: The receiver, as `host[:port]`; "" where it is a task.
        retry_after_seconds: How long the receiver asked to wait, None if it did not say.
    """

    retryable = True

    def __init__(self, message: str, *, host: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.host = host
        self.retry_after_seconds = retry_after_seconds

    @property
    def cause(self) -> tuple[str, str]:
        """The receiver, and what it did."""
        return self.host, super().cause[1].removeprefix(f"the webhook at {self.host} ")


class CallbackGoneError(StagefleetError):
    """Who is to be called back wants no more of the run, which so is cancelled."""


class CallbackLostError(StagefleetError):
    """Who is to be called back stayed away for longer than the settings allow."""


class RemoteError(StagefleetError):
    """An error that happened in a worker, as its outcome carries it.

    Args:
        message: The error's message.
        type_name: The name of the error's class in the worker.
    """

    def __init__(self, message: str, *, type_name: str) -> None:
        super().__init__(message)
        self.type_name = type_name
