"""Base of all registry calls: URLs, scopes, and responses of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import requests

from stagefleet.credentials.docker_config import DockerConfig
from stagefleet.errors import RegistryError
from stagefleet.leases import NO_LEASE, Lease, current_lease
from stagefleet.names import Repository
from stagefleet.registry.auth.authorizer import Authorizer
from stagefleet.registry.http.client import ApiRequest, HttpClient
from stagefleet.registry.http.hosts import api_path, base_url, join_url, origin_of
from stagefleet.registry.http.transport import Transport
from stagefleet.setting_types import docker_config_file
from stagefleet.settings import Settings

__all__ = ["SMALL_BYTES", "Api", "scopes_of"]

_UNCACHED = MappingProxyType({"Cache-Control": "no-cache", "Pragma": "no-cache"})
"""Headers that make caches on the way forward the request (RFC 9111, sections 5.2.1.4 and 5.4)."""

_Result = TypeVar("_Result")

SMALL_BYTES = 64 * 1024
"""Largest body accepted where hardly any is expected."""


class Api:
    """Connections to registries. Create one per process, for all threads, and close it.

    All methods raise `RegistryUnreachableError` if the registry does not answer, `CredentialsError` if it
    refuses the login, `RateLimitedError` or `RegistryUnavailableError` if it still fails after all retries,
    and `RegistryError` for any other error response.

    Args:
        settings: Time-outs, retries, and TLS settings by registry.
        config: Source of logins; Docker's own configuration file if None.
        headers: Headers added to each request.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        config: DockerConfig | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        config = DockerConfig(docker_config_file()) if config is None else config
        self._settings = settings
        self._config = config
        self._transport = Transport(settings, headers=headers)
        self._http_client = HttpClient(
            self._transport, Authorizer(config, self._transport.send), config.origin, settings
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def afresh(self) -> Self:
        """Create a client with its own connections and logins that bypasses caches on the way. Close it."""
        return type(self)(self._settings, config=self._config, headers=_UNCACHED)

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def _url(self, repository: Repository, path: str) -> str:
        return f"{base_url(repository.host, self._settings)}/v2/{api_path(repository)}/{path}"

    def _ask(
        self,
        method: str,
        repository: Repository,
        url: str,
        subject: str,
        *,
        limit_bytes: int = SMALL_BYTES,
        **more: Any,
    ) -> tuple[requests.Response, bytes]:
        """Make a call and read its whole body; arguments as in `ApiRequest`."""
        return self._http_client.read(make_request(method, repository, url, subject, **more), limit_bytes)

    def _open(
        self, method: str, repository: Repository, url: str, subject: str, **more: Any
    ) -> requests.Response:
        """Make a call and leave its body unread; arguments as in `ApiRequest`."""
        return self._http_client.call(make_request(method, repository, url, subject, **more))

    def _consume(
        self,
        method: str,
        repository: Repository,
        url: str,
        subject: str,
        finish: Callable[[requests.Response], _Result],
        **more: Any,
    ) -> _Result:
        """Make a call and pass the response to `finish`, again after a broken body; see `ApiRequest`."""
        return self._http_client.consume(make_request(method, repository, url, subject, **more), finish)

    def _same_registry(self, repository: Repository, asked: str, location: str) -> str:
        """Rewrite a URL that a registry gave for itself: behind a proxy it may not know its own scheme."""
        url = join_url(asked, location)
        base = base_url(repository.host, self._settings)
        ours, given = origin_of(base), origin_of(url)
        # Same port, or both the default of their scheme: a proxy that terminates TLS.
        if given.host == ours.host and (given.port == ours.port or (given.is_default and ours.is_default)):
            scheme, netloc = urlsplit(base)[:2]
            return urlunsplit(urlsplit(url)._replace(scheme=scheme, netloc=netloc))
        if given.scheme in {"https", ours.scheme}:
            return url  # uploads may go to another host, which does not get our login
        raise RegistryError(
            f"{repository.host} points to {given.scheme}://{given.host}, which is not safe",
            repository=str(repository),
        )


def make_request(
    method: str,
    repository: Repository,
    url: str,
    subject: str,
    *,
    scopes: tuple[str, ...] | None = None,
    expected: frozenset[int] = frozenset({200}),
    lease: Lease = NO_LEASE,
    **more: Any,
) -> ApiRequest:
    scopes = scopes_of(repository, "pull") if scopes is None else scopes
    lease = current_lease(lease)
    return ApiRequest(
        method, repository.host, url, str(repository), subject, expected, scopes=scopes, lease=lease, **more
    )


def scopes_of(repository: Repository, actions: str) -> tuple[str, ...]:
    """Return the scopes that a token needs (https://distribution.github.io/distribution/spec/auth/scope/)."""
    return (f"repository:{api_path(repository)}:{actions}",)
