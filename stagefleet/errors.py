"""The errors of Stagefleet.

    StagefleetError
    +-- UsageError                    wrong use or configuration: exit code 2
    |   +-- InvalidNameError          a malformed repository, digest or stage id
    |   +-- SettingsError             the settings cannot be read
    |   +-- TooManyItemsError         a run of more items than a run may have
    |   +-- KeyConflictError          an idempotency key used before with other arguments
    |   +-- RunNotFoundError          no such run, or it has expired
    |   +-- StagesMissingError        stages were named that the source does not have
    |   +-- CredentialsError          a login refused, or a credential helper that fails
    |   +-- EngineMissingError        there is no Docker Engine here
    |   +-- HostMissingError          no live worker has the Docker Engine of that host
    +-- UnreachableError              a service does not answer: exit code 4 (retryable, as those below)
    |   +-- RedisUnreachableError
    |   +-- RegistryUnreachableError
    |   |   +-- CertificateError      no trusted TLS connection (not retryable)
    |   +-- EngineUnreachableError    a Docker Engine
    |   +-- NoWorkerError             nobody listens to the run's queue (not retryable)
    +-- RegistryError                 what a registry answered
    |   +-- ForbiddenError            403
    |   +-- NotFoundError             404
    |   +-- RateLimitedError          429 (retryable)
    |   +-- RegistryUnavailableError  5xx (retryable)
    |   +-- ManifestRefusedError      a manifest was not accepted; names the blobs that it lacked (retryable)
    |   +-- DeletionDisabledError     deletion is switched off
    +-- EngineError                   what a Docker Engine answered
    +-- ContentError                  what arrived is not what was asked for
    |   +-- DigestMismatchError       (retryable)
    |   +-- TruncatedError            (retryable)
    |   +-- UnsupportedManifestError  neither a manifest nor an index that we know
    |   +-- BrokenStageError          the registry knows of the stage but cannot give it
    |   +-- BrokenRecordError         a record whose labels are missing or cannot be read
    +-- StageNotFoundError            the stage does not exist, or not any more
    +-- StorageStateChangedError      what was found a moment ago is there no more: look again (retryable)
    +-- ImageInUseError               a job or a container on the host uses the image
    +-- CustomTagError                a custom tag is missing, or names another image than its stage
    +-- SharedDigestError             deleting would take tags that nobody asked for
    +-- LeaseLostError                somebody else may hold the item by now
    +-- LockTimeoutError              a lock was not to be had in time (retryable)
    +-- LockLostError                 the lease of a lock is over (retryable)
    +-- ItemCancelledError            the run was cancelled while the item was under way
    +-- WorkerLostError               the worker of an item vanished
    +-- HostGoneError                 the host that an item was for has no worker any more
    +-- CoordinatorLostError          the client that held a run's callback vanished
    +-- CallbackError                 who is to be called back does not take it (retryable)
    +-- CallbackGoneError             who is to be called back wants no more of the run
    +-- CallbackLostError             who is to be called back stayed away for too long
    +-- RemoteError                   an error of a worker, as its outcome carries it

Every error survives pickling, says what a person can do, and never holds a password or token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

__all__ = [
    "BrokenRecordError",
    "BrokenStageError",
    "CallbackError",
    "CallbackGoneError",
    "CallbackLostError",
    "CertificateError",
    "ContentError",
    "CoordinatorLostError",
    "CredentialsError",
    "CustomTagError",
    "DeletionDisabledError",
    "DigestMismatchError",
    "EngineError",
    "EngineMissingError",
    "EngineUnreachableError",
    "ForbiddenError",
    "HostGoneError",
    "HostMissingError",
    "ImageInUseError",
    "InvalidNameError",
    "ItemCancelledError",
    "KeyConflictError",
    "LeaseLostError",
    "LockLostError",
    "LockTimeoutError",
    "ManifestRefusedError",
    "NoWorkerError",
    "NotFoundError",
    "RateLimitedError",
    "RedisUnreachableError",
    "RegistryError",
    "RegistryUnavailableError",
    "RegistryUnreachableError",
    "RemoteError",
    "RunNotFoundError",
    "SettingsError",
    "SharedDigestError",
    "StageNotFoundError",
    "StagefleetError",
    "StagesMissingError",
    "StorageStateChangedError",
    "TooManyItemsError",
    "TruncatedError",
    "UnreachableError",
    "UnsupportedManifestError",
    "UsageError",
    "WorkerLostError",
]


def _rebuild(cls: type[StagefleetError], args: tuple[Any, ...], state: dict[str, Any]) -> StagefleetError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class StagefleetError(Exception):
    """The base of all errors that Stagefleet raises on purpose."""

    retryable: ClassVar[bool] = False
    """Whether the same attempt may succeed later without anybody changing anything."""
    exit_code: ClassVar[int] = 1
    """The command's exit code when this error ends it."""

    def __reduce__(
        self,
    ) -> tuple[Callable[..., StagefleetError], tuple[type[Self], tuple[Any, ...], dict[str, Any]]]:
        """Pickle by state, so that keyword-only constructors do not matter."""
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class UsageError(StagefleetError):
    """Wrong use or configuration; nothing was started."""

    exit_code = 2


class InvalidNameError(UsageError, ValueError):
    """A malformed repository, reference, digest or stage id."""


