"""One HTTP request to one registry: connections, time-outs, TLS, proxies, and the mapping of foreign errors.

Requests are prepared once and sent through requests' adapter. Proxies, certificates and logins are looked up
once per host instead of once per request, which halves the CPU time of a request.
"""

from __future__ import annotations

import http.client
import math
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlsplit

import requests
import urllib3
from requests.utils import select_proxy

from stagefleet.errors import CertificateError, RegistryUnreachableError
from stagefleet.leases import SLICE_SECONDS, current_lease
from stagefleet.redaction import host_of, words_of
from stagefleet.registry.http.adapter import Adapter
from stagefleet.registry.http.connections import OriginConnections
from stagefleet.registry.http.origins import advise_plain_http, advise_tls, proxies_of, settings_of
from stagefleet.registry.http.sockets import make_context
from stagefleet.registry.http.waits import Deadline, bounding
from stagefleet.settings import Settings
from stagefleet.traces import request_span

_MOST_HOSTS = 256
_AFTER_SCHEME = len("https://")
_USER_AGENT = "stagefleet"
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class Body(Protocol):
    """A request body that is read while it is sent."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, b"" at the end."""

    def __len__(self) -> int:
        """Return the size of the whole body in bytes."""


@dataclass(slots=True)
class _Route:
    """The way to an origin: data that requests would recompute for each request, and if it ever answered.

    Attributes:
        host: `host[:port]`, for messages.
        connections: Connections to the origin itself; None if a proxy stands before it.
        adapter: The way through the proxy.
    """

    host: str
    proxies: Mapping[str, str]
    connections: OriginConnections | None
    adapter: Adapter
    has_answered: bool = False

    def send(self, request: requests.PreparedRequest) -> requests.Response:
        if self.connections is not None:
            return self.connections.send(request)
        return self.adapter.send(
            request,
            stream=True,
            timeout=SLICE_SECONDS,  # the sockets' own setting: the deadline bounds them
            proxies=self.proxies,
        )

    def close(self) -> None:
        if self.connections is not None:
            self.connections.close()
        self.adapter.close()


