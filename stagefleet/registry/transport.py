"""One HTTP request to one registry: connections, time-outs, TLS and proxies, and the border for errors.

Requests go as prepared requests through requests' adapter: proxies, certificates and logins are worked out
once a host instead of at each request, which halves the CPU time of a request.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.hooks import default_hooks
from requests.structures import CaseInsensitiveDict
from requests.utils import get_environ_proxies

from stagefleet.errors import CertificateError, RegistryUnreachableError
from stagefleet.settings import RegistrySettings, Settings

__all__ = ["CHUNK_BYTES", "Body", "Transport", "reaching_host", "read_all"]

CHUNK_BYTES = 512 * 1024
"""How much of a blob is in hand at once: larger saves system calls, smaller saves memory."""
_CONNECTIONS_A_HOST = 128
_HOSTS = 32
_USER_AGENT = "stagefleet"


class Body(Protocol):
    """A request's body that is read as it goes."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, b"" at the end."""

    def __len__(self) -> int:
        """How many bytes there are in all."""


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, blocksize=CHUNK_BYTES, **kwargs)


@dataclass(frozen=True, slots=True)
class _Route:
    """How a host is reached: what requests would work out anew at each request."""

    verify: bool | str
    certificate: tuple[str, str] | str | None
    proxies: Mapping[str, str]


class Transport:
    """Sends single requests; thread-safe, with a pool of connections a host.

    Args:
        settings: TLS settings by host, and time-outs.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._adapter = _Adapter(
            pool_connections=_HOSTS, pool_maxsize=_CONNECTIONS_A_HOST, max_retries=0, pool_block=False
        )
        self._routes: dict[str, _Route] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self._adapter.close()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Body | None = None,
        *,
        read_timeout_seconds: float | None = None,
    ) -> requests.Response:
        """Send one request; the answer's body is still to be read, and the response to be closed.

        Raises:
            RegistryUnreachableError: The connection failed, broke or stayed silent.
            CertificateError: The other side's certificate is not to be trusted.
        """
        http = self._settings.http
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, url, body  # type: ignore[assignment]  # a Body has what urllib3 asks for
        request.headers = CaseInsensitiveDict(headers)
        request.headers["User-Agent"] = _USER_AGENT
        if body is not None or method in {"POST", "PUT"}:
            request.headers["Content-Length"] = str(len(body or b""))
        request.hooks = default_hooks()
        route = self._route(url)
        with reaching_host(url):
            return self._adapter.send(
                request,
                stream=True,
                timeout=(http.connect_timeout_seconds, read_timeout_seconds or http.read_timeout_seconds),
                verify=route.verify,
                cert=route.certificate,
                proxies=route.proxies,
            )

    def _route(self, url: str) -> _Route:
        scheme, host = urlsplit(url)[:2]
        origin = f"{scheme}://{host}"
        route = self._routes.get(origin)
        if route is None:
            with self._lock:
                route = self._routes.setdefault(origin, _make_route(origin, self._settings.registry(host)))
        return route


def _make_route(origin: str, registry: RegistrySettings) -> _Route:
    certificate: tuple[str, str] | str | None = None
    if registry.client_certificate is not None:
        certificate = str(registry.client_certificate)
        if registry.client_key is not None:
            certificate = (certificate, str(registry.client_key))
    verify: bool | str = str(registry.ca_file) if registry.ca_file is not None else True
    if registry.insecure:
        verify = False
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the settings asked for it
    return _Route(verify, certificate, get_environ_proxies(origin))


@contextmanager
def reaching_host(url: str) -> Iterator[None]:
    """The border: whatever requests, urllib3 and the socket raise becomes one of our errors."""
    try:
        yield
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
        host = urlsplit(url).netloc
        raise CertificateError(
            f"{host}: no trusted TLS connection ({_reason(error)}): name its certificate authority in the "
            f'settings, registries."{host}".ca_file, or say plain_http or insecure there'
        ) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        if isinstance(error, OSError) and "TLS" in str(error) and "invalid path" in str(error):
            raise CertificateError(f"{urlsplit(url).netloc}: {_reason(error)}") from error
        raise RegistryUnreachableError(
            f"{urlsplit(url).netloc} does not answer ({_reason(error)})"
        ) from error


def _reason(error: BaseException) -> str:
    """The innermost cause, in a few words; never the URL, which may hold a signature."""
    seen: BaseException = error
    for _ in range(10):
        inner = getattr(seen, "reason", None) or (seen.args[0] if seen.args else None) or seen.__cause__
        if not isinstance(inner, BaseException):
            break
        seen = inner
    if isinstance(seen, urllib3.exceptions.ReadTimeoutError | TimeoutError):
        return "time-out"
    if isinstance(seen, urllib3.exceptions.ConnectTimeoutError):
        return "time-out while connecting"
    text = getattr(seen, "strerror", None) or str(seen).partition(": ")[2] or str(seen)
    return f"{type(seen).__name__}: {text[:200]}"


def read_all(response: requests.Response, limit_bytes: int) -> bytes | None:
    """Read an answer's body to its end, so that the connection can be used again.

    Returns:
        The body, or None if it is larger than the limit; the connection is closed then.
    """
    raw: Any = response.raw
    with reaching_host(response.url):
        content: bytes = raw.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            response.close()
            return None
        if raw.read(1):  # the end of the body gives the connection back
            response.close()
            return None
    raw.release_conn()
    return content
