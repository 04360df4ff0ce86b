"""Calls to a registry: one request with its login, retries and redirects."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from stagefleet import errors
from stagefleet.backoff import jittered
from stagefleet.leases import NO_LEASE, Lease, current_lease, under_lease
from stagefleet.registry.authorizer import Authorizer
from stagefleet.registry.error_mapping import PASSING, map_body_errors, map_error
from stagefleet.registry.http.origins import Origin, base_url, in_own_scheme, is_loopback, join_url, origin_of
from stagefleet.registry.http.responses import read_all
from stagefleet.registry.http.transport import Body, Transport
from stagefleet.registry.http.waits import HostPauses, Retries, RetryReporter, pause, span_text
from stagefleet.settings import Settings

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_PASSED_ON = frozenset({307, 308})
"""Redirects that keep method and body (RFC 9110, 15.4.8 and 15.4.9)."""
_RETRIED = frozenset({*PASSING, 429, 500, 502, 503, 504, *range(520, 528), 530, 598, 599})
"""Statuses that pass; gateways have numbers of their own from 520 on (Cloudflare)."""
_UNAUTHORIZED = 401
_HIDING = frozenset({401, 403, 404})
"""Statuses with which registries hide private content from anonymous clients."""
_UNNAMED = "Basic"
"""Challenge of a registry that answers strangers at `/v2/` with a 401 and without a challenge."""
_OVER = frozenset({400, 403})
"""Statuses with which registries answer a password that is over, without a challenge (ECR)."""
_TOO_MANY = 429
_MOST_LOGINS = 2
_ERROR_BYTES = 64 * 1024
SMALL_BYTES = 64 * 1024
"""Largest body accepted where hardly any is expected."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request to a registry; all statuses but the expected ones raise.

    Attributes:
        host: The registry as in repository names; selects login and settings.
        repository: `host/path`, for messages and errors.
        subject: The requested object, for messages.
        body: The body, or a function that opens it anew for each attempt.
        is_write: True if the request takes effect: it starts only while the lease outlasts the time-out.
        precheck: Checks before each attempt, after all pauses, that the request may be sent. Returns the
            latest time for it to leave, on `elapsed_seconds`, or raises.
        send_by: The time that `precheck` returned.
        answer_seconds: Time limit for the header of the answer; the settings' if None.
    """

    method: str
    host: str
    url: str
    repository: str
    subject: str
    expected: frozenset[int] = frozenset({200})
    scopes: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Callable[[], bytes | Body] | None = None
    is_write: bool = False
    retries: bool = True
    lease: Lease = NO_LEASE
    precheck: Callable[[], float] | None = None
    send_by: float = math.inf
    answer_seconds: float | None = None

    def error(
        self, message: str, kind: type[errors.RegistryError] = errors.RegistryError, **facts: Any
    ) -> errors.RegistryError:
        """Build an error of this request; the facts are as of `RegistryError`."""
        return kind(message, method=self.method, repository=self.repository, **facts)


class HttpClient:
    """Send calls with logins, retries and redirects; thread-safe.

    `origin` returns where logins come from, for messages. A registry may make one call wait for
    `longest_wait_seconds`, all attempts together.
    """

    def __init__(
        self,
        transport: Transport,
        authorizer: Authorizer,
        origin: Callable[[], str],
        settings: Settings,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport
        self._authorizer = authorizer
        self._origin = origin
        self._settings = settings
        self._http = settings.http
        self._sleep = sleep
        self._host_pauses = HostPauses()
        self._origins: dict[str, Origin] = {}  # of registries that were named, which are few
        self._reporter = RetryReporter(settings.http)
        self.longest_wait_seconds = min(
            settings.http.retry_after_limit_seconds, settings.runs.longest_pause_seconds
        )

    def open(self, call: ApiRequest) -> requests.Response:
        """Make a call and return the response, its body unread; raises as `consume`."""
        return self.consume(call, lambda response: response)

    def read(self, call: ApiRequest, limit_bytes: int = SMALL_BYTES) -> tuple[requests.Response, bytes]:
        """Make a call and read the body, again if it breaks; one over `limit_bytes` is an error, too."""
        return self.consume(call, lambda response: (response, read_content(response, call, limit_bytes)))

    def consume(self, call: ApiRequest, finish: Callable[[requests.Response], _Result]) -> _Result:
        """Make a call and pass the response to `finish`, again after each broken body.

        Raises:
            RegistryError: The status is not an expected one.
            RegistryUnreachableError: The registry did not answer at any attempt.
            CredentialsError: The registry refuses the login.
        """
        began_at, retries = time.monotonic(), Retries(self._http, call.host, self.longest_wait_seconds)
        problem: errors.RegistryError | errors.RegistryUnreachableError
        with under_lease(call.lease), map_body_errors(call.method, call.host, call.repository, call.subject):
            while True:
                self._await_host(call, retries)
                if call.precheck is not None:
                    call = replace(call, send_by=call.precheck())
                try:
                    response = self._send_with_login(call)
                    if response.status_code in call.expected:
                        return finish(response)
                except errors.CertificateError:
                    raise
                except errors.DeadlineMissedError as error:
                    retries.next_pause_seconds(error, self._most_retries(call, error))
                    continue  # `precheck` decides again, at once
                except (
                    errors.RegistryUnreachableError,
                    errors.RegistryUnavailableError,
                    errors.RateLimitedError,
                ) as error:
                    problem = error  # also a token server's, whose pause does not apply to the registry
                else:
                    problem = self._passing_refusal(call, response, is_first=not retries.failures)
                limit = self._most_retries(call, problem)
                wait = retries.next_pause_seconds(problem, limit)
                self._reporter.report(
                    problem,
                    call.host,
                    began_at=began_at,
                    pause_seconds=wait,
                    failures=retries.failures,
                    limit=limit,
                )
                self.pause(wait, call.lease, problem.cause)

    def _most_retries(self, call: ApiRequest, error: errors.StagefleetError) -> int:
        """Return how often a call may be repeated; only once if the host's name is unknown."""
        if not call.retries:
            return 0
        is_unknown = isinstance(error, errors.RegistryUnreachableError) and error.is_unknown
        return min(1, self._http.retries) if is_unknown else self._http.retries

    def _may_be_stale(self, call: ApiRequest, response: requests.Response) -> bool:
        """Return True if the target of a redirect refused a read: a new redirect may lead to a better one.

        Signed URLs come out of caches, too, and are over then; some stores do not have yet what they will.
        """
        return (
            call.method in {"GET", "HEAD"}
            and 400 <= response.status_code < 500  # noqa: PLR2004 - HTTP's numbers
            and response.status_code != _TOO_MANY
            and origin_of(response.url) != origin_of(call.url)
        )

    def _passing_refusal(
        self, call: ApiRequest, response: requests.Response, *, is_first: bool
    ) -> errors.RegistryError:
        """Return the error of an unexpected status that a repetition may mend; raise any other."""
        error = map_error(response, call.method, call.repository, call.subject)
        asked = error.retry_after_seconds
        if (
            isinstance(error, errors.RateLimitedError)
            and asked is not None
            and asked <= self.longest_wait_seconds
        ):
            # A pause that a registry asks for holds for all calls, even if this one is not repeated.
            self._host_pauses.begin(call.host, asked, error.cause[1])
        is_stale = is_first and self._may_be_stale(call, response)
        if isinstance(error, errors.ManifestRefusedError) or not (error.status in _RETRIED or is_stale):
            raise error
        return error

    def _await_host(self, call: ApiRequest, retries: Retries) -> None:
        """Wait out a pause that the host asked of another call, within this call's limit."""
        wait, text = self._host_pauses.left(call.host)
        if wait <= 0:
            return
        if not retries.allows_wait(wait):
            raise call.error(
                f"{call.subject}: {call.host} asks to wait again and again ({text}), "
                f"for another {span_text(wait)}",
                errors.RateLimitedError,
                status=_TOO_MANY,
                retry_after_seconds=wait,
            )
        self.pause(wait + jittered(1.0, share=0), call.lease, (call.host, text))

    def pause(self, seconds: float, lease: Lease, cause: tuple[str, str] = ("", "")) -> None:
        """Wait, unless the lease ends it; `cause` as `StagefleetError.cause`, for the run's observers."""
        pause(seconds, current_lease(lease), *cause, sleep=self._sleep)

    def _send_with_login(self, call: ApiRequest) -> requests.Response:
        """Send the request, and once or twice again with the login that it turns out to need.

        Only the registry's own origin gets the login, and only its challenge is answered. A 401 from the
        target of a redirect, of an upload's `Location` or of a `Link` is final.
        """
        is_for_own = origin_of(call.url) == self._origin_of(call)
        header = self._authorizer.header(call.host, call.scopes) if is_for_own else None
        response, is_own = self._redirected(call, header)
        for _ in range(_MOST_LOGINS):
            better = self._next_login(call, response, header, is_for_own=is_for_own, is_own=is_own)
            if better is None:
                break
            header = better
            response, is_own = self._redirected(call, header)
        if response.status_code == _UNAUTHORIZED:
            raise self._refusal(call, response, is_own=is_own)
        return response

    def _next_login(
        self,
        call: ApiRequest,
        response: requests.Response,
        sent: str | None,
        *,
        is_for_own: bool,
        is_own: bool,
    ) -> str | None:
        """Return the login with which to repeat a request; None if its response stands.

        In turn: the login of a registry that hides what it has from strangers, a password that has been
        changed since, and what a challenge asks for. `sent` is the header that the request had.
        """
        if sent is None and is_for_own and self._wants_login(call, response):
            header = self._authorizer.header(call.host, call.scopes)
            if header is not None:
                response.close()  # it may be a blob
                return header
        if sent is not None and is_own and response.status_code in _OVER:
            header = self._authorizer.renew(call.host, call.scopes, sent)
            if header is not None:
                read_all(response, _ERROR_BYTES)
                return header
        challenge = response.headers.get("WWW-Authenticate")
        asking = _HIDING if sent is None else {_UNAUTHORIZED}
        if response.status_code not in asking or challenge is None or not is_own:
            return None
        lacks_rights = sent is not None and 'error="insufficient_scope"' in challenge
        if lacks_rights and not self._authorizer.names_more(call.host, challenge, call.scopes):
            return None
        return self._answer(call, response, challenge, sent)

    def _answer(
        self, call: ApiRequest, response: requests.Response, challenge: str, sent: str | None
    ) -> str | None:
        """Return the login that a challenge asks for; None if there is none, and no 401 that needs one."""
        if response.status_code == _UNAUTHORIZED:
            read_all(response, _ERROR_BYTES)
            return self._authorizer.answer(call.host, challenge, call.scopes, sent)
        try:
            header = self._authorizer.answer(call.host, challenge, call.scopes, sent)
        except errors.CredentialsError:
            return None  # what a 404 says may be true
        read_all(response, _ERROR_BYTES)
        return header

    def _wants_login(self, call: ApiRequest, response: requests.Response) -> bool:
        """Return True if an anonymous response has to be requested again with the login.

        A write that was accepted stands; a read may have shown the public part only.
        """
        is_read = call.method in {"GET", "HEAD"} and response.status_code in call.expected
        if not is_read and response.status_code not in _HIDING:
            return False
        url = f"{base_url(call.host, self._settings)}/v2/"
        if call.url == url or "WWW-Authenticate" in response.headers:
            return False

        def ask() -> str:
            asked = replace(call, method="GET", url=url, body=None, headers={}, is_write=False, precheck=None)
            found, is_own = self._redirected(asked, None)
            read_all(found, _ERROR_BYTES)
            is_challenge = is_own and found.status_code == _UNAUTHORIZED
            return found.headers.get("WWW-Authenticate") or _UNNAMED if is_challenge else ""

        return self._authorizer.learn(call.host, call.scopes, ask)

    def _refusal(
        self, call: ApiRequest, response: requests.Response, *, is_own: bool
    ) -> errors.RegistryError:
        """Build the error of a 401 that no login answers."""
        error = map_error(response, call.method, call.repository, call.subject)
        challenge = response.headers.get("WWW-Authenticate")
        message = str(error)
        if not is_own:
            host = urlsplit(response.url).netloc
            message += (
                f"; {host}, to which {call.host} leads, wants a login of its own and gets no login of ours"
            )
        elif challenge is not None and 'error="invalid_token"' in challenge:
            message += "; not even a new token of its own token server: compare their clocks and keys"
        else:
            message += f"; {self._origin()}"
        return call.error(message, errors.ForbiddenError, status=error.status, codes=error.codes)

    def _origin_of(self, call: ApiRequest) -> Origin:
        """Return the registry's own origin, for which its login is."""
        origin = self._origins.get(call.host)
        if origin is None:
            origin = self._origins[call.host] = origin_of(base_url(call.host, self._settings))
        return origin

    def _redirected(self, call: ApiRequest, authorization: str | None) -> tuple[requests.Response, bool]:
        """Send the request and follow redirects; also return whether no other origin took part.

        A login that was left out once stays out, even if a redirect leads back: another origin chose it.
        """
        url, own, is_own = call.url, self._origin_of(call), True
        seconds = self._http.connect_timeout_seconds + 2 * self._http.read_timeout_seconds
        ends_at = time.monotonic() + seconds if call.body is None else math.inf  # all hops share this limit
        for _ in range(_MOST_REDIRECTS):
            is_own = is_own and origin_of(url) == own
            headers = dict(call.headers)
            if authorization is not None and is_own:
                headers["Authorization"] = authorization
            response = self._send(call, url, headers, ends_at)
            location = response.headers.get("Location")
            followed = _REDIRECTS if call.method in {"GET", "HEAD"} else _PASSED_ON
            if response.status_code not in followed or location is None:
                return response, is_own
            read_all(response, _ERROR_BYTES)
            url = self._target(call, join_url(url, location))
        raise call.error(f"{call.subject}: the registry sends us in circles ({_MOST_REDIRECTS} redirects)")

    def _send(
        self, call: ApiRequest, url: str, headers: Mapping[str, str], ends_at: float
    ) -> requests.Response:
        if call.is_write:
            # The lease has to cover the whole request: connecting, sending and the response.
            seconds = self._http.connect_timeout_seconds + self._http.write_timeout_seconds
            ends_at = min(ends_at, time.monotonic() + seconds)
            call.lease.require(seconds)
        body = call.body() if callable(call.body) else call.body
        return self._transport.send(
            call.method,
            url,
            headers,
            body,
            ends_at=ends_at,
            send_by=call.send_by,
            answer_seconds=call.answer_seconds,
        )

    def _target(self, call: ApiRequest, url: str) -> str:
        """Return the target of a redirect; refuse plain HTTP after TLS, unless it may use that anyway."""
        own = self._origin_of(call)
        if own.scheme == "https" or not own.is_default:  # from http to https on their own ports is a move
            url = in_own_scheme(url, base_url(call.host, self._settings))
        scheme, host = urlsplit(url)[:2]
        allowed = (
            is_loopback(host) or self._settings.registry(host).plain_http or call.url.startswith("http:")
        )
        if scheme != "https" and not (scheme == "http" and allowed):
            raise call.error(f"{call.subject}: a redirect to {scheme}://{host}, which is not safe")
        return url


def read_content(response: requests.Response, call: ApiRequest, limit_bytes: int) -> bytes:
    """Read a body of bounded size; a larger one raises `RegistryError`."""
    content = read_all(response, limit_bytes)
    if content is None:
        message = f"{call.subject}: {call.host} answered with more than {limit_bytes} bytes"
        raise call.error(message, status=response.status_code)
    return content
