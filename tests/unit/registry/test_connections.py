"""Connections are opened before they are needed, kept, and shared; TLS sessions are resumed."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress

import pytest

from stagefleet.leases import NO_LEASE
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import RegistrySettings, Settings
from tests.services.processes import wait_until
from tests.services.tls import Tls


class Server:
    """Answers every request with 200; counts connections, and those that resumed a TLS session."""

    def __init__(self, context=None):
        self.accepted = self.resumed = 0
        self.hangs_up = False
        self._context = context
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def host(self):
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self):
        self._listener.close()

    def await_accepted(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: self.accepted >= count, 20), self.accepted

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with self._changed:
                self.accepted += 1
                self.resumed += self._context is not None and connection.session_reused
                self._changed.notify_all()
            is_last = False
            while not is_last and connection.recv(65536):
                is_last = self.hangs_up
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        except OSError:
            pass
        connection.close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def client():
    with RegistryClient(Settings()) as client:
        yield client


def await_idle(client, server, count):
    """Wait until connections are back in the pool."""
    wait_until(lambda: not client._transport.prepare(f"http://{server.host}", count), "idle connections")


def test_what_was_prepared_is_used(server, client):
    client.prepare(server.host, 3)
    await_idle(client, server, 3)
    together = threading.Barrier(3)

    def ping(_lease):
        together.wait(20)
        client.ping(server.host)

    for _ in range(5):
        client.threads.run([ping] * 3, NO_LEASE)
        client.prepare(server.host, 1)
    assert 3 == server.accepted


def test_preparing_opens_no_more_than_what_is_missing(server, client):
    for _ in range(3):
        client.ping(server.host)
        client.prepare(server.host, 1)
    client.prepare(server.host, 2)
    await_idle(client, server, 2)
    client.ping(server.host)
    assert 2 == server.accepted


def test_a_connection_that_the_server_closed_is_not_ready(server, client):
    server.hangs_up = True
    client.ping(server.host)
    server.hangs_up = False

    def has_opened_another():
        client.prepare(server.host, 1)
        return server.accepted > 1

    wait_until(has_opened_another, "a new connection, once the end of the old one has arrived")


def test_a_server_that_is_down_is_left_to_the_requests(client):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    client.prepare(host, 2)
    client.threads.run([lambda _: None], NO_LEASE)


@pytest.fixture
def silent():
    """A host that answers no attempt to connect: the backlog of its listener is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            with suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_silent_host_leaves_threads_for_the_requests_of_others(silent, client):
    for _ in range(16):
        client.prepare(silent, 2)
    together = threading.Barrier(5)
    client.threads.run([lambda _: together.wait(3)] * 5, NO_LEASE)


def test_nobody_waits_for_connections_that_are_no_longer_needed(silent, client):
    client.prepare(silent, 2)
    began = time.monotonic()
    client.close()
    client.threads._pool.shutdown()
    assert time.monotonic() - began < client._settings.http.connect_timeout_seconds / 2


def test_a_tls_session_is_resumed(tmp_path):
    tls = Tls(tmp_path / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.server_certificate, tls.server_key)
    server = Server(context)
    settings = Settings(registries={server.host: RegistrySettings(plain_http=False, ca_file=tls.ca_file)})
    with RegistryClient(settings) as client:
        client.ping(server.host)
        client.prepare(server.host, 3)
        server.await_accepted(3)
    server.close()
    assert 2 == server.resumed
