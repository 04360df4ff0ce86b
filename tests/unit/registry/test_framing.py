"""Where a response ends (RFC 9112, section 6.3); no connection is used again where that is in doubt."""

from __future__ import annotations

import pytest

from stagefleet.errors import RegistryUnreachableError
from stagefleet.registry.http.responses import read_all
from stagefleet.registry.http.transport import Transport
from stagefleet.settings import Settings

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
GZIP = b"Transfer-Encoding: gzip\r\n"
CHUNKS = b"2\r\nab\r\n1;name=value\r\nc\r\n0\r\nTrailer: x\r\n\r\n"
LENGTH = b"Content-Length: 3\r\n"
KEPT, CLOSED = 1, 2


@pytest.fixture
def transport():
    transport = Transport(Settings())
    yield transport
    transport.close()


def answering(start, answer, *, ends=False):
    """A server that gives each request this answer, and its connections."""
    connections = []

    def serve(_, connection):
        if connection not in connections:
            connections.append(connection)
        connection.sendall(answer)
        if ends:
            connection.close()

    return start(serve), connections


@pytest.mark.parametrize(
    ("answer", "content", "used"),
    [
        (OK + LENGTH + b"\r\nabc", b"abc", KEPT),
        (OK + LENGTH + LENGTH + b"\r\nabc", b"abc", KEPT),
        (OK + b"Content-Length: 3, 3\r\n\r\nabc", b"abc", KEPT),
        (b"HTTP/1.1 200\r\n" + LENGTH + b"\r\nabc", b"abc", KEPT),
        (b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", b"abc", KEPT),
        (OK + CHUNKED + b"\r\n" + CHUNKS, b"abc", KEPT),
        (OK + CHUNKED + LENGTH + b"\r\n" + CHUNKS, b"abc", CLOSED),
        (OK + LENGTH + CHUNKED + b"\r\n" + CHUNKS, b"abc", CLOSED),
        (OK + b"Content-Length: 0\r\n\r\n", b"", KEPT),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", KEPT),
        (b"HTTP/1.1 304 Not Modified\r\n" + LENGTH + b"\r\n", b"", KEPT),
        (OK + b"Connection: close\r\n" + LENGTH + b"\r\nabc", b"abc", CLOSED),
        (b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\nabc", b"abc", CLOSED),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n" + LENGTH + b"\r\nabc", b"abc", KEPT),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH + b"\r\nabc", b"abc", KEPT),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + LENGTH + b"\r\nabc", b"abc", KEPT),
    ],
)
def test_a_body_ends_where_its_header_says(answer, content, used, start, transport):
    server, connections = answering(start, answer)

    for _ in range(2):
        with transport.send("GET", f"http://{server.host}/v2/", {}) as response:
            assert content == read_all(response, 10)

    assert used == len(connections)


@pytest.mark.parametrize(
    "header", [b"", b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: gzip\r\n" + LENGTH]
)
def test_a_body_without_an_end_lasts_until_the_connection_s(header, start, transport):
    server, _ = answering(start, OK + header + b"\r\nabc and more", ends=True)

    with transport.send("GET", f"http://{server.host}/v2/", {}) as response:
        assert b"abc and more" == read_all(response, 100)


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"Content-Length: 3, 4\r\n\r\n",
        b"Content-Length: +3\r\n\r\n",
        b"Content-Length: 1_0\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length : 3\r\n\r\n",
        b"no colon\r\nContent-Length: 3\r\n\r\n",
        b"X: a\rContent-Length: 3\r\n\r\n",
        b"X: \0\r\n\r\n",
        b"Content-Length: 3\r\n",
    ],
)
def test_a_header_that_may_be_read_in_two_ways_is_not_believed(header, start, transport):
    server, connections = answering(start, OK + header + b"abc", ends=True)

    for _ in range(2):
        with pytest.raises(RegistryUnreachableError):
            transport.send("GET", f"http://{server.host}/v2/", {})

    assert CLOSED == len(connections)


def test_a_response_that_is_not_read_to_its_end_closes_its_connection(start, transport):
    server, connections = answering(start, OK + LENGTH + b"\r\nabc")

    for _ in range(2):
        transport.send("GET", f"http://{server.host}/v2/", {}).close()

    assert CLOSED == len(connections)


def test_the_answer_to_a_head_has_no_body(start, transport):
    server, connections = answering(start, OK + LENGTH + b"\r\n")

    for _ in range(2):
        with transport.send("HEAD", f"http://{server.host}/v2/", {}) as response:
            assert b"" == read_all(response, 10)
            assert "3" == response.headers["content-LENGTH"]

    assert KEPT == len(connections)


def test_a_field_s_values_are_joined(start, transport):
    server, _ = answering(start, OK + LENGTH + b"A: 1\r\na:2\r\nB: x\r\n  y \r\n\r\nabc")

    with transport.send("GET", f"http://{server.host}/v2/", {}) as response:
        assert ("1, 2", "x y") == (response.headers["a"], response.headers.get("B"))


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/v2/", {"X": "a\r\nHost: b"}), ("/v2/", {"X\n": "a"}), ("/v2/ HTTP/1.1\r\nX: y", {})],
)
def test_no_request_has_the_end_of_a_line_in_it(path, headers, start, transport):
    server, _ = answering(start, OK + LENGTH + b"\r\nabc")

    with pytest.raises(ValueError, match=r"line|URL"):
        transport.send("GET", f"http://{server.host}{path}", headers)

    assert [] == server.heads


def test_a_request_is_one_piece(start, transport):
    server, _ = answering(start, OK + LENGTH + b"\r\nabc")

    transport.send("GET", f"http://{server.host}/v2/?n=1", {"Accept": "*/*"}).close()

    expected = (
        f"GET /v2/?n=1 HTTP/1.1\r\nHost: {server.host}\r\nAccept-Encoding: identity\r\nAccept: */*\r\n"
        "User-Agent: stagefleet\r\n\r\n"
    )
    assert [expected.encode()] == server.heads
