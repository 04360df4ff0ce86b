"""Errors that a registry or a Docker Engine answered with."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from stagefleet.errors.base import StagefleetError

__all__ = [
    "DeletionDisabledError",
    "EngineError",
    "ForbiddenError",
    "ManifestRefusedError",
    "NotFoundError",
    "RateLimitedError",
    "RegistryError",
    "RegistryUnavailableError",
]


class RegistryError(StagefleetError):
    """A registry answered with an error.

    Args:
        message: The problem and what to do, for a person.
        method: The HTTP method of the request.
        repository: The repository of the request, as `host/path`.
        status: The HTTP status of the answer.
        codes: The registry's own error codes (OCI distribution specification 1.1, "Error Codes").
        retry_after_seconds: The wait that the registry asked for; None if it did not.
    """

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
        self.status = status
        self.codes = codes
        self.retry_after_seconds = retry_after_seconds

    @property
    def host(self) -> str:
        """The host of the repository, as `host[:port]`; "" if unknown."""
        return self.repository.partition("/")[0]

    @property
    def status_text(self) -> str:
        """The status and its name, as `429 Too Many Requests`; "" without a status."""
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return str(self.status or "")

    @property
    def cause(self) -> tuple[str, str]:
        """The registry and its status."""
        text = super().cause[1]
        return (self.host, self.status_text or text) if self.host else ("", text)


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
    """The registry failed (5xx)."""

    retryable = True


class ManifestRefusedError(RegistryError):
    """The registry rejected a manifest because blobs or members of it are missing.

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
    """Deletion is switched off in the registry; the message names the setting that enables it."""


class EngineError(StagefleetError):
    """A Docker Engine answered with an error.

    Args:
        message: The engine's message, and what to do.
        status: The HTTP status of the answer; 0 for an error in the middle of a pull or push.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
