"""Wrong use or configuration: nothing was started."""

from __future__ import annotations

from stagefleet.errors.base import StagefleetError

__all__ = [
    "CredentialsError",
    "EngineMissingError",
    "HostMissingError",
    "IncompatibleVersionError",
    "InvalidNameError",
    "KeyConflictError",
    "OutputError",
    "RedisConfigurationError",
    "RepositoryNotFoundError",
    "RunNotFoundError",
    "SettingsError",
    "StagesMissingError",
    "TooManyItemsError",
    "UsageError",
]


class UsageError(StagefleetError):
    """Wrong use or configuration; nothing was started."""

    stops_others = True
    exit_code = 2


class InvalidNameError(UsageError, ValueError):
    """A malformed repository, reference, digest or stage id."""

    stops_others = False  # a registry may have answered it


class SettingsError(UsageError):
    """Settings that cannot be read; names the file and the key."""


class OutputError(UsageError):
    """The result of a command cannot be written: stdout is closed, or leads to a full disk."""


class RedisConfigurationError(UsageError):
    """What is at the Redis URL cannot be used as it is: login, rights, database, TLS, mode or version."""


class TooManyItemsError(UsageError):
    """A run of more items than a run may have."""


class KeyConflictError(UsageError):
    """An idempotency key that was used before with other arguments."""


class RunNotFoundError(UsageError):
    """No such run, or it has expired."""


class RepositoryNotFoundError(UsageError):
    """A repository was named that does not exist, or what is at its address is no registry."""


class StagesMissingError(UsageError):
    """Stages were named that the source does not have."""


class CredentialsError(UsageError):
    """A registry refused the login, or a credential helper failed; says which file was read."""


class EngineMissingError(UsageError):
    """There is no Docker Engine here."""


class HostMissingError(UsageError):
    """No live worker has the Docker Engine of a host that was named; says which hosts there are."""


class IncompatibleVersionError(UsageError):
    """Something was written by a release that this one cannot read; the message names both versions."""
