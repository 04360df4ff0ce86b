"""The tree of errors, which `docs/python.md` draws; each can be pickled, and says what a person can do."""

import copyreg
from http import HTTPStatus
from typing import Any, ClassVar

from stagefleet.redaction import redact


class StagefleetError(Exception):
    """The base of all errors that Stagefleet raises on purpose; its message holds no password or token."""

    retryable: ClassVar[bool] = False  # True: the same attempt may succeed later, without a person's help
    retry_pauses_seconds: ClassVar[tuple[float, ...]] = ()  # one per further attempt; else the settings'
    stops_others: bool = False  # True: it would affect the other stages of a storage too, so work on it stops
    exit_code: ClassVar[int] = 1  # of a command that ends with this error
    host: str = ""  # the registry or receiver that it is about, as `host[:port]`

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(part) if isinstance(part, str) else part for part in arguments))

    @property
    def cause(self) -> tuple[str, str]:
        """The host that delays others, and the reason in a few words."""
        text = " ".join(str(self).split())
        about = f"{self.host} " if self.host else ""
        return self.host, text.removeprefix(about).removeprefix(f"the webhook at {about}" if about else "")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by state, which works for keyword-only constructors."""
        return copyreg.__newobj__, (type(self), *self.args), dict(self.__dict__)  # type: ignore[attr-defined]


class UsageError(StagefleetError):
    """Invalid use or configuration; no work was started."""

    stops_others = True
    exit_code = 2


class InvalidNameError(UsageError, ValueError):
    """A malformed repository, reference, digest or stage id."""

    stops_others = False  # the name may come from a registry


class SettingsError(UsageError):
    """The settings cannot be read; the message names the file and the key."""


class OutputError(UsageError):
    """The result of a command cannot be written: stdout is closed, or the disk is full."""


class RedisConfigurationError(UsageError):
    """The Redis server cannot be used as configured: login, rights, database, TLS, mode or version."""


class TooManyItemsError(UsageError):
    """A run has more items than allowed."""


class KeyConflictError(UsageError):
    """An idempotency key was used before with other arguments."""


class RunNotFoundError(UsageError):
    """The run does not exist, or has expired."""


class RepositoryNotFoundError(UsageError):
    """A repository does not exist, or the server at its address is not a registry."""


class StagesNotFoundError(UsageError):
    """The source lacks stages that were named."""


class CredentialsError(UsageError):
    """A registry rejected the login, or a credential helper failed; the message names the file read."""


class EngineNotFoundError(UsageError):
    """This host has no Docker Engine."""


class HostNotFoundError(UsageError):
    """No live worker has the Docker Engine of a named host; the message lists the known hosts."""


class IncompatibleVersionError(UsageError):
    """The data was written by a release that this one cannot read; the message names both versions."""


class UnreachableError(StagefleetError):
    """A service does not answer."""

    retryable = True
    stops_others = True
    exit_code = 4


class RedisUnreachableError(UnreachableError):
    """Redis does not answer at the configured URL, or refuses for now: failover, loading, or full."""


class LedgerRewoundError(UnreachableError):
    """Redis lost data that it had confirmed, as after a failover to a replica that lagged."""


class RegistryUnreachableError(UnreachableError):
    """A connection to a registry, `host[:port]`, failed or broke; `is_unknown`: no host has this name."""

    def __init__(self, message: str, *, host: str = "", is_unknown: bool = False) -> None:
        super().__init__(message)
        self.host = host
        self.is_unknown = is_unknown


class CertificateError(RegistryUnreachableError):
    """The certificate of a registry is not trusted."""

    retryable = False


class PlainHttpError(RegistryUnreachableError):
    """The registry speaks TLS and was called without it; the message names the setting."""

    retryable = False


class DeadlineMissedError(StagefleetError):
    """A request was not sent, since its lease or permit had become too old."""

    retryable = True


class CircuitOpenError(UnreachableError):
    """A cache did not answer, and is skipped for a while."""


class EngineUnreachableError(UnreachableError):
    """A Docker Engine does not answer, or closed the connection."""


class NoWorkerError(UnreachableError):
    """No worker listens to the queue of a run."""

    retryable = False


class RegistryError(StagefleetError):
    """A registry answered with an error; `codes` are its own (OCI distribution 1.1, "Error Codes")."""

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        repository: str = "",
        status: int = 0,
        codes: tuple[str, ...] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.method = method
        self.repository = repository
        self.host = repository.partition("/")[0]
        self.status = status
        self.codes = codes
        self.retry_after_seconds = retry_after_seconds

    @property
    def cause(self) -> tuple[str, str]:
        """The registry and its status, as `429 Too Many Requests`."""
        host, text = super().cause
        phrase = next((known.phrase for known in HTTPStatus if known == self.status), "")
        return host, f"{self.status} {phrase}".strip() if host and self.status else text


class ForbiddenError(RegistryError):
    """The registry accepts the login but does not allow the request (403)."""

    stops_others = True


class NotFoundError(RegistryError):
    """The repository, manifest or blob does not exist (404)."""


class RateLimitedError(RegistryError):
    """The registry asks to slow down (429), for longer than the settings allow a request to wait."""

    retryable = True
    stops_others = True


class RegistryUnavailableError(RegistryError):
    """The registry failed for now (5xx, 408, 425)."""

    retryable = True


class ManifestRefusedError(RegistryError):
    """The registry rejected a manifest for blobs or members of it that are `missing`, if it named them."""

    retryable = True

    def __init__(self, message: str, *, missing: tuple[str, ...] = (), **context: Any) -> None:
        super().__init__(message, **context)
        self.missing = missing


class DeletionDisabledError(RegistryError):
    """Deletion is switched off in the registry; the message names the setting that enables it."""


class EngineError(StagefleetError):
    """A Docker Engine answered with an HTTP status; 0 for an error in the middle of a pull or push."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ContentError(StagefleetError):
    """The content is not the expected one."""


