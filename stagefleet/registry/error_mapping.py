"""Errors for the error responses of a registry (OCI distribution specification 1.1, "Error Codes")."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests

from stagefleet import errors
from stagefleet.redaction import redact, words_of
from stagefleet.registry.http.origins import advise_tls, is_refused_as_plain
from stagefleet.registry.http.responses import read_all, retry_after_seconds
from stagefleet.registry.http.waits import span_text

_ERROR_BYTES = 64 * 1024
_SHOWN_CHARACTERS = 300
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST_CODES = 10
_BLOB_CODES = frozenset({"BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})
PASSING = frozenset({408, 425})
"""4xx that pass: a time-out of a proxy, and one that takes no early data (RFC 9110, 15.5.9; RFC 8470)."""
_OUR_QUERY = frozenset({"digest", "from", "last", "mount", "n"})
"""Query parameters that we set. All others belong to the registry: a signature, or an upload's state."""
_LIMITED = "TOOMANYREQUESTS"
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")

_SENSELESS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)


class _MapBodyErrors:
    """Map every error of parsing a response in a block to a `RegistryError`.

    Headers and bodies are untrusted: numbers of any length, values of any type, nesting of any depth. A case
    that nobody expected must fail this one call with a typed error, like any other malformed response.
    """

    __slots__ = ("_host", "_method", "_repository", "_subject")

    def __init__(self, method: str, host: str, repository: str, subject: str) -> None:
        self._method, self._host, self._repository, self._subject = method, host, repository, subject

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, _SENSELESS):
            return
        name = "nested too deep" if isinstance(error, RecursionError) else type(error).__name__
        # `from None`: a parser's error may quote its input, and a traceback would show it.
        raise errors.RegistryError(
            f"{self._subject}: {self._host} answered {self._method} with what makes no sense ({name}): is it "
            "a registry?",
            method=self._method,
            repository=self._repository,
        ) from None


map_body_errors = _MapBodyErrors  # no generator: it costs three times the calls


@dataclass(frozen=True, slots=True)
class _ErrorBody:
    """The message of an error response, and the advice for it."""

    codes: tuple[str, ...] = ()
    text: str = ""
    details: tuple[Any, ...] = ()
    advice: str = ""


def map_error(
    response: requests.Response, method: str, repository: str, subject: str
) -> errors.RegistryError:
    """Build the error for an unexpected status; reads the response's body.

    Raises `PlainHttpError` if the response refuses plain HTTP, since the registry speaks TLS.
    """
    told = _read_error_body(response)
    status = response.status_code
    context: dict[str, Any] = {
        "method": method,
        "repository": repository,
        "status": status,
        "codes": told.codes,
    }
    said = " ".join(filter(None, [", ".join(told.codes), told.text]))
    what = f"{subject}: {method} answered {status}" + (f" ({said})" if said else "")
    if method == "PUT" and status in {400, 404, 500} and _BLOB_CODES.intersection(told.codes):
        missing = tuple(dict.fromkeys(_DIGEST.findall(json.dumps(told.details))))
        return errors.ManifestRefusedError(what, missing=missing, **context)
    if status == 404 or (status == 400 and "BLOB_UPLOAD_UNKNOWN" in told.codes):  # noqa: PLR2004 - HTTP's numbers
        return errors.NotFoundError(what, **context)  # olareg answers 400 for an upload that is gone
    if status in {401, 403}:
        return errors.ForbiddenError(f"{what}: the login may not do this", **context)
    seconds = retry_after_seconds(response.headers)
    if seconds is not None:
        what = f"{what}, and asks to wait {span_text(seconds)}"
    if status == 429:  # noqa: PLR2004 - HTTP's number
        return errors.RateLimitedError(what, retry_after_seconds=seconds, **context)
    if status >= 500 or status in PASSING:  # noqa: PLR2004 - HTTP's number
        return errors.RegistryUnavailableError(what, retry_after_seconds=seconds, **context)
    if status == 407:  # noqa: PLR2004 - HTTP's number
        what += ": a proxy wants a login: in HTTP_PROXY write http://USER:PASSWORD@HOST:PORT"
    if told.advice and method != "HEAD":  # after HEAD it is a guess
        raise errors.PlainHttpError(f"{what}: {told.advice}", host=urlsplit(response.url).netloc)
    return errors.RegistryError(f"{what}: {told.advice}" if told.advice else what, **context)


