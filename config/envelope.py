"""Checks of a message's envelope in Redis, before kombu reads it.

kombu (5.7) takes every entry of a queue for a message of its own: a malformed one raises out of the worker's
loop, which then shuts down, or counts its connection as broken. Anyone with write access to Redis can add
entries, and a later release may write messages that this one cannot read.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Any, Literal

from kombu.exceptions import SerializationError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import from_json

from stagefleet.bounds import MAX_ITEMS
from stagefleet.logs import EventLogger
from stagefleet.runs.messages import queue_of

CONTENT_ERRORS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    SerializationError,
)
"""Errors of code that meets a message of an unexpected form; outages raise none of them."""

_LARGEST_BYTES = 16 * 1024 * 1024
_LARGEST_REQUEST_BYTES = 128 * 1024 * 1024
"""Largest request to start a run, which names up to `MAX_ITEMS` stages, in base64."""
_MOST_TOKENS = 2 * MAX_ITEMS + 10_000
"""Most lists, objects and members: each takes some 60 bytes of memory for two bytes of JSON."""
_DIGESTED_BYTES = 1024 * 1024

_MOST_CHARACTERS = 255
_BODY_ENCODINGS = (None, "base64", "utf-8")

Name = Annotated[
    str, StringConstraints(min_length=1, max_length=_MOST_CHARACTERS, pattern=r"^[^\x00-\x1f\x7f]*$")
]
"""A name or an id: one line, not empty."""

_log = EventLogger(__name__)


class MalformedMessageError(Exception):
    """An entry of a queue is no message; the text says why, without its content."""


class _Properties(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)

    delivery_tag: Name
    body_encoding: Literal["base64", "utf-8"] | None = None
    delivery_info: dict[str, Any] | None = None


class _Envelope(BaseModel):
    """Fields that kombu and Celery read; others are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)

    body: str
    headers: dict[str, Any] | None = None
    properties: _Properties
    content_type: Name | None = Field(default=None, alias="content-type")
    content_encoding: Name | None = Field(default=None, alias="content-encoding")


def open_envelope(item: bytes, queue: str) -> dict[str, Any]:
    """Parse a message into the form that kombu expects.

    A requeued message goes to the queue that it came from, whatever it names itself.
    """
    is_request = queue == queue_of("start_run")
    check_size(item, limit_bytes=_LARGEST_REQUEST_BYTES if is_request else _LARGEST_BYTES)
    message: dict[str, Any] = _read(item)  # any value, until it is checked
    if not _is_usual(message):
        try:
            _Envelope.model_validate(message)
        except ValidationError as error:
            raise MalformedMessageError(first_problem(error)) from None
    headers = message["headers"] = message.get("headers") or {}
    if headers.get("compression"):
        raise MalformedMessageError("its body is compressed")  # its full size is unknown
    properties = message["properties"]
    try:
        if properties.get("body_encoding") == "base64":
            base64.b64decode(message["body"])
        else:
            message["body"].encode()
    except ValueError:
        raise MalformedMessageError("its body cannot be decoded") from None
    told = properties.get("delivery_info") or {}
    properties["delivery_info"] = told | {"exchange": "", "routing_key": queue}
    return message


def _is_usual(message: Any) -> bool:
    """Return True for an envelope as kombu and the ledger write it, which `_Envelope` would accept.

    The models take a twentieth of the CPU of an item that does nothing, in the thread that feeds the others.
    """
    if type(message) is not dict or type(properties := message.get("properties")) is not dict:
        return False
    return (
        type(message.get("body")) is str
        and type(message.get("headers")) is dict
        and message.get("content-type") == "application/json"
        and message.get("content-encoding") == "utf-8"
        and is_name(properties.get("delivery_tag"))
        and properties.get("body_encoding") in _BODY_ENCODINGS
        and type(properties.get("delivery_info")) is dict
    )


def is_name(value: Any) -> bool:
    """Return True for a printable `Name`."""
    return type(value) is str and 0 < len(value) <= _MOST_CHARACTERS and value.isprintable()


def first_problem(error: ValidationError) -> str:
    """Return the first invalid field and its problem, in pydantic's words, without its value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(part for part in first["loc"] if isinstance(part, str))
    return f"{where or 'the message'}: {first['type']}"


def check_size(text: bytes, *, limit_bytes: int = _LARGEST_REQUEST_BYTES) -> None:
    """Check before parsing that JSON fits into the memory for one message."""
    if len(text) > limit_bytes:
        raise MalformedMessageError(f"it is larger than {limit_bytes} bytes")
    if len(text) > _MOST_TOKENS and sum(map(text.count, (b"[", b"{", b","))) > _MOST_TOKENS:
        raise MalformedMessageError("it has too many parts")


def _read(item: bytes) -> Any:
    try:
        return from_json(item)
    except CONTENT_ERRORS as error:
        raise MalformedMessageError(f"it is no JSON ({type(error).__name__})") from None


def note_dropped(queue: str, reason: str, content: bytes) -> None:
    """Log a dropped message by the digest of its first MiB, which identifies repeats, without its content."""
    digest = hashlib.sha256(content[:_DIGESTED_BYTES]).hexdigest()
    _log.warning(
        "message_dropped", action="consume", queue=queue, reason=reason, bytes=len(content), sha256=digest
    )
