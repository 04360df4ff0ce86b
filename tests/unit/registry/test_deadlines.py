"""Whatever drips, each request ends in time; whatever it waits for, it ends with its item."""

from __future__ import annotations

import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from stagefleet.errors import (
    ForbiddenError,
    ItemCancelledError,
    RegistryUnreachableError,
    StagefleetError,
    TruncatedError,
)
from stagefleet.names import Repository
from stagefleet.registry import DockerConfig, RegistryClient
from stagefleet.registry.deadline import Deadline, bounding
from stagefleet.registry.leash import UNLEASHED, current_leash, under
from stagefleet.registry.manifests import OCI_MANIFEST, Descriptor, Manifest, digest_of
from stagefleet.registry.sockets import open_socket
from stagefleet.registry.threads import LeashedThreads
from stagefleet.registry.uploads import Upload
from stagefleet.settings import HttpSettings, RegistrySettings, Settings
from tests.unit.registry.raw import RawServer, one_by_one
from tests.unit.registry.scripted import Answer

SHORT = 0.15
LONG = 30
CONTENT = b'{"padding": "%s"}' % (b"x" * 90)
BLOB = Descriptor("application/x", digest_of(CONTENT), len(CONTENT))
LARGE = Descriptor("application/x", digest_of(bytes(50_000_000)), 50_000_000)
MANIFEST = Manifest.of(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/x", "digest": str(BLOB.digest), "size": 7},
        "layers": [],
        "annotations": {"padding": "x" * 100},
    }
)
PADDING = b"X-Padding: " + b"x" * 100 + b"\r\n"


class Leash:
    """Cancelled once an event is set; notes what is required."""

    def __init__(self, cancelled=None):
        self.cancelled = cancelled or threading.Event()
        self.required = []

    def check(self):
        if self.cancelled.is_set():
            raise ItemCancelledError("cancelled")

    def require(self, seconds):
        self.required.append(seconds)


@pytest.fixture(autouse=True)
def _short_slices(monkeypatch):
    for module in ("leash", "deadline", "credential_helper"):
        monkeypatch.setattr(f"stagefleet.registry.{module}.SLICE_SECONDS", 0.05)


@pytest.fixture
def start():
    """Starts raw servers; they end with the test."""
    with ExitStack() as stack:
        yield lambda serve, **more: stack.enter_context(RawServer(serve, **more).running())


@pytest.fixture
def connect(tmp_path):
    """Makes clients that try once; takes settings."""
    with ExitStack() as stack:

        def connect(*, registries=None, **http):
            settings = Settings(
                http=HttpSettings(**{"retries": 0, "connect_timeout_seconds": LONG, **http}),
                registries=registries or {},
            )
            config = DockerConfig(tmp_path / "config.json")
            return stack.enter_context(RegistryClient(settings, config=config))

        yield connect


def answer(body=b"", *, status=b"200 OK", headers=b""):
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body)


def at(server):
    return Repository.parse(f"{server.host}/group/app")


def ping(client, repository, leash=UNLEASHED):
    client.ping(repository.host, leash=leash)


def tags(client, repository, leash=UNLEASHED):
    return list(client.tags(repository, leash=leash))


def head(client, repository, leash=UNLEASHED):
    return client.head_manifest(repository.tagged("one"), leash=leash)


def fetch(client, repository, leash=UNLEASHED):
    return client.fetch_manifest(repository.tagged("one"), leash=leash)


def put(client, repository, leash=UNLEASHED):
    client.put_manifest(repository.tagged("one"), MANIFEST, leash=leash)


def delete(client, repository, leash=UNLEASHED):
    client.delete_manifest(repository.tagged("one"), leash=leash)


def config(client, repository, leash=UNLEASHED):
    return client.fetch_blob(repository, BLOB, leash=leash)


def layer(client, repository, leash=UNLEASHED):
    client.hash_blob(repository, BLOB, leash=leash)


def begin(client, repository, leash=UNLEASHED):
    return client.begin_upload(repository, BLOB.digest, mount_from=None, leash=leash)