class Transport:
    """Send single requests, with some headers added; thread-safe, with a connection pool per host.

    The settings decide about TLS if it is `to_registries`, else the URLs do, as for webhooks.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        to_registries: bool = True,
    ) -> None:
        self._settings = settings
        self._headers = headers
        self._to_registries = to_registries
        self._routes: dict[str, _Route] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for route in self._routes.values():
                route.close()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Body | None = None,
        *,
        ends_at: float = math.inf,
        send_by: float = math.inf,
        answer_seconds: float | None = None,
    ) -> requests.Response:
        """Send one request and return the response. Its body is unread; close the response.

        The response's header has to come by `ends_at`, on the monotonic clock, and no phase outlasts its
        time-out in any case, which `answer_seconds` sets for that header. The request has to leave by
        `send_by`, on `elapsed_seconds`. Errors of this thread's lease end the waits.

        Raises:
            RegistryUnreachableError: The connection failed, broke, stayed silent or was too slow.
            DeadlineMissedError: The request could not leave in time, and was not sent.
            CertificateError: The server's certificate is not trusted.
        """
        http, route = self._settings.http, self._route(url)
        deadline = Deadline(
            route.host,
            connect_seconds=http.connect_timeout_seconds,
            phase_seconds=http.read_timeout_seconds,
            ends_at=ends_at,
            send_by=send_by,
            answer_seconds=answer_seconds,
            lease=current_lease(),
        )
        deadline.is_streamed = not isinstance(body, bytes | None)
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, url, body  # type: ignore[assignment]  # a Body has what urllib3 needs
        fields = {**self._headers, **headers, "User-Agent": _USER_AGENT}
        if body is not None or method in {"POST", "PUT"}:
            fields["Content-Length"] = str(len(body or b""))
        request.headers = fields  # type: ignore[assignment]  # nobody looks for one in another case
        advise = partial(self._scheme_advice, url, route)
        with (
            request_span(method, url) as span,
            map_http_errors(url, route.proxies, advise=advise),
            bounding(deadline),
        ):
            response = route.send(request)
            span.note_status(response.status_code)
        route.has_answered = True
        return response

    def prepare(self, url: str, count: int) -> list[Callable[[], None]]:
        """Return what opens connections to an origin until so many are idle; they are errors if it is silent.

        There are none to a proxy: it may open one for each request.
        """
        connections = self._route(url).connections
        if connections is None:
            return []
        return [partial(self._open, url, opening) for opening in connections.prepare(count)]

    def _open(self, url: str, opening: Callable[[], None]) -> None:
        seconds = self._settings.http.connect_timeout_seconds
        deadline = Deadline(
            urlsplit(url).netloc, connect_seconds=seconds, phase_seconds=seconds, lease=current_lease()
        )
        with map_http_errors(url), bounding(deadline):
            opening()

    def _scheme_advice(self, url: str, route: _Route) -> str:
        """Return the setting to change if TLS and plain HTTP may be mixed up, else ""."""
        if not self._to_registries or route.has_answered:
            return ""
        scheme, host = urlsplit(url)[:2]
        return advise_tls(host) if scheme == "http" else advise_plain_http(host)

    def _route(self, url: str) -> _Route:
        route = self._routes.get(url[: url.find("/", _AFTER_SCHEME)])
        if route is None:
            scheme, host = urlsplit(url)[:2]
            origin = f"{scheme}://{host}"
            with self._lock:
                route = self._routes.get(origin) or self._make_route(origin, scheme, host)
        return route

    def _make_route(self, origin: str, scheme: str, host: str) -> _Route:
        """Work out the way to a host; drop the oldest one if redirects lead to ever new hosts."""
        registry = settings_of(host, self._settings)
        context = make_context(host, registry) if scheme == "https" else None
        if context is not None and registry.insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the settings demand it
        if len(self._routes) >= _MOST_HOSTS:
            self._routes.pop(next(iter(self._routes))).close()
        # Loopback never uses a proxy, whatever NO_PROXY says: as in Docker and all Go tools.
        proxies = proxies_of(origin)
        connections = None if select_proxy(origin, proxies) else OriginConnections(origin, context)
        route = self._routes[origin] = _Route(host, proxies, connections, Adapter(origin, context))
        return route


class _MapHttpErrors:
    """Map every error of requests, urllib3 and the socket in a block to one of ours.

    The errors have no cause: foreign errors hold the URL, which may hold a signature, and tracebacks show
    them. `advise` returns what to do if TLS and plain HTTP are mixed up.
    """

    __slots__ = ("_advise", "_proxies", "_url")

    def __init__(
        self, url: str, proxies: Mapping[str, str] = MappingProxyType({}), *, advise: Callable[[], str] = str
    ) -> None:
        self._url = url
        self._proxies = proxies
        self._advise = advise

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | OSError):
            raise _mapped(error, self._url, self._proxies, self._advise()) from None


map_http_errors = _MapHttpErrors  # no generator: it costs three times the calls


def _mapped(
    error: Exception, url: str, proxies: Mapping[str, str], advice: str
) -> CertificateError | RegistryUnreachableError:
    host, proxy = urlsplit(url).netloc, _proxy_of(url, proxies)
    through = f" through the proxy {proxy}" if proxy else ""
    if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
        reason = _reason(error)
        return CertificateError(
            f"{host}: no trusted TLS connection{through} ({reason}): {_tls_advice(error, host, advice)}",
            host=host,
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return RegistryUnreachableError(f"{host} cannot be reached{through} ({_reason(error)})", host=host)
    if _has_no_address(error):
        message = f"{host} is the name of no host ({_reason(error)}): see that it is spelled right"
        return RegistryUnreachableError(message, host=host, is_unknown=True)
    message = f"{host} does not answer{through} ({_reason(error)})"
    if advice and _may_want_tls(url, error):
        message += f": {advice}"
    return RegistryUnreachableError(message, host=host)


def _proxy_of(url: str, proxies: Mapping[str, str]) -> str:
    """Return the proxy before a URL's host, without its login; "" if there is none."""
    proxy = select_proxy(url, dict(proxies)) or ""
    return proxy and host_of(proxy if "://" in proxy else f"http://{proxy}")


