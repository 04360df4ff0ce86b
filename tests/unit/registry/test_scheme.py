"""What is said where one side speaks TLS and the other plain HTTP."""

from __future__ import annotations

import socket
import ssl
import struct

import pytest
import requests
import urllib3

from stagefleet.errors import CertificateError, PlainHttpError, RegistryError, RegistryUnreachableError
from stagefleet.registry.http.transport import map_http_errors
from stagefleet.settings import RegistrySettings

REFUSALS = [
    b"Client sent an HTTP request to an HTTPS server.\n",
    b"<html><center>The plain HTTP request was sent to HTTPS port</center></html>",
    b"<p>Reason: You're speaking plain HTTP to an SSL-enabled server port.</p>",
]
ALERT = bytes.fromhex("15030100020246")


def answering(body, content_type=b"text/html"):
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


def reset(connection):
    """Close so that the other side reads a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def tls_advice(server):
    return f'if it speaks TLS, set plain_http = false under [registries."{server.host}"] in stagefleet.toml'


def plain_http_advice(server):
    table = f'[registries."{server.host}"]'
    return f"if it speaks plain HTTP, set plain_http = true under {table} in stagefleet.toml"


@pytest.mark.parametrize("refusal", REFUSALS)
def test_the_words_of_servers_with_tls_lead_to_the_setting(start, connect, refusal):
    server = start(lambda _, connection: connection.sendall(answering(refusal)))
    with pytest.raises(PlainHttpError) as caught:
        connect().ping(server.host)
    assert str(caught.value).endswith(f": {tls_advice(server)}")
    assert CertificateError.exit_code == caught.value.exit_code


def test_another_400_leads_to_no_setting(start, connect):
    server = start(lambda _, connection: connection.sendall(answering(b"no such host here", b"text/plain")))
    with pytest.raises(RegistryError) as caught:
        connect().ping(server.host)
    assert "plain_http" not in str(caught.value)


@pytest.mark.parametrize(
    "serve",
    [
        lambda _, connection: reset(connection),
        lambda _, connection: connection.shutdown(socket.SHUT_RDWR),
        lambda _, connection: (connection.sendall(ALERT), connection.shutdown(socket.SHUT_RDWR)),
    ],
    ids=["reset", "closed", "alert"],
)
def test_a_server_that_hangs_up_on_the_first_plain_request_may_want_tls(start, connect, serve):
    server = start(serve)
    with pytest.raises(RegistryUnreachableError) as caught:
        connect().ping(server.host)
    assert tls_advice(server) in str(caught.value)


def test_a_server_that_has_answered_before_speaks_plain_http(start, connect):
    answers = iter([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"])

    def serve(_, connection):
        answer = next(answers, None)
        reset(connection) if answer is None else connection.sendall(answer)

    server = start(serve)
    client = connect()
    client.ping(server.host)
    with pytest.raises(RegistryUnreachableError) as caught:
        client.ping(server.host)
    assert "plain_http" not in str(caught.value)


@pytest.mark.parametrize(
    "serve",
    [
        lambda _, connection: connection.sendall(answering(b"Bad request", b"text/plain")),
        lambda _, connection: (connection.recv(10_000), connection.shutdown(socket.SHUT_RDWR)),
    ],
    ids=["answered in plain words", "closed"],
)
def test_a_server_that_does_not_understand_tls_may_speak_plain_http(start, connect, serve):
    server = start(serve, reads_head=False)
    client = connect(registries={server.host: RegistrySettings(plain_http=False)})
    with pytest.raises(CertificateError) as caught:
        client.ping(server.host)
    assert plain_http_advice(server) in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF) (_ssl.c:992)"),  # Python 3.11.2
        ssl.SSLEOFError(8, "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred (_ssl.c:1006)"),
    ],
)
def test_every_python_tells_that_a_server_hung_up_on_tls(error):
    advised = map_http_errors("https://r.test/v2/", advise=lambda: "ADVICE")
    with pytest.raises(CertificateError) as caught, advised:
        raise requests.exceptions.SSLError(urllib3.exceptions.SSLError(error))
    assert str(caught.value).endswith(": ADVICE")
