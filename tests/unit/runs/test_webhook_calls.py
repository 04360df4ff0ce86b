"""Calls to receivers that no HTTP library would be."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from stagefleet.errors import CallbackDeclinedError, CallbackError, LeaseLostError
from stagefleet.runs.webhook import WebhookCall, WebhookCaller
from stagefleet.setting_types import WebhookSettings
from stagefleet.settings import HttpSettings, Settings
from tests.unit.registry.raw import RawServer, one_by_one

NOW = 1_800_000_000.25
HEAD = b"HTTP/1.1 200 OK\r\n"
OK = HEAD + b"Content-Length: 0\r\n\r\n"


@pytest.fixture
def serve():
    """Starts receivers; they end with the test."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(RawServer(script).running())


@pytest.fixture
def caller():
    """One with a time-out of a blink, whatever requests to registries may take."""
    http = HttpSettings(connect_timeout_seconds=30, read_timeout_seconds=30)
    caller = WebhookCaller(Settings(http=http, webhooks=WebhookSettings(timeout_seconds=0.3)))
    yield caller
    caller.close()


def call(caller, server, path="/token-hunter2", **options):
    url = f"http://{server.host}{path}"
    caller.call(WebhookCall(url, "id", "stagefleet.outcome", {"run": "r"}, NOW), **options)


def answering(*answers):
    """Answers each request of a connection in turn."""
    left = list(answers)

    def script(_server, connection):
        connection.sendall(left.pop(0) if len(left) > 1 else left[0])

    return script


class Lost:
    """The lease of a coordination that another coordinator has taken over."""

    def check(self):
        raise LeaseLostError("another calls")

    def require(self, seconds):
        raise LeaseLostError("another calls")


def forever(piece):
    while True:
        yield piece


@pytest.mark.parametrize(
    "script",
    [
        lambda server, _: server.over.wait(20),
        lambda server, connection: server.drip(connection, one_by_one(HEAD + b"X: " + b"y" * 10_000)),
        lambda server, connection: server.drip(connection, [HEAD, *[b"X: y\r\n"] * 90, b"X: "]),
        lambda server, connection: server.drip(connection, forever(b"HTTP/1.1 100 Continue\r\n\r\n")),
    ],
    ids=["silent", "drips bytes", "drips lines", "drips answers before the answer"],
)
def test_a_call_is_over_in_its_time_whatever_the_receiver_does(serve, caller, script):
    """R10: the time-out is for the whole call, not from one byte to the next."""
    server = serve(script)
    with pytest.raises(CallbackError, match=rf"^the webhook at {server.host} does not answer") as caught:
        call(caller, server)
    assert "hunter2" not in str(caught.value)
    assert server.host == caught.value.host


def test_a_receiver_that_hangs_up_gets_no_advice_meant_for_registries(serve, caller):
    server = serve(lambda _, connection: connection.close())
    with pytest.raises(CallbackError, match="does not answer") as caught:
        call(caller, server)
    assert "plain_http" not in str(caught.value)


def test_a_body_that_drips_is_of_no_interest(serve, caller):
    """R10: the status says all: nobody waits for what comes behind it."""
    server = serve(lambda server, connection: server.drip(connection, [HEAD + b"\r\n", *forever_few()]))
    call(caller, server)
    assert server.asked.is_set()


def forever_few():
    return [b"x"] * 1000


def test_a_call_ends_when_another_coordinator_may_make_it(serve, caller):
    """R10: who has lost its lease calls no more, and hears so in the middle of a call."""
    server = serve(lambda server, _: server.over.wait(20))
    slow = WebhookCaller(Settings(webhooks=WebhookSettings(timeout_seconds=60)))
    with pytest.raises(LeaseLostError):
        call(slow, server, lease=Lost())
    slow.close()


def test_the_time_is_told_by_whoever_calls(serve, caller):
    """R38: neither header nor body has this host's clock."""
    bodies = []

    def script(_server, connection):
        bodies.append(connection.recv(10_000))
        connection.sendall(OK)

    server = serve(script)
    call(caller, server)
    assert b"\r\nwebhook-timestamp: 1800000000\r\n" in server.heads[0].lower()
    assert "2027-01-15T08:00:00.250000+00:00" == json.loads(bodies[0])["timestamp"]


def test_receivers_keep_nothing_with_us(serve, caller):
    """R46: a cookie of one receiver comes back neither to it nor to another."""
    cookie = HEAD + b"Set-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"
    servers = [serve(answering(cookie)) for _ in range(2)]
    for server in (*servers, *servers):
        call(caller, server)
    heads = [head.lower() for server in servers for head in server.heads]
    assert 4 == len(heads)
    assert not any(b"cookie" in head for head in heads)


def test_a_redirect_is_an_answer_like_any_other(serve, caller):
    elsewhere = serve(answering(OK))
    redirect = (
        f"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{elsewhere.host}/\r\nContent-Length: 0\r\n\r\n"
    )
    with pytest.raises(CallbackError, match="answered 307"):
        call(caller, serve(answering(redirect.encode())))
    assert [] == elsewhere.heads


def test_what_a_receiver_asks_for_is_read_as_a_registrys_is(serve, caller):
    """R7: a point in time is one here too."""
    late = (
        b"HTTP/1.1 429 Too Many Requests\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\n"
        b"Retry-After: 1800000090\r\nContent-Length: 0\r\n\r\n"
    )
    with pytest.raises(CallbackError, match="answered 429") as caught:
        call(caller, serve(answering(late)))
    assert 90 == caught.value.retry_after_seconds


def test_410_is_the_end(serve, caller):
    with pytest.raises(CallbackDeclinedError, match="answered 410"):
        call(caller, serve(answering(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")))


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.test", "a b"])
def test_a_url_that_cannot_be_called_is_a_failure_like_any_other(caller, host):
    """R10: a run that an older release took is given up in the end, and shows no token."""
    with pytest.raises(CallbackError, match="a URL that cannot be called") as caught:
        caller.call(WebhookCall(f"http://{host}/hunter2", "id", "stagefleet.outcome", {}, NOW))
    assert "hunter2" not in str(caught.value)


def test_nobody_there_is_said_by_name(caller):
    with pytest.raises(CallbackError, match=r"^the webhook at 127\.0\.0\.1:1 does not answer") as caught:
        caller.call(WebhookCall("http://127.0.0.1:1/hunter2", "id", "stagefleet.outcome", {}, NOW))
    assert "hunter2" not in str(caught.value)