def _has_no_address(error: BaseException) -> bool:
    """Return True if the resolver knows that a name does not exist; it may have failed for now otherwise."""
    cause = _innermost(error).__cause__
    return isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_NAME


def _may_want_tls(url: str, error: BaseException) -> bool:
    """Return True if a server may have hung up because it speaks TLS and got plain HTTP."""
    hung_up = isinstance(
        _innermost(error), ConnectionResetError | BrokenPipeError | http.client.BadStatusLine
    )
    return hung_up and urlsplit(url).scheme == "http"


_TIME_ADVICE = "renew the registry's certificate, or set the clock of this machine right"
_NAME_ADVICE = "name the registry as its certificate does, or give it one for this name"
_CERTIFICATE_ADVICE = {9: _TIME_ADVICE, 10: _TIME_ADVICE, 62: _NAME_ADVICE, 64: _NAME_ADVICE}
"""Advice by OpenSSL's code: not yet valid, expired, for another host, for another address (x509_vfy.h)."""


def _tls_advice(error: BaseException, host: str, advice: str) -> str:
    """Return what to do; OpenSSL's error names say which side is at fault."""
    settings, reason = f'registries."{host}"', _reason(error)
    if "_ALERT_" in reason:
        return f"the registry refuses us: does it want a certificate, {settings}.client_certificate?"
    # Which of the two types a server that hangs up causes depends on the version of Python.
    hung_up = isinstance(_innermost(error), ssl.SSLEOFError | ssl.SSLZeroReturnError)
    if hung_up or "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason:
        return advice or "does it speak TLS?"
    known = _CERTIFICATE_ADVICE.get(getattr(_innermost(error), "verify_code", 0))
    return known or (
        f"name its certificate authority in {settings}.ca_file, with any intermediate ones that the registry "
        "does not send"
    )


def _innermost(error: BaseException) -> BaseException:
    """Find the innermost cause of an error."""
    seen = error
    for _ in range(10):
        # `original_error` is a ProxyError's; a ProtocolError has the cause after a text of its own.
        inners = (
            getattr(seen, "reason", None),
            getattr(seen, "original_error", None),
            *(seen.args or (seen.__cause__,)),
        )
        inner = next((inner for inner in inners if isinstance(inner, BaseException)), None)
        if inner is None:
            break
        seen = inner
    return seen


def _reason(error: BaseException) -> str:
    """Describe the innermost cause in a few words; never the URL, which may hold a signature."""
    seen = _innermost(error)
    if isinstance(seen, urllib3.exceptions.ReadTimeoutError | TimeoutError):
        return "time-out"
    refused = isinstance(seen, urllib3.exceptions.NewConnectionError)  # a subclass of urllib3's time-out
    if isinstance(seen, urllib3.exceptions.ConnectTimeoutError) and not refused:
        return "time-out while connecting"
    text = getattr(seen, "strerror", None) or str(seen).partition(": ")[2] or str(seen)
    if refused:
        return text.rpartition("] ")[2].removesuffix(")").lower()
    text = words_of(text.partition("?")[0], limit=200)
    quotes = not isinstance(seen, OSError | http.client.HTTPException | urllib3.exceptions.ProtocolError)
    if quotes or ("/" in text and not isinstance(seen, OSError)):
        return type(seen).__name__  # their text quotes malformed input: an address, a path of ours
    return f"{type(seen).__name__}: {text}"
