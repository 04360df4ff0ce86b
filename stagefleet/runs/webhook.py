"""Calls to URLs, signed by Standard Webhooks 1.0 (https://github.com/standard-webhooks/standard-webhooks)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from stagefleet.errors import CallbackDeclinedError, CallbackError, RegistryUnreachableError
from stagefleet.leases import NO_LEASE, Lease, under_lease
from stagefleet.registry.http.responses import retry_after_seconds
from stagefleet.registry.http.transport import Transport
from stagefleet.runs.models import Outcome
from stagefleet.settings import Settings

_GONE = 410
_HOST_CHARACTERS = 253  # RFC 1035, 2.3.4


def call_id(run_id: str, outcome: Outcome | None) -> str:
    """Return the id of the calls for an outcome (None: for the run's end); repeats have the same one."""
    if outcome is None:
        return f"{run_id}-end"
    name = f"{outcome.item}\x1f{outcome.host or ''}"
    return f"{run_id}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class WebhookCall:
    """One call of a URL.

    Attributes:
        id: The id by which the receiver recognizes a repeat.
        kind: The event's type, as `stagefleet.outcome`.
        at: Time of the call, in seconds since 1970 on the fleet's clock.
    """

    url: str = field(repr=False)  # it may contain a token
    id: str
    kind: str
    data: dict[str, Any]
    at: float


def sign(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Compute the signature of a call for `webhook-signature`; the timestamp is in seconds since 1970."""
    content = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


class WebhookCaller:
    """Call URLs. Create one per process; thread-safe.

    Calls use the transport of registry requests: one deadline for the whole call, the system's certificates
    and proxies, and no cookies, logins or redirects.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings.webhooks
        self._clock = clock
        self._transport = Transport(settings, to_registries=False)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def call(self, call: WebhookCall, lease: Lease = NO_LEASE) -> None:
        """Make one attempt at a call; it ends within the time-out, however slow the receiver is.

        The lease ends it, too, once another coordinator may make it.

        Raises:
            CallbackDeclinedError: The receiver answered 410.
            CallbackError: The receiver answered with another status than 2xx, or not in time.
        """
        called_at = datetime.fromtimestamp(call.at, UTC).isoformat()
        message = {"type": call.kind, "timestamp": called_at, "data": call.data}
        body = json.dumps(message, separators=(",", ":")).encode()
        headers = {
            "content-type": "application/json",
            "webhook-id": call.id,
            "webhook-timestamp": str(int(call.at)),
        }
        if self._settings.key:
            headers["webhook-signature"] = sign(self._settings.key, call.id, int(call.at), body)
        host = urlsplit(call.url).netloc
        ends_at = self._clock() + self._settings.timeout_seconds
        try:
            with under_lease(lease):
                answer = self._transport.send("POST", prepare_url(call.url), headers, body, ends_at=ends_at)
            with answer:  # its body is not needed
                status, wait_seconds = answer.status_code, retry_after_seconds(answer.headers)
        except RegistryUnreachableError as error:
            raise CallbackError(f"the webhook at {host} {error.cause[1]}", host=host) from None
        except ValueError as error:
            # Without its text, which shows the URL and so possibly a token.
            raise CallbackError(
                f"the webhook at {host} has a URL that cannot be called ({type(error).__name__})", host=host
            ) from None
        if status == _GONE:
            raise CallbackDeclinedError(
                f"the webhook at {host} answered 410: it wants no more calls, so the run is cancelled"
            )
        if not 200 <= status < 300:  # noqa: PLR2004 - 2xx
            raise CallbackError(
                f"the webhook at {host} answered {status}", host=host, retry_after_seconds=wait_seconds
            )


def prepare_url(url: str) -> str:
    """Convert a URL to the form that is sent: its host in ASCII, its path quoted; or raise ValueError."""
    if "\\" in url:
        raise ValueError("a backslash: two programs would find two hosts in it")
    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    prepared = str(request.url)
    host = urlsplit(prepared).hostname or ""
    host.encode("idna")  # like the socket: labels of 1 to 63 characters
    if len(host.rstrip(".")) > _HOST_CHARACTERS:
        raise ValueError("the host's name is too long")
    return prepared
