"""Calls to URLs, signed as Standard Webhooks 1.0 say (https://github.com/standard-webhooks/standard-webhooks)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from stagefleet.errors import CallbackError, CallbackGoneError
from stagefleet.registry.retry_after import retry_after_seconds
from stagefleet.runs.model import Outcome
from stagefleet.settings import WebhookSettings

__all__ = ["WebhookCaller", "call_id", "sign"]

_GONE = 410
_CONNECT_SECONDS = 5.0
_USER_AGENT = "stagefleet"


def call_id(run: str, outcome: Outcome | None) -> str:
    """The same for each call for an outcome (None: for the run's end), so that a repeat can be recognised."""
    if outcome is None:
        return f"{run}-end"
    name = f"{outcome.item}\x1f{outcome.host or ''}"
    return f"{run}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def sign(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The signature of a call, as it stands in `webhook-signature`.

    Args:
        key: The secret's bytes.
        webhook_id: As in `webhook-id`.
        timestamp: As in `webhook-timestamp`, seconds since 1970.
        body: As it is sent.
    """
    content = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


class WebhookCaller:
    """Calls URLs; one a process, safe to use from several threads.

    Args:
        settings: The secret and the time-out.
        clock: Gives seconds since 1970.
    """

    def __init__(self, settings: WebhookSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._session = requests.Session()
        self._session.auth = _no_login

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def call(self, url: str, webhook_id: str, kind: str, data: dict[str, Any]) -> None:
        """Make one attempt at a call.

        Args:
            url: The receiver.
            webhook_id: What the receiver recognises a repeat by.
            kind: The event's type, as `stagefleet.outcome`.
            data: What is told.

        Raises:
            CallbackGoneError: The receiver answered 410.
            CallbackError: It answered with another status than 2xx, or not at all.
        """
        now = self._clock()
        message = {"type": kind, "timestamp": datetime.fromtimestamp(now, UTC).isoformat(), "data": data}
        body = json.dumps(message, separators=(",", ":")).encode()
        headers = {
            "content-type": "application/json",
            "user-agent": _USER_AGENT,
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now)),
        }
        if self._settings.key:
            headers["webhook-signature"] = sign(self._settings.key, webhook_id, int(now), body)
        where = f"the webhook at {urlsplit(url).hostname}"
        limits = (min(_CONNECT_SECONDS, self._settings.timeout_seconds), self._settings.timeout_seconds)
        try:
            # Redirects would take the call to where nobody sent it; the answer's body is of no interest.
            with self._session.post(
                url, data=body, headers=headers, timeout=limits, allow_redirects=False, stream=True
            ) as answer:
                status, wait_seconds = answer.status_code, retry_after_seconds(answer.headers)
        except requests.RequestException as error:
            # The error's own text shows the whole URL, which may hold a token.
            raise CallbackError(f"{where} does not answer ({type(error).__name__})") from None
        if status == _GONE:
            raise CallbackGoneError(f"{where} answered 410: it wants no more calls, so the run is cancelled")
        if not 200 <= status < 300:  # noqa: PLR2004 - 2xx
            raise CallbackError(f"{where} answered {status}", retry_after_seconds=wait_seconds)


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from looking for a login in ~/.netrc."""
    return request