def refuse_errors(response: requests.Response, subject: str, begin: bytes = b"") -> None:
    """Raise if a response of status 200 holds errors, and not `subject`: it proves nothing about that.

    Some gateways answer so. Call it for what is not the expected content; `begin` is what was read of it.

    Raises:
        RateLimitedError: The errors say so.
        RegistryUnavailableError: They say anything else.
    """
    body = begin
    if begin and not begin.lstrip().startswith(b"{"):
        return
    with suppress(errors.StagefleetError):
        body += read_all(response, _ERROR_BYTES) or b""
    document = _document_of(body)
    if document is None or "schemaVersion" in document:
        return
    told = _parse_errors(document, response)
    if not told.codes:
        return
    response.close()
    kind = errors.RateLimitedError if _LIMITED in told.codes else errors.RegistryUnavailableError
    said = " ".join(filter(None, [", ".join(told.codes), told.text]))
    raise kind(
        f"{subject}: {urlsplit(response.url).netloc} answered {response.status_code} with an error ({said})",
        status=response.status_code,
        codes=told.codes,
        retry_after_seconds=retry_after_seconds(response.headers),
    )


def is_refusal(error: errors.RegistryError) -> bool:
    """Return True if a registry refuses the request for good, rather than failing for now."""
    return 400 <= error.status < 500 and not error.retryable  # noqa: PLR2004 - HTTP's numbers


def may_be_unknown(error: errors.RegistryError) -> bool:
    """Return True if a registry may not know what was asked: a GET may succeed where this ended a HEAD."""
    return is_refusal(error) or error.status == requests.codes.not_implemented


def _read_error_body(response: requests.Response) -> _ErrorBody:
    try:
        body = read_all(response, _ERROR_BYTES) or b""
    except errors.UnreachableError:
        return _ErrorBody()
    advice = advise_tls(urlsplit(response.url).netloc) if is_refused_as_plain(response, body) else ""
    document = _document_of(body)
    if document is None:
        # Proxies and Go's HTTP server answer in plain text; a TLS server does so to plain HTTP.
        is_plain = response.headers.get("Content-Type", "text/plain").startswith("text/plain")
        text = _plain(body.decode(errors="replace"), response) if is_plain else ""
        return _ErrorBody(text=text, advice=advice)
    return replace(_parse_errors(document, response), advice=advice)


def _document_of(body: bytes) -> dict[str, Any] | None:
    """Parse the document of an error response, None if it is none ("Error Codes")."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("errors"), list) else None


def _parse_errors(document: dict[str, Any], response: requests.Response) -> _ErrorBody:
    entries = [entry for entry in document["errors"] if isinstance(entry, dict)]
    codes = [redact(str(entry.get("code") or "")) for entry in entries]
    return _ErrorBody(
        codes=tuple(code for code in codes if _CODE.fullmatch(code))[:_MOST_CODES],
        text=next((_plain(entry["message"], response) for entry in entries if entry.get("message")), ""),
        details=tuple(entry.get("detail") for entry in entries),
    )


def _plain(text: object, response: requests.Response) -> str:
    """Return a registry's text in printable form, or "" if it repeats the login that was sent."""
    shown = words_of(text, limit=_SHOWN_CHARACTERS)
    return "" if any(secret in str(text) for secret in _sent_secrets(response)) else shown


def _sent_secrets(response: requests.Response) -> Iterator[str]:
    """Yield the secrets in the request's login and URL, also those too short to be masked."""
    request: requests.PreparedRequest | None = response.request  # None in a response built by a test
    kind, _, value = str(request.headers.get("Authorization", "") if request else "").partition(" ")
    if value:
        yield value
    if kind == "Basic":
        password = base64.b64decode(value).decode(errors="replace").partition(":")[2]
        if password:
            yield password
    query = parse_qsl(urlsplit(str(request.url)).query) if request else []
    yield from (value for name, value in query if value and name not in _OUR_QUERY)
