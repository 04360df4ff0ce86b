"""What is a message, and what is none."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from kombu.transport.virtual.base import Base64, Message

from config import envelope
from config.envelope import CONTENT_ERRORS, MalformedMessageError, check_size, note_dropped, open_envelope
from stagefleet.runs.messages import coordinator_template, message_template

SECRET = "planted-in-a-message"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


class Channel:
    """As much of a channel as a message asks for."""

    def decode_body(self, body: Any, encoding: Any) -> Any:
        return Base64().decode(body) if encoding and encoding.lower() != "utf-8" else body


def item_message() -> dict[str, Any]:
    message: dict[str, Any] = json.loads(message_template("copy_stage").replace("@INDEX@", "0"))
    return message


def encoded(message: Any) -> bytes:
    return json.dumps(message).encode()


@pytest.mark.parametrize("template", [message_template("copy_stage"), coordinator_template()])
def test_what_the_ledger_publishes_is_a_message(template):
    opened = open_envelope(template.replace("@INDEX@", "0").encode(), "copy")
    assert json.loads(template.replace("@INDEX@", "0"))["body"] == opened["body"]


def test_a_message_goes_back_to_where_it_came_from_whatever_it_says():
    """R9: a routing key that is another key of Redis would spoil that, or fail at each attempt."""
    message = item_message()
    message["properties"]["delivery_info"] = {
        "exchange": "x",
        "routing_key": "unacked_index",
        "redelivered": True,
    }
    opened = open_envelope(encoded(message), "copy")
    expected = {"exchange": "", "routing_key": "copy", "redelivered": True}
    assert expected == opened["properties"]["delivery_info"]


def test_without_headers_there_are_none():
    """R9: kombu writes into a message's headers when it puts one back."""
    assert {} == open_envelope(encoded(item_message() | {"headers": None}), "copy")["headers"]


def test_what_is_too_large_is_not_read():
    """R9: a huge message is dropped unread."""
    check_size(b'"012345678"', limit_bytes=11)
    with pytest.raises(MalformedMessageError, match="larger than"):
        check_size(b'"012345678"', limit_bytes=10)


def test_json_that_grows_is_not_read():
    """R9: two bytes of JSON may be sixty of memory."""
    bomb = b"[" + b",".join([b"[]"] * 2_100_000) + b"]"
    with pytest.raises(MalformedMessageError, match="too many parts"):
        check_size(bomb)


def test_a_request_may_name_more_stages_than_another_message_could_hold():
    """R9: the largest message that anybody means to send has its place in one queue alone."""
    names = [f"{0:056x}-1700000000000"] * 250_000
    body = base64.b64encode(encoded([[], {"stage_ids": names}, None])).decode()
    request = item_message() | {"body": body}
    request["properties"]["body_encoding"] = "base64"
    assert body == open_envelope(encoded(request), "coordinate")["body"]
    check_size(base64.b64decode(body))
    with pytest.raises(MalformedMessageError, match="larger than"):
        open_envelope(encoded(request), "copy")


def refusal(item: bytes) -> str | None:
    try:
        open_envelope(item, "copy")
    except MalformedMessageError as error:
        return str(error)
    return None


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=60) | VALUES.map(encoded))
def test_anything_else_is_refused_with_a_reason(item):
    """R9: whatever lies in a queue, nothing but a refusal comes of it."""
    assert refusal(item)


@settings(deadline=None)  # the machine may be busy
@given(
    field=st.sampled_from(["body", "headers", "properties", "content-type", "content-encoding"]),
    inner=st.none()
    | st.sampled_from(["delivery_tag", "body_encoding", "delivery_info", "priority", "compression"]),
    value=VALUES,
)
def test_kombu_makes_a_message_of_whatever_is_let_through(field, inner, value):
    """R9: what passes raises nothing in kombu."""
    message = item_message()
    if inner is None or not isinstance(message[field], dict):
        message[field] = value
    else:
        message[field][inner] = value
    reason = refusal(encoded(message))
    if reason is not None:
        assert reason.isascii()
        return
    made = Message(open_envelope(encoded(message), "copy"), channel=Channel())
    assert [] == made.errors
    assert isinstance(made.delivery_tag, str)


@pytest.mark.parametrize(
    "message",
    [
        item_message() | {"properties": {"delivery_tag": [SECRET]}},
        item_message() | {"headers": SECRET},
        item_message() | {"body": {SECRET: SECRET}},
        item_message() | {SECRET: 1, "properties": {SECRET: SECRET}},
        {SECRET: SECRET},
        SECRET,
        {"__type__": SECRET, "__value__": SECRET},
    ],
)
def test_a_refusal_holds_nothing_of_the_message(message, capsys):
    """R9, R16: a message may hold a secret; what is told of it is where, why, its size and its digest."""
    with pytest.raises(MalformedMessageError) as refused:
        open_envelope(encoded(message), "copy")
    note_dropped("copy", str(refused.value), encoded(message))
    assert SECRET not in str(refused.value) + capsys.readouterr().out
    assert refused.value.__suppress_context__


def test_an_outage_is_not_taken_for_a_message_s_fault():
    """R9: what a lost connection raises has to reach who reconnects."""
    assert not any(issubclass(kind, CONTENT_ERRORS) for kind in (OSError, ConnectionError, TimeoutError))


@pytest.mark.parametrize("template", [message_template("copy_stage"), coordinator_template()])
def test_what_the_ledger_publishes_needs_no_model(template):
    """Issue 10: the models took a twentieth of the CPU of an item that does nothing."""
    assert envelope._is_usual(json.loads(template.replace("@INDEX@", "0")))


@settings(deadline=None)  # the machine may be busy
@given(
    field=st.sampled_from([*item_message(), "more"]),
    inner=st.sampled_from([None, "delivery_tag", "body_encoding", "delivery_info", "more"]),
    value=VALUES | st.sampled_from([0, False, "", "a\x7f", "a" * 256, {}, [None], None, "base64", "utf-8"]),
)
def test_the_model_accepts_what_is_usual(field, inner, value):
    message = item_message()
    if inner is None or not isinstance(message.get(field), dict):
        message[field] = value
    else:
        message[field][inner] = value
    if envelope._is_usual(message):
        envelope._Envelope.model_validate(message)
