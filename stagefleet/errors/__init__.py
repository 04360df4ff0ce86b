"""The errors of Stagefleet.

    StagefleetError
    +-- UsageError                    wrong use or configuration: exit code 2
    |   +-- InvalidNameError          a malformed repository, digest or stage id
    |   +-- SettingsError             the settings cannot be read
    |   +-- OutputError               stdout is closed, or leads to a full disk
    |   +-- RedisConfigurationError   login, rights, database, TLS, mode or version of Redis are wrong
    |   +-- TooManyItemsError         a run of more items than a run may have
    |   +-- KeyConflictError          an idempotency key used before with other arguments
    |   +-- RepositoryNotFoundError   no such repository, or what answers there is no registry
    |   +-- RunNotFoundError          no such run, or it has expired
    |   +-- StagesMissingError        stages were named that the source does not have
    |   +-- CredentialsError          a login refused, or a credential helper that fails
    |   +-- EngineMissingError        there is no Docker Engine here
    |   +-- HostMissingError          no live worker has the Docker Engine of that host
    |   +-- IncompatibleVersionError  written by a release that this one cannot read
    +-- UnreachableError              a service does not answer: exit code 4 (retryable, as those below)
    |   +-- RedisUnreachableError     Redis does not answer, or refuses for now
    |   +-- LedgerRewoundError        Redis has forgotten what it had confirmed
    |   +-- RegistryUnreachableError
    |   |   +-- CertificateError      no trusted TLS connection (not retryable)
    |   +-- CacheLeftAloneError       a cache that did not answer, and is not asked for a while
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
    |   |   +-- StoredDigestError     a registry stored something else than it was sent (not retryable)
    |   +-- TruncatedError            (retryable)
    |   +-- UnsupportedManifestError  neither a manifest nor an index that we know
    |   +-- BrokenStageError          the registry knows of the stage but cannot give it
    |   +-- BrokenRecordError         a record whose labels are missing or cannot be read
    +-- StageNotFoundError            the stage does not exist, or not any more
    +-- PlatformMissingError          the stage has no image for a platform
    +-- StorageStateChangedError      what was found a moment ago is there no more: look again (retryable)
    +-- ImageInUseError               a job or a container on the host uses the image
    +-- CustomTagError                a custom tag is missing, or names another image than its stage
    +-- SharedDigestError             deleting would take tags that nobody asked for
    +-- IndexStaysError               a member stays, as an index that has it could not be deleted
    +-- DeadlineMissedError           a request was not sent, as what allows it was too old (retryable)
    +-- LeaseLostError                somebody else may hold the item by now
    +-- LockTimeoutError              a lock was not to be had in time (retryable)
    +-- LockLostError                 the lease of a lock is over (retryable)
    +-- ItemCancelledError            the run was cancelled while the item was under way
    +-- WaitTooLongError              an item has waited for too long in one attempt (retryable)
    +-- ItemPostponedError            the item has to wait until another item of its run has ended
    +-- WorkerLostError               the worker of an item vanished
    +-- ItemLostError                 Redis lost an item, or how it ended
    +-- HostGoneError                 the host that an item was for has no worker any more
    +-- CoordinatorLostError          the client that held a run's callback vanished
    +-- CallbackError                 who is to be called back does not take it (retryable)
    +-- CallbackGoneError             who is to be called back wants no more of the run
    +-- CallbackLostError             who is to be called back stayed away for too long
    +-- RemoteError                   an error of a worker, as its outcome carries it

Every error survives pickling, says what a person can do, and never holds a password or token.
"""

from stagefleet.errors.answers import (
    DeletionDisabledError,
    EngineError,
    ForbiddenError,
    ManifestRefusedError,
    NotFoundError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
)
from stagefleet.errors.base import StagefleetError
from stagefleet.errors.fleet import (
    CallbackError,
    CallbackGoneError,
    CallbackLostError,
    CoordinatorLostError,
    HostGoneError,
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
from stagefleet.errors.reach import (
    CacheLeftAloneError,
    CertificateError,
    DeadlineMissedError,
    EngineUnreachableError,
    LedgerRewoundError,
    NoWorkerError,
    RedisUnreachableError,
    RegistryUnreachableError,
    UnreachableError,
)
from stagefleet.errors.storage import (
    BrokenRecordError,
    BrokenStageError,
    ContentError,
    CustomTagError,
    DigestMismatchError,
    ImageInUseError,
    IndexStaysError,
    PlatformMissingError,
    SharedDigestError,
    StageNotFoundError,
    StorageStateChangedError,
    StoredDigestError,
    TruncatedError,
    UnsupportedManifestError,
)
from stagefleet.errors.usage import (
    CredentialsError,
    EngineMissingError,
    HostMissingError,
    IncompatibleVersionError,
    InvalidNameError,
    KeyConflictError,
    OutputError,
    RedisConfigurationError,
    RepositoryNotFoundError,
    RunNotFoundError,
    SettingsError,
    StagesMissingError,
    TooManyItemsError,
    UsageError,
)

__all__ = [
    "BrokenRecordError",
    "BrokenStageError",
    "CacheLeftAloneError",
    "CallbackError",
    "CallbackGoneError",
    "CallbackLostError",
    "CertificateError",
    "ContentError",
    "CoordinatorLostError",
    "CredentialsError",
    "CustomTagError",
    "DeadlineMissedError",
    "DeletionDisabledError",
    "DigestMismatchError",
    "EngineError",
    "EngineMissingError",
    "EngineUnreachableError",
    "ForbiddenError",
    "HostGoneError",
    "HostMissingError",
    "ImageInUseError",
    "IncompatibleVersionError",
    "IndexStaysError",
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
    "PlatformMissingError",
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
    "StagesMissingError",
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