class DigestMismatchError(ContentError):
    """The digest or size of the content does not match its name; `found` is the digest, "" if unknown."""

    retryable = True

    def __init__(self, message: str, *, found: str = "") -> None:
        super().__init__(message)
        self.found = found


class StoredDigestError(DigestMismatchError):
    """A registry reports that it stored other content than it was sent; a retry would not help."""

    retryable = False


class TruncatedError(ContentError):
    """The content broke off and could not be resumed."""

    retryable = True


class ShortContentError(TruncatedError):
    """The source ends the content before its size, each time that it is asked."""


class UnsupportedManifestError(ContentError):
    """The manifest is neither of a Docker nor of an OCI type."""


class BrokenStageError(ContentError):
    """The registry lists the stage, but cannot serve its manifest or one of its blobs."""


class MissingContentError(BrokenStageError):
    """The storage lacks a part of the stage that it lists."""


class AlteredContentError(BrokenStageError):
    """A part of the stage is not the content of its digest, or unpacks to another than was built."""


class UnreadableContentError(BrokenStageError):
    """A part of the stage is as it was pushed, and nobody can use it."""


class BrokenRecordError(ContentError):
    """The labels of a record are missing or invalid; the record is not modified."""


class StageNotFoundError(StagefleetError):
    """The stage does not exist, or no longer."""


class PlatformNotFoundError(StagefleetError):
    """A stage has no image for a requested platform; the message lists those it has."""


class StorageStateChangedError(StagefleetError):
    """The storage changed after it was read: read it again, and continue from there."""

    retryable = True
    retry_pauses_seconds = (2.0, 4.0, 8.0, 10.0)


class ImageInUseError(StagefleetError):
    """A job or a container on the host uses the image; the message names it, and says what to do."""


class CustomTagError(StagefleetError):
    """A custom tag is missing, or names an image other than that of its stage."""


class SharedDigestError(StagefleetError):
    """Deletion would remove tags that were not selected, and the registry offers no other way."""


class PruneLimitError(StagefleetError):
    """More of a destination would be deleted than was allowed; nothing is deleted."""


class IndexNotDeletedError(StagefleetError):
    """A stage is kept, because an index of the same run with it as a member could not be deleted."""


class LeaseLostError(StagefleetError):
    """The lease on the item has expired: another worker may hold it now."""

    stops_others = True


class LockTimeoutError(StagefleetError):
    """A lock was not acquired in time; the message names its holder."""

    retryable = True


class LockLostError(StagefleetError):
    """The lease of a lock has expired: another process may hold it now."""

    retryable = True
    stops_others = True


class ItemCancelledError(StagefleetError):
    """The run was cancelled while the item was in progress."""

    stops_others = True


class WaitTooLongError(StagefleetError):
    """An item waited too long in one attempt; `retry_after_seconds` is the wait that would have come next."""

    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ItemPostponedError(StagefleetError):
    """The item must wait until another item of its run has ended, whose index is `behind`."""

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
    """The receiver of a callback, `host[:port]` or "" for a task, did not answer with a success."""

    retryable = True

    def __init__(self, message: str, *, host: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.host = host
        self.retry_after_seconds = retry_after_seconds


class CallbackDeclinedError(StagefleetError):
    """The receiver of a callback asked for no more calls, which cancels the run."""


class CallbackLostError(StagefleetError):
    """The receiver of a callback failed for longer than the settings allow."""


class RemoteError(StagefleetError):
    """An error in a worker, of the class `type_name`, read from the outcome of an item."""

    def __init__(self, message: str, *, type_name: str) -> None:
        super().__init__(message)
        self.type_name = type_name
