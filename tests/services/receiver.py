"""A receiver of webhooks: it checks what the specification says, and answers what a test wants."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.services.listener import PostServer

__all__ = ["Call", "WebhookReceiver"]

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes....").decode()
_TOLERANCE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it came."""

    path: str
    webhook_id: str
    message: dict[str, Any]
    is_signed: bool
    answer: int

    @property
    def item(self) -> str:
        return str(self.message["data"]["outcome"]["item"])


class WebhookReceiver(PostServer):
    """A server that takes webhooks.

    Attributes:
        calls: What came, in order.
        answers: The statuses of the next calls; 200 once they are used up.
        on_call: Called in the middle of each call, before its answer; a test may wait or kill there.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: deque[int] = deque()
        self.on_call: Callable[[Call], None] | None = None
        self._came = threading.Condition()
        super().__init__()

    def to(self, path: str) -> list[Call]:
        """The calls of one path."""
        with self._came:
            return [call for call in self.calls if call.path == path]

    def wait_for(self, condition: Callable[[list[Call]], bool], seconds: float = 60) -> list[Call]:
        """Wait until the calls are as they should be; returns them."""
        with self._came:
            if not self._came.wait_for(lambda: condition(self.calls), seconds):
                raise AssertionError(f"not within {seconds} s; there were {self.calls}")
            return list(self.calls)

    def _answer(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str, bytes]:
        with self._came:
            status = self.answers.popleft() if self.answers else 200
            call = Call(path, headers["webhook-id"], json.loads(body), _is_signed(headers, body), status)
            self.calls.append(call)
            self._came.notify_all()
        if self.on_call is not None:
            self.on_call(call)
        return status, "", b""


def _is_signed(headers: Mapping[str, str], body: bytes) -> bool:
    """Standard Webhooks, "Signature scheme", written down independently of what is tested."""
    timestamp = headers["webhook-timestamp"]
    if abs(time.time() - int(timestamp)) > _TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    content = b".".join([headers["webhook-id"].encode(), timestamp.encode(), body])
    expected = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return f"v1,{expected}" in headers.get("webhook-signature", "").split(" ")