ALL = [ping, tags, head, fetch, put, delete, config, layer, begin]


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
    registry = serve(lambda _: Answer(401, headers=challenge))

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
    leash = Leash()

    with pytest.raises(RegistryUnreachableError, match=r"its answer took longer than 0\.2"):
        ask(client, at(server), leash)
    assert [connect_seconds + write_seconds] == leash.required


def test_a_write_whose_lease_took_too_long_to_ask_does_not_leave(serve, connect):
    """R26: the time that a write has begins before its lease is asked for: what is late is not sent."""
    server = serve(lambda _: Answer(201))
    client = connect(connect_timeout_seconds=0.05, write_timeout_seconds=0.05)
    late = threading.Event()

    class Slow(Leash):
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
        return Answer(307, headers={"Location": f"/hop{len(server.asked)}"})

    server = serve(script)
    client = connect(read_timeout_seconds=SHORT, connect_timeout_seconds=0.01)

    with pytest.raises(RegistryUnreachableError, match="time-out"):
        tags(client, at(server))
    assert len(server.asked) < 5


@pytest.fixture
def black_hole():
    """An address that answers no connection: its listener's queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.settimeout(0)
            filling.connect_ex(address)
        yield address


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
    leash = Leash()
    try:
        with pytest.raises(RegistryUnreachableError, match="time-out while connecting"):
            ping(client, Repository.parse("reg.example.com/app"))
        with pytest.raises(RegistryUnreachableError, match="time-out while connecting"):
            put(writer, Repository.parse("reg.example.com/app"), leash)
    finally:
        over.set()
    assert [2 * SHORT] == leash.required


@pytest.mark.parametrize("name", ["a..b", "x" * 64])
def test_a_name_that_cannot_be_one_is_a_typed_error(serve, connect, name):
    """R30: a host that no resolver takes is an answer of the registry that makes no sense."""
    server = serve(lambda _: Answer(307, headers={"Location": f"https://{name}/"}))

    with pytest.raises(StagefleetError, match="does not answer"):
        tags(connect(), at(server))


def silent(server, _):
    server.over.wait(LONG)


def half_a_body(server, connection):
    connection.sendall(answer(CONTENT, headers=b"Content-Type: %s\r\n" % OCI_MANIFEST.encode())[:-10])
    server.over.wait(LONG)


@pytest.mark.parametrize("ask", ALL)
def test_a_cancelled_item_waits_for_no_answer(start, connect, ask):
    """R26: each method hears its leash while nothing comes."""
    server = start(silent)

    with pytest.raises(ItemCancelledError):
        ask(connect(read_timeout_seconds=LONG, write_timeout_seconds=LONG), at(server), Leash(server.asked))


@pytest.mark.parametrize("ask", [tags, fetch, config, layer])
def test_a_cancelled_item_waits_for_no_body(start, connect, ask):
    """R26: each method hears its leash in the middle of a body."""
    server = start(half_a_body)

    with pytest.raises(ItemCancelledError):
        ask(connect(read_timeout_seconds=LONG), at(server), Leash(server.asked))


def test_a_cancelled_item_hears_it_while_bytes_drip(start, connect):
    """R26: bytes that come now and then do not keep a request from asking its leash."""

    def serve(server, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        server.drip(connection, [b"y"] * 1000)

    server = start(serve)
    with pytest.raises(ItemCancelledError):
        tags(connect(read_timeout_seconds=LONG), at(server), Leash(server.asked))


def test_a_cancelled_item_sends_nothing_more(start, connect):
    """R26: a body that nobody takes is not sent on."""
    server = start(silent, reads_head=False)
    client = connect(read_timeout_seconds=LONG)
    upload = Upload(at(server), BLOB.digest, f"http://{server.host}/upload")

    with pytest.raises(ItemCancelledError):
        client.upload_bytes(upload, bytes(20_000_000), leash=Leash(server.asked))


def test_a_cancelled_item_waits_for_no_handshake(start, connect):
    """R26: a TLS handshake that is never answered ends with the item, and in time."""
    server = start(silent, reads_head=False)
    secure = {server.host: RegistrySettings(plain_http=False, insecure=True)}

    with pytest.raises(ItemCancelledError):
        ping(connect(registries=secure), at(server), Leash(server.asked))
    with pytest.raises(RegistryUnreachableError, match="time-out"):
        ping(connect(registries=secure, connect_timeout_seconds=SHORT), at(server))


def test_a_cancelled_item_waits_for_no_connection(connect, black_hole):
    """R26: connecting ends with the item."""
    cancelled = threading.Event()
    cancelled.set()

    with pytest.raises(ItemCancelledError):
        ping(connect(), Repository.parse(f"127.0.0.1:{black_hole[1]}/app"), Leash(cancelled))


def test_a_cancelled_item_waits_for_no_name(connect, monkeypatch):
    """R26: looking up a name ends with the item."""
    over, asked = threading.Event(), threading.Event()

    def look_up(*_, **__):
        asked.set()
        over.wait(LONG)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        with pytest.raises(ItemCancelledError):
            ping(connect(), Repository.parse("reg.example.com/app"), Leash(asked))
    finally:
        over.set()


def test_a_cancelled_item_waits_for_no_token(start, connect, serve):
    """R26: neither for a token server, nor for another thread that waits for it; the other goes on."""
    go_on = threading.Event()

    def grant(server, connection):
        go_on.wait(LONG)
        connection.sendall(answer(b'{"token": "t"}'))

    realm = start(grant)

    def script(asked):
        if "Authorization" in asked.headers:
            return Answer(body=b'{"tags": ["one"]}')
        return Answer(401, headers={"WWW-Authenticate": f'Bearer realm="http://{realm.host}/token"'})

    repository = at(serve(script))
    client = connect(read_timeout_seconds=LONG)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(tags, client, repository)
        assert realm.asked.wait(10)
        with pytest.raises(ItemCancelledError):
            tags(client, repository, Leash(realm.asked))
        go_on.set()
        assert ["one"] == first.result(10)


def test_who_is_cancelled_at_a_token_server_fails_nobody_else(start, connect, serve):
    """R26: that an item was cancelled while it asked for a token is no answer for those that waited."""
    tries = []

    def grant(server, connection):
        tries.append(True)
        if len(tries) > 1:
            connection.sendall(answer(b'{"token": "t"}'))
        else:
            server.over.wait(LONG)

    realm = start(grant)

    def script(asked):
        if "Authorization" in asked.headers:
            return Answer(body=b'{"tags": ["one"]}')
        return Answer(401, headers={"WWW-Authenticate": f'Bearer realm="http://{realm.host}/token"'})

    server = serve(script)
    client, cancelled = connect(read_timeout_seconds=LONG), threading.Event()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(tags, client, at(server), Leash(cancelled))
        assert realm.asked.wait(10)
        others = [pool.submit(tags, client, at(server)) for _ in range(3)]
        cancelled.set()
        assert isinstance(first.exception(10), ItemCancelledError)
        assert [["one"]] * 3 == [other.result(10) for other in others]


def test_a_cancelled_item_waits_for_no_credential_helper(serve, connect, tmp_path, monkeypatch):
    """R26: a helper that thinks is left alone, and ended, when the item is cancelled."""
    asked = tmp_path / "asked"
    os.mkfifo(asked)
    program = tmp_path / "docker-credential-slow"
    program.write_text(f"#!/bin/sh\necho asked > {asked}\nsleep {LONG}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "slow"}))
    server = serve(lambda _: Answer(401, headers={"WWW-Authenticate": "Basic realm=x"}))
    cancelled = threading.Event()

    def cancel():
        asked.read_text()
        cancelled.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(ItemCancelledError):
        tags(connect(), at(server), Leash(cancelled))
    thread.join(10)


def test_what_a_thread_asks_is_under_the_leash_that_it_works_under(start, connect):
    """R26: work on an item is under its lease as a whole, in its pools, too; a named leash goes first."""
    server = start(silent)
    client = connect(read_timeout_seconds=LONG)
    leash = Leash(server.asked)

    with under(leash), pytest.raises(ItemCancelledError):
        head(client, at(server))
    with under(leash), LeashedThreads(1, "test") as pool:
        asked = pool.submit(head, client, at(server))
        assert isinstance(asked.exception(10), ItemCancelledError)
    other = Leash()
    with under(leash):
        assert other is current_leash(other)
        assert leash is current_leash()
    assert UNLEASHED is current_leash()
