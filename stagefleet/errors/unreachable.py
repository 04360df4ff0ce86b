"""Services that do not answer."""

from __future__ import annotations

from stagefleet.errors.base import StagefleetError

__all__ = [
    "CertificateError",
    "CircuitOpenError",
    "DeadlineMissedError",
    "EngineUnreachableError",
    "LedgerRewoundError",
    "NoWorkerError",
    "PlainHttpError",
    "RedisUnreachableError",
    "RegistryUnreachableError",
    "UnreachableError",
]


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
    """A connection to a registry failed or broke.

    Args:
        message: The problem, for a person.
        host: The registry, as `host` or `host:port`.
        is_unknown: True if there is no host of this name.
    """

    def __init__(self, message: str, *, host: str = "", is_unknown: bool = False) -> None:
        super().__init__(message)
        self.host = host
        self.is_unknown = is_unknown

    @property
    def cause(self) -> tuple[str, str]:
        """The host and the problem."""
        return self.host, super().cause[1].removeprefix(f"{self.host} ")


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