class SettingsError(UsageError):
    """Settings that cannot be read; names the file and the key."""


class TooManyItemsError(UsageError):
    """A run of more items than a run may have."""


class KeyConflictError(UsageError):
    """An idempotency key that was used before with other arguments."""


class RunNotFoundError(UsageError):
    """No such run, or it has expired."""


class StagesMissingError(UsageError):
    """Stages were named that the source does not have."""


class CredentialsError(UsageError):
    """A registry refused the login, or a credential helper failed; says which file was read."""


class EngineMissingError(UsageError):
    """There is no Docker Engine here."""


class HostMissingError(UsageError):
    """No live worker has the Docker Engine of a host that was named; says which hosts there are."""


class UnreachableError(StagefleetError):
    """A service does not answer."""

    retryable = True
    exit_code = 4


class RedisUnreachableError(UnreachableError):
    """Redis does not answer at the configured URL."""


class RegistryUnreachableError(UnreachableError):
    """A registry cannot be connected to, or the connection broke in the middle."""


class CertificateError(RegistryUnreachableError):
    """A registry's certificate is not to be trusted."""

    retryable = False


class EngineUnreachableError(UnreachableError):
    """A Docker Engine does not answer, or broke off in the middle."""


class NoWorkerError(UnreachableError):
    """No worker listens to the queue of a run."""

    retryable = False


class RegistryError(StagefleetError):
    """A registry answered with an error.

    Args:
        message: What went wrong and what to do, for a person.
        method: The HTTP method of the request.
        repository: The repository asked, as `host/path`.
        status: The HTTP status of the answer.
        codes: The registry's own error codes (OCI distribution specification 1.1, "Error Codes").
    """

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        repository: str = "",
        status: int = 0,
        codes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.method = method
        self.repository = repository
        self.status = status
        self.codes = codes


class ForbiddenError(RegistryError):
    """The login is known but may not do this (403)."""


class NotFoundError(RegistryError):
    """The repository, manifest or blob does not exist (404)."""


class RateLimitedError(RegistryError):
    """The registry asks to slow down (429), for longer than the settings let a request wait.

    Args:
        message: As in `RegistryError`.
        retry_after_seconds: How long the registry asked to wait, None if it did not say.
        **context: As in `RegistryError`.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.retry_after_seconds = retry_after_seconds


class RegistryUnavailableError(RegistryError):
    """The registry fails inside (5xx)."""

    retryable = True


class ManifestRefusedError(RegistryError):
    """A manifest was refused because blobs or members that it names are not there.

    Args:
        message: As in `RegistryError`.
        missing: The digests that the registry named; empty if it named none.
        **context: As in `RegistryError`.
    """

    retryable = True

    def __init__(self, message: str, *, missing: tuple[str, ...] = (), **context: Any) -> None:
        super().__init__(message, **context)
        self.missing = missing


class DeletionDisabledError(RegistryError):
    """Deletion is switched off in the registry; says which setting turns it on."""


class EngineError(StagefleetError):
    """A Docker Engine answered with an error.

    Args:
        message: What went wrong, in the engine's words, and what to do.
        status: The HTTP status of the answer; 0 for an error in the middle of a pull or push.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ContentError(StagefleetError):
    """What arrived is not what was asked for."""


class DigestMismatchError(ContentError):
    """Content whose digest or size is not the one that names it."""

    retryable = True


class TruncatedError(ContentError):
    """Content that broke off and could not be resumed."""

    retryable = True


class UnsupportedManifestError(ContentError):
    """A manifest of a kind that is neither Docker's nor OCI's."""


class BrokenStageError(ContentError):
    """The registry knows of the stage, but cannot give its manifest or one of its blobs."""


class BrokenRecordError(ContentError):
    """A record whose labels are missing or say what cannot be; it is left alone."""


class StageNotFoundError(StagefleetError):
    """The stage does not exist, or not any more."""


class StorageStateChangedError(StagefleetError):
    """A storage is not any more what it was found to be a moment ago: look again, and go on from there."""

    retryable = True
    retry_after_seconds = 2.0
    """The shortest pause before the next look."""


class ImageInUseError(StagefleetError):
    """A job or a container on the host uses the image; says which, and what to do."""


class CustomTagError(StagefleetError):
    """A custom tag is missing, or names another image than the stage that it was given to."""


class SharedDigestError(StagefleetError):
    """Deleting would take tags that nobody asked for, and the registry leaves no other way."""


class LeaseLostError(StagefleetError):
    """The lease on the item is over: somebody else may hold it by now."""


class LockTimeoutError(StagefleetError):
    """A lock was not to be had in time; says who has it."""

    retryable = True


class LockLostError(StagefleetError):
    """The lease of a lock is over: somebody else may hold it by now."""

    retryable = True


class ItemCancelledError(StagefleetError):
    """The run was cancelled while the item was under way."""


class WorkerLostError(StagefleetError):
    """The worker of an item vanished, as often as an item may be tried."""


class HostGoneError(StagefleetError):
    """The host that an item was for has no worker any more."""


class CoordinatorLostError(StagefleetError):
    """The client that held a run's callback vanished."""


class CallbackError(StagefleetError):
    """Who is to be called back does not answer, or not with a success.

    Args:
        message: Who, and what came instead.
        retry_after_seconds: How long the receiver asked to wait, None if it did not say.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


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
