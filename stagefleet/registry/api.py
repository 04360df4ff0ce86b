"""Base of all registry calls: URLs, scopes, and responses of bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Lock
from types import MappingProxyType
from typing import Self, TypedDict, Unpack
from urllib.parse import urlsplit

from stagefleet.credentials import DockerConfig
from stagefleet.errors import RegistryError, StagefleetError
from stagefleet.leases import NO_LEASE, ChildLease, Lease, current_lease, under_lease
from stagefleet.names import Repository
from stagefleet.registry.authorizer import Authorizer
from stagefleet.registry.http.client import ApiRequest, HttpClient
from stagefleet.registry.http.origins import api_path, base_url, in_own_scheme, join_url, moved_to, origin_of
from stagefleet.registry.http.transport import Body, Transport
from stagefleet.setting_types import docker_config_file
from stagefleet.settings import Settings
from stagefleet.threads import RequestThreads

_UNCACHED = MappingProxyType({"Cache-Control": "no-cache", "Pragma": "no-cache"})
"""Headers that make caches on the way forward the request (RFC 9111, sections 5.2.1.4 and 5.4)."""


class RequestOptions(TypedDict, total=False):
    """Fields of `ApiRequest` that most requests leave at their defaults."""

    expected: frozenset[int]
    headers: Mapping[str, str]
    body: bytes | Callable[[], bytes | Body] | None
    is_write: bool
    retries: bool
    precheck: Callable[[], float] | None
    answer_seconds: float | None


class Api:
    """Connections to registries. Create one per process, for all threads, and close it.

    All methods raise `RegistryUnreachableError` if the registry does not answer, `CredentialsError` if it
    refuses the login, `RateLimitedError` or `RegistryUnavailableError` if it still fails after all retries,
    and `RegistryError` for any other error response. Without `config`, logins are those of Docker's own
    configuration file.

    Attributes:
        threads: For requests of one item that do not wait for one another.
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
        self.threads = RequestThreads(settings.worker.request_threads)
        self._lock = Lock()
        self._opening = Counter[str]()  # connections, by host
        self._opening_lease = ChildLease(NO_LEASE)
        self._transport = Transport(settings, headers=headers)
        self._http_client = HttpClient(
            self._transport, Authorizer(config, self._transport.send), config.origin, settings
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def reopened(self) -> Self:
        """Create a client with its own connections and logins that bypasses caches on the way. Close it."""
        return type(self)(self._settings, config=self._config, headers=_UNCACHED)

    def close(self) -> None:
        """Close all connections."""
        self._opening_lease.end()
        self.threads.close()
        self._transport.close()

    def prepare(self, host: str, connections: int) -> None:
        """Open connections in the background until so many are idle; a failure is left to the requests.

        A silent host takes half of the threads at most.
        """

        def open_one(opening: Callable[[], None]) -> None:
            try:
                with under_lease(self._opening_lease), suppress(StagefleetError, OSError):
                    opening()
            finally:
                with self._lock:
                    self._opening[host] -= 1

        openings = self._transport.prepare(base_url(host, self._settings), connections)
        with self._lock:
            most = max(self._settings.worker.request_threads // 2, 1)
            openings = openings[: max(most - self._opening[host], 0)]
            self._opening[host] += len(openings)
        for opening in openings:
            self.threads.start(partial(open_one, opening))

    def _url(self, repository: Repository, path: str) -> str:
        return f"{base_url(repository.host, self._settings)}/v2/{api_path(repository)}/{path}"

    def _request(
        self,
        method: str,
        repository: Repository,
        url: str,
        subject: str,
        *,
        scopes: tuple[str, ...] = (),
        lease: Lease = NO_LEASE,
        **options: Unpack[RequestOptions],
    ) -> ApiRequest:
        """Make a request about a repository; without scopes, one that pulls. Arguments as in `ApiRequest`."""
        return ApiRequest(
            method,
            repository.host,
            url,
            str(repository),
            subject,
            scopes=scopes or scopes_of(repository, "pull"),
            lease=current_lease(lease),
            **options,
        )

    def _same_registry(self, repository: Repository, asked: str, location: str) -> str:
        """Rewrite a URL that a registry gave for itself: behind a proxy it may not know its scheme or port.

        nginx passes on no port where it is told to send `$host`; so what is of the same repository, at the
        default port, is meant for the registry's own.
        """
        base = base_url(repository.host, self._settings)
        url = in_own_scheme(join_url(asked, location), base)
        ours, given = origin_of(base), origin_of(url)
        is_api = urlsplit(url).path.startswith(f"/v2/{api_path(repository)}/")
        if is_api and given.host == ours.host and given.is_default and origin_of(asked) == ours:
            return moved_to(base, url)
        if given.scheme in {"https", ours.scheme}:
            return url  # uploads may go to another host, which does not get our login
        raise RegistryError(
            f"{repository.host} points to {given.scheme}://{given.host}, which is not safe",
            repository=str(repository),
        )


def scopes_of(repository: Repository, actions: str) -> tuple[str, ...]:
    """Return the scopes that a token needs (https://distribution.github.io/distribution/spec/auth/scope/)."""
    return (f"repository:{api_path(repository)}:{actions}",)
