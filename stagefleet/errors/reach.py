"""Services that do not answer."""

from __future__ import annotations

from stagefleet.errors.base import StagefleetError

__all__ = [
    "CertificateError",
    "EngineUnreachableError",
    "NoWorkerError",
    "RedisUnreachableError",
    "RegistryUnreachableError",
    "UnreachableError",
]


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
