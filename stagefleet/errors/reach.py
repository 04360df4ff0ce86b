"""Services that do not answer."""

from __future__ import annotations

from stagefleet.errors.base import StagefleetError

__all__ = [
    "CacheLeftAloneError",
    "CertificateError",
    "DeadlineMissedError",
    "EngineUnreachableError",
    "LedgerRewoundError",
    "NoWorkerError",
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
    """Redis does not answer at the configured URL, or refuses for now: it fails over, loads, or is full."""


class LedgerRewoundError(UnreachableError):
    """Redis has forgotten what it had confirmed, as in a failover to a replica that lagged behind."""


class RegistryUnreachableError(UnreachableError):
    """A registry cannot be connected to, or the connection broke in the middle.

    Args:
        message: What went wrong, for a person.
        host: Who does not answer, as `host` or `host:port`.
    """

    def __init__(self, message: str, *, host: str = "") -> None:
        super().__init__(message)
        self.host = host

    @property
    def cause(self) -> tuple[str, str]:
        """The host, and what happened."""
        return self.host, super().cause[1].removeprefix(f"{self.host} ")


class CertificateError(RegistryUnreachableError):
    """A registry's certificate is not to be trusted."""

    retryable = False


class DeadlineMissedError(StagefleetError):
    """A request was not sent, since what allows it was too old by then."""

    retryable = True


class CacheLeftAloneError(UnreachableError):
    """A cache did not answer, and is not asked again for a while."""


class EngineUnreachableError(UnreachableError):
    """A Docker Engine does not answer, or broke off in the middle."""


class NoWorkerError(UnreachableError):
    """No worker listens to the queue of a run."""

    retryable = False
