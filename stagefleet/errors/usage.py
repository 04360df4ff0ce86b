"""Errors of use or configuration: no work was started."""

from __future__ import annotations

from stagefleet.errors.base import StagefleetError

__all__ = [
    "CredentialsError",
    "EngineNotFoundError",
    "HostNotFoundError",
    "IncompatibleVersionError",
    "InvalidNameError",
    "KeyConflictError",
    "OutputError",
    "RedisConfigurationError",
    "RepositoryNotFoundError",
    "RunNotFoundError",
    "SettingsError",
    "StagesNotFoundError",
    "TooManyItemsError",
    "UsageError",
]


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
