"""Whatever a request waits for, the wait ends with its item."""

from __future__ import annotations

import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagefleet.errors import ItemCancelledError, RegistryUnreachableError
from stagefleet.leases import NO_LEASE, current_lease, under_lease
from stagefleet.manifests import OCI_MANIFEST
from stagefleet.names import Repository
from stagefleet.registry.upload_sessions import Upload
from stagefleet.settings import RegistrySettings
from stagefleet.threads import LeaseBoundThreads
from tests.unit.registry.asking import (
    ALL,
    BLOB,
    CONTENT,
    LONG,
    SHORT,
    Lease,
    answer,
    at,
    config,
    fetch,
    head,
    layer,
    ping,
    tags,
)
from tests.unit.registry.scripted import RegistryResponse

pytestmark = pytest.mark.usefixtures("short_slices")


def silent(server, _):
    server.over.wait(LONG)


def half_a_body(server, connection):
    connection.sendall(answer(CONTENT, headers=b"Content-Type: %s\r\n" % OCI_MANIFEST.encode())[:-10])
    server.over.wait(LONG)


@pytest.mark.parametrize("ask", ALL)
def test_a_cancelled_item_waits_for_no_answer(start, connect, ask):
    """R26: each method hears its lease while nothing comes."""
    server = start(silent)

    with pytest.raises(ItemCancelledError):
        ask(connect(read_timeout_seconds=LONG, write_timeout_seconds=LONG), at(server), Lease(server.asked))


@pytest.mark.parametrize("ask", [tags, fetch, config, layer])
def test_a_cancelled_item_waits_for_no_body(start, connect, ask):
    """R26: each method hears its lease in the middle of a body."""
    server = start(half_a_body)

    with pytest.raises(ItemCancelledError):
        ask(connect(read_timeout_seconds=LONG), at(server), Lease(server.asked))


def test_a_cancelled_item_hears_it_while_bytes_drip(start, connect):
    """R26: bytes that come now and then do not keep a request from asking its lease."""

    def serve(server, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        server.drip(connection, [b"y"] * 1000)

    server = start(serve)
    with pytest.raises(ItemCancelledError):
        tags(connect(read_timeout_seconds=LONG), at(server), Lease(server.asked))


def test_a_cancelled_item_sends_nothing_more(start, connect):
    """R26: a body that nobody takes is not sent on."""
    server = start(silent, reads_head=False)
    client = connect(read_timeout_seconds=LONG)
    upload = Upload(at(server), BLOB.digest, f"http://{server.host}/upload")

    with pytest.raises(ItemCancelledError):
        client.upload_bytes(upload, bytes(20_000_000), lease=Lease(server.asked))


def test_a_cancelled_item_waits_for_no_handshake(start, connect):
    """R26: a TLS handshake that is never answered ends with the item, and in time."""
    server = start(silent, reads_head=False)
    secure = {server.host: RegistrySettings(plain_http=False, insecure=True)}

    with pytest.raises(ItemCancelledError):
        ping(connect(registries=secure), at(server), Lease(server.asked))
    with pytest.raises(RegistryUnreachableError, match="time-out"):
        ping(connect(registries=secure, connect_timeout_seconds=SHORT), at(server))


def test_a_cancelled_item_waits_for_no_connection(connect, black_hole):
    """R26: connecting ends with the item."""
    cancelled = threading.Event()
    cancelled.set()

    with pytest.raises(ItemCancelledError):
        ping(connect(), Repository.parse(f"127.0.0.1:{black_hole[1]}/app"), Lease(cancelled))


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
            ping(connect(), Repository.parse("reg.example.com/app"), Lease(asked))
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
            return RegistryResponse(body=b'{"tags": ["one"]}')
        return RegistryResponse(
            401, headers={"WWW-Authenticate": f'Bearer realm="http://{realm.host}/token"'}
        )

    repository = at(serve(script))
    client = connect(read_timeout_seconds=LONG)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(tags, client, repository)
        assert realm.asked.wait(10)
        with pytest.raises(ItemCancelledError):
            tags(client, repository, Lease(realm.asked))
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
            return RegistryResponse(body=b'{"tags": ["one"]}')
        return RegistryResponse(
            401, headers={"WWW-Authenticate": f'Bearer realm="http://{realm.host}/token"'}
        )

    server = serve(script)
    client, cancelled = connect(read_timeout_seconds=LONG), threading.Event()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(tags, client, at(server), Lease(cancelled))
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
    server = serve(lambda _: RegistryResponse(401, headers={"WWW-Authenticate": "Basic realm=x"}))
    cancelled = threading.Event()

    def cancel():
        asked.read_text()
        cancelled.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(ItemCancelledError):
        tags(connect(), at(server), Lease(cancelled))
    thread.join(10)


def test_what_a_thread_asks_is_under_the_lease_that_it_works_under(start, connect):
    """R26: work on an item is under its lease as a whole, in its pools, too; a named lease goes first."""
    server = start(silent)
    client = connect(read_timeout_seconds=LONG)
    lease = Lease(server.asked)

    with under_lease(lease), pytest.raises(ItemCancelledError):
        head(client, at(server))
    with under_lease(lease), LeaseBoundThreads(1, "test") as pool:
        asked = pool.submit(head, client, at(server))
        assert isinstance(asked.exception(10), ItemCancelledError)
    other = Lease()
    with under_lease(lease):
        assert other is current_lease(other)
        assert lease is current_lease()
    assert NO_LEASE is current_lease()
