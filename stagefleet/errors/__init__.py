"""The errors of Stagefleet.

    StagefleetError
    +-- UsageError                    invalid use or configuration: exit code 2
    |   +-- InvalidNameError          a malformed repository, digest or stage id
    |   +-- SettingsError             the settings cannot be read
    |   +-- OutputError               stdout is closed, or leads to a full disk
    |   +-- RedisConfigurationError   login, rights, database, TLS, mode or version of Redis are wrong
    |   +-- TooManyItemsError         a run of more items than a run may have
    |   +-- KeyConflictError          an idempotency key reused with other arguments
    |   +-- RepositoryNotFoundError   no such repository, or the server is no registry
    |   +-- RunNotFoundError          no such run, or it has expired
    |   +-- StagesNotFoundError        the source lacks stages that were named
    |   +-- CredentialsError          a login was rejected, or a credential helper failed
    |   +-- EngineNotFoundError        there is no Docker Engine here
    |   +-- HostNotFoundError          no live worker has the Docker Engine of that host
    |   +-- IncompatibleVersionError  written by a release that this one cannot read
    +-- UnreachableError              a service does not answer: exit code 4 (retryable, as those below)
    |   +-- RedisUnreachableError     Redis does not answer, or refuses for now
    |   +-- LedgerRewoundError        Redis lost data that it had confirmed
    |   +-- RegistryUnreachableError
    |   |   +-- CertificateError      no trusted TLS connection (not retryable)
    |   |   +-- PlainHttpError        the registry speaks TLS and was called without it (not retryable)
    |   +-- CircuitOpenError       a cache that did not answer is skipped for a while
    |   +-- EngineUnreachableError    a Docker Engine
    |   +-- NoWorkerError             no worker listens to the run's queue (not retryable)
    +-- RegistryError                 a registry answered with an error
    |   +-- ForbiddenError            403
    |   +-- NotFoundError             404
    |   +-- RateLimitedError          429 (retryable)
    |   +-- RegistryUnavailableError  5xx (retryable)
    |   +-- ManifestRefusedError      a manifest was rejected for missing blobs (retryable)
    |   +-- DeletionDisabledError     deletion is switched off
    +-- EngineError                   a Docker Engine answered with an error
    +-- ContentError                  the content is not the expected one
    |   +-- DigestMismatchError       (retryable)
    |   |   +-- StoredDigestError     a registry stored other content than it was sent (not retryable)
    |   +-- TruncatedError            (retryable)
    |   +-- UnsupportedManifestError  neither a manifest nor an index of a known type
    |   +-- BrokenStageError          the registry lists the stage but cannot serve it
    |   +-- BrokenRecordError         a record whose labels are missing or cannot be read
    +-- StageNotFoundError            the stage does not exist, or not any more
    +-- PlatformNotFoundError          the stage has no image for a platform
    +-- StorageStateChangedError      the storage changed after it was read: read it again (retryable)
    +-- ImageInUseError               a job or a container on the host uses the image
    +-- CustomTagError                a custom tag is missing, or names another image than its stage
    +-- SharedDigestError             deletion would remove further tags
    +-- IndexNotDeletedError               a member was kept, as its index could not be deleted
    +-- DeadlineMissedError           a request was not sent, as its lease or permit was too old (retryable)
    +-- LeaseLostError                the lease of an item expired
    +-- LockTimeoutError              a lock was not acquired in time (retryable)
    +-- LockLostError                 the lease of a lock expired (retryable)
    +-- ItemCancelledError            the run was cancelled while the item was in progress
    +-- WaitTooLongError              an item waited too long in one attempt (retryable)
    +-- ItemPostponedError            the item has to wait until another item of its run has ended
    +-- WorkerLostError               the worker of an item died
    +-- ItemLostError                 Redis lost an item, or its outcome
    +-- HostLostError                 the host of an item no longer has a worker
    +-- CoordinatorLostError          the client with a run's callback died
    +-- CallbackError                 the callback's receiver failed (retryable)
    +-- CallbackDeclinedError             the callback's receiver ended the run
    +-- CallbackLostError             the callback's receiver failed for too long
    +-- RemoteError                   an error of a worker, read from an outcome

Every error can be pickled, says what a person can do, and never holds a password or token.
"""

