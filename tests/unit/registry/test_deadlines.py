"""Whatever drips, each request ends in time."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from stagefleet.errors import ForbiddenError, RegistryUnreachableError, StagefleetError, TruncatedError
from stagefleet.manifests import OCI_MANIFEST, Manifest, digest_of
from stagefleet.names import Repository
from stagefleet.registry.http.sockets import open_socket
from stagefleet.registry.http.waits import Deadline, bounding
from tests.unit.registry.asking import (
    ALL,
    CONTENT,
    LONG,
    MANIFEST,
    PADDING,
    SHORT,
    Lease,
    answer,
    at,
    config,
    delete,
    fetch,
    layer,
    ping,
    put,
    tags,
)
from tests.unit.registry.raw import one_by_one
from tests.unit.registry.scripted import RegistryResponse

pytestmark = pytest.mark.usefixtures("short_slices")


@pytest.mark.parametrize("ask", ALL)
def test_a_header_that_drips_ends_in_time(start, connect, ask):
    """R26: the time-out is for the whole header, not for each of its bytes."""
    server = start(
        lambda server, connection: server.drip(
            connection, one_by_one(b"HTTP/1.1 404 Not Found\r\n" + PADDING + b"Content-Length: 0\r\n\r\n")
        )
    )

    with pytest.raises(RegistryUnreachableError, match=r"its answer took longer than 0\.15 s"):
        ask(connect(read_timeout_seconds=SHORT, write_timeout_seconds=SHORT), at(server))


@pytest.mark.parametrize(
    ("ask", "body"),
    [
        (tags, b'{"name": "group/app", "tags": ["one"]}' + b" " * 100),
        (fetch, MANIFEST.raw),
        (config, CONTENT),
    ],
)
def test_a_small_body_that_drips_ends_in_time(start, connect, ask, body):
    """R26: lists of tags, manifests and configurations have to be here as a whole in time."""

    def serve(server, connection):
        connection.sendall(
            answer(body, headers=b"Content-Type: %s\r\n" % OCI_MANIFEST.encode())[: -len(body)]
        )
        server.drip(connection, one_by_one(body))

    with pytest.raises((RegistryUnreachableError, TruncatedError), match=r"time-out|too slow"):
        ask(connect(read_timeout_seconds=SHORT), at(start(serve)))


def test_an_error_whose_body_drips_is_that_error(start, connect):
    """R26: what an error answer has to say is not waited for longer than for anything else."""

    def serve(server, connection):
        connection.sendall(answer(bytes(200), status=b"403 Forbidden")[:-200])
        server.drip(connection, one_by_one(b"x" * 200))

    with pytest.raises(ForbiddenError, match="answered 403"):
        tags(connect(read_timeout_seconds=SHORT), at(start(serve)))


@pytest.mark.parametrize("where", ["header", "body"])
def test_a_token_server_that_drips_ends_in_time(start, connect, serve, tmp_path, where):
    """R26: a token has to be here in time, too."""
    text = answer(b'{"token": "t"}' + b" " * 100, headers=b"" if where == "body" else PADDING)
    fast = text.index(b"\r\n\r\n") + 4 if where == "body" else 20

    def drip(server, connection):
        connection.sendall(text[:fast])
        server.drip(connection, one_by_one(text[fast:]))

    realm = start(drip)
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{realm.host}/token"'}
    registry = serve(lambda _: RegistryResponse(401, headers=challenge))

    with pytest.raises(RegistryUnreachableError, match=f"{realm.host} does not answer in time"):
        tags(connect(read_timeout_seconds=SHORT), at(registry))


@pytest.mark.parametrize(
    "endless",
    [
        [b"HTTP/1.1 100 Continue\r\n\r\n"] * 40 + [answer(b'{"tags": []}')],
        [b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc\r\n{"tags": []}\r\n0\r\n']
        + [b"X: y\r\n"] * 40
        + [b"\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
        + [b"1\r\n%c\r\n" % byte for byte in b'{"tags": []}' + b" " * 30]
        + [b"0\r\n\r\n"],
    ],
    ids=["continues", "trailers", "chunks"],
)
def test_an_answer_that_goes_on_for_ever_ends_in_time(start, connect, endless):
    """R26: neither interim answers nor trailers nor chunks of a byte keep a request alive."""
    server = start(lambda server, connection: server.drip(connection, endless))

    with pytest.raises(RegistryUnreachableError, match="time-out"):
        tags(connect(read_timeout_seconds=SHORT), at(server))


def test_a_large_blob_only_has_to_go_on(start, connect):
    """R26: of a large blob each piece has the time of a whole small one."""

    def serve(server, connection):
        connection.sendall(answer(CONTENT)[: -len(CONTENT)])
        server.drip(connection, one_by_one(CONTENT), 0.004)

    layer(connect(read_timeout_seconds=10 * SHORT / 4), at(start(serve)))


def test_a_blob_is_sent_as_long_as_it_is_taken_and_no_longer(start, connect):
    """R26: a receiver of a large blob that takes nothing more is given up; its header had time enough."""
    content = bytes(20_000_000)
    taken: list[bool] = []

    def serve(server, connection):
        if not taken:
            taken.append(True)
            connection.sendall(answer(status=b"202 Accepted", headers=b"Location: /upload\r\n"))
        else:
            server.over.wait(LONG)

    server = start(serve)
    client = connect(read_timeout_seconds=SHORT)
    upload = client.begin_upload(at(server), digest_of(content), mount_from=None)

    with pytest.raises(RegistryUnreachableError, match="sending"):
        client.upload_bytes(upload, content)


@pytest.mark.parametrize("ask", [put, delete])
def test_a_write_ends_within_what_the_lease_was_asked_for(start, connect, ask):
    """R26: connecting, sending and the answer of a write together have what `require` was told."""
    connect_seconds, write_seconds = 0.1, 0.15
    server = start(
        lambda server, connection: server.drip(
            connection, one_by_one(answer(status=b"201 Created", headers=PADDING))
        )
    )
    client = connect(
        connect_timeout_seconds=connect_seconds,
        write_timeout_seconds=write_seconds,
        read_timeout_seconds=LONG,
    )
    lease = Lease()

    with pytest.raises(RegistryUnreachableError, match=r"its answer took longer than 0\.2"):
        ask(client, at(server), lease)
    assert [connect_seconds + write_seconds] == lease.required


def test_a_write_whose_lease_took_too_long_to_ask_does_not_leave(serve, connect):
    """R26: the time that a write has begins before its lease is asked for: what is late is not sent."""
    server = serve(lambda _: RegistryResponse(201))
    client = connect(connect_timeout_seconds=0.05, write_timeout_seconds=0.05)
    late = threading.Event()

    class Slow(Lease):
        def require(self, seconds):
            late.wait(2 * seconds)

    with pytest.raises(RegistryUnreachableError, match="time-out"):
        put(client, at(server), Slow())
    assert [] == server.asked


def test_a_manifest_that_is_not_taken_ends_with_its_write(start, connect):
    """R26: also the sending of a large manifest is part of what the lease was asked for."""
    large = Manifest.of(json.loads(MANIFEST.raw) | {"annotations": {"padding": "x" * 20_000_000}})
    server = start(lambda server, _: server.over.wait(LONG))
    client = connect(connect_timeout_seconds=0.1, write_timeout_seconds=0.1, read_timeout_seconds=LONG)

    with pytest.raises(RegistryUnreachableError, match=r"sending the request took longer than 0\.\d+ s"):
        client.put_manifest(at(server).tagged("one"), large)


def test_hops_share_the_time_of_one_request(serve, connect):
    """R26: redirects that are slow, each within its time, do not add up to many times of it."""
    hold = threading.Event()

    def script(asked):
        hold.wait(0.8 * SHORT)
        return RegistryResponse(307, headers={"Location": f"/hop{len(server.asked)}"})

    server = serve(script)
    client = connect(read_timeout_seconds=SHORT, connect_timeout_seconds=0.01)

    with pytest.raises(RegistryUnreachableError, match="time-out"):
        tags(client, at(server))
    assert len(server.asked) < 5


def test_all_addresses_of_a_host_share_the_time_to_connect(black_hole, monkeypatch):
    """R26: a name with many dead addresses takes no longer than one, and the last of them has its turn."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        entry = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        found = [(*entry, black_hole)] * 3 + [(*entry, listener.getsockname())]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        deadline = Deadline("reg", connect_seconds=4 * SHORT, phase_seconds=LONG)
        with bounding(deadline), open_socket("reg.example.com", 443, ()) as connected:
            assert listener.getsockname() == connected.getpeername()
        assert deadline.left_seconds() > 0

        deadline = Deadline("reg", connect_seconds=2 * SHORT, phase_seconds=LONG)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found[:3])
        with bounding(deadline), pytest.raises(TimeoutError):
            open_socket("reg.example.com", 443, ())
        assert deadline.left_seconds() < SHORT


def test_a_name_that_is_never_resolved_is_given_up(connect, monkeypatch):
    """R26: looking up a name has its end, and within a write it is a part of what the lease was asked for."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(LONG) and [])
    client = connect(connect_timeout_seconds=SHORT)
    writer = connect(connect_timeout_seconds=SHORT, write_timeout_seconds=SHORT)
    lease = Lease()
    try:
        with pytest.raises(RegistryUnreachableError, match="time-out while connecting"):
            ping(client, Repository.parse("reg.example.com/app"))
        with pytest.raises(RegistryUnreachableError, match="time-out while connecting"):
            put(writer, Repository.parse("reg.example.com/app"), lease)
    finally:
        over.set()
    assert [2 * SHORT] == lease.required


@pytest.mark.parametrize("name", ["a..b", "x" * 64])
def test_a_name_that_cannot_be_one_is_a_typed_error(serve, connect, name):
    """R30: a host that no resolver takes is an answer of the registry that makes no sense."""
    server = serve(lambda _: RegistryResponse(307, headers={"Location": f"https://{name}/"}))

    with pytest.raises(StagefleetError, match="does not answer"):
        tags(connect(), at(server))