from stagefleet.errors.base import StagefleetError
from stagefleet.errors.fleet import (
    CallbackDeclinedError,
    CallbackError,
    CallbackLostError,
    CoordinatorLostError,
    HostLostError,
    ItemCancelledError,
    ItemLostError,
    ItemPostponedError,
    LeaseLostError,
    LockLostError,
    LockTimeoutError,
    RemoteError,
    WaitTooLongError,
    WorkerLostError,
)
from stagefleet.errors.responses import (
    DeletionDisabledError,
    EngineError,
    ForbiddenError,
    ManifestRefusedError,
    NotFoundError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
)
from stagefleet.errors.storage import (
    BrokenRecordError,
    BrokenStageError,
    ContentError,
    CustomTagError,
    DigestMismatchError,
    ImageInUseError,
    IndexNotDeletedError,
    PlatformNotFoundError,
    SharedDigestError,
    StageNotFoundError,
    StorageStateChangedError,
    StoredDigestError,
    TruncatedError,
    UnsupportedManifestError,
)
from stagefleet.errors.unreachable import (
    CertificateError,
    CircuitOpenError,
    DeadlineMissedError,
    EngineUnreachableError,
    LedgerRewoundError,
    NoWorkerError,
    PlainHttpError,
    RedisUnreachableError,
    RegistryUnreachableError,
    UnreachableError,
)
from stagefleet.errors.usage import (
    CredentialsError,
    EngineNotFoundError,
    HostNotFoundError,
    IncompatibleVersionError,
    InvalidNameError,
    KeyConflictError,
    OutputError,
    RedisConfigurationError,
    RepositoryNotFoundError,
    RunNotFoundError,
    SettingsError,
    StagesNotFoundError,
    TooManyItemsError,
    UsageError,
)

__all__ = [
    "BrokenRecordError",
    "BrokenStageError",
    "CallbackDeclinedError",
    "CallbackError",
    "CallbackLostError",
    "CertificateError",
    "CircuitOpenError",
    "ContentError",
    "CoordinatorLostError",
    "CredentialsError",
    "CustomTagError",
    "DeadlineMissedError",
    "DeletionDisabledError",
    "DigestMismatchError",
    "EngineError",
    "EngineNotFoundError",
    "EngineUnreachableError",
    "ForbiddenError",
    "HostLostError",
    "HostNotFoundError",
    "ImageInUseError",
    "IncompatibleVersionError",
    "IndexNotDeletedError",
    "InvalidNameError",
    "ItemCancelledError",
    "ItemLostError",
    "ItemPostponedError",
    "KeyConflictError",
    "LeaseLostError",
    "LedgerRewoundError",
    "LockLostError",
    "LockTimeoutError",
    "ManifestRefusedError",
    "NoWorkerError",
    "NotFoundError",
    "OutputError",
    "PlainHttpError",
    "PlatformNotFoundError",
    "RateLimitedError",
    "RedisConfigurationError",
    "RedisUnreachableError",
    "RegistryError",
    "RegistryUnavailableError",
    "RegistryUnreachableError",
    "RemoteError",
    "RepositoryNotFoundError",
    "RunNotFoundError",
    "SettingsError",
    "SharedDigestError",
    "StageNotFoundError",
    "StagefleetError",
    "StagesNotFoundError",
    "StorageStateChangedError",
    "StoredDigestError",
    "TooManyItemsError",
    "TruncatedError",
    "UnreachableError",
    "UnsupportedManifestError",
    "UsageError",
    "WaitTooLongError",
    "WorkerLostError",
]
