"""Calls to a Docker Engine that says nothing."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack

import pytest

from stagefleet.credentials import DockerConfig
from stagefleet.engine import Engine, call_under_lease
from stagefleet.engine_address import EngineAddress
from stagefleet.errors import EngineUnreachableError, ItemCancelledError
from stagefleet.leases import under_lease
from stagefleet.names import Reference, Repository
from stagefleet.settings import EngineSettings
from tests.unit.registry.raw import RawServer

VERSION = json.dumps({"Version": "20.10", "ApiVersion": "1.41", "Os": "linux", "Arch": "amd64"}).encode()
STAGE = Reference.of(Repository("r.test", "app"), "a" * 56 + "-1700000000000")


class Lease:
    """Is over as soon as an event says so."""

    def __init__(self, over):
        self.over = over

    def check(self):
        if self.over.is_set():
            raise ItemCancelledError("cancelled")

    def require(self, seconds):
        del seconds


@pytest.fixture
def engine_at(tmp_path):
    """Makes engines behind a script; their time-out is longer than any test."""
    with ExitStack() as stack:

        def make(script):
            server = stack.enter_context(RawServer(script).running())
            engine = Engine(
                EngineAddress(f"tcp://{server.host}"),
                EngineSettings(timeout_seconds=600),
                config=DockerConfig(tmp_path / "config.json"),
            )
            stack.callback(engine.close)
            return engine, server

        yield make


def test_a_silent_pull_ends_with_its_item(engine_at):
    """R7: while an engine waits for its registry and says nothing, a cancelled item is heard all the same."""
    silent = threading.Event()

    def script(server, connection):
        if b"/version" in server.heads[-1]:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(VERSION), VERSION))
            return
        event = b'{"status": "Pulling fs layer", "id": "a"}\r\n'
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(event), event)
        )
        silent.set()
        server.over.wait(30)

    engine, _ = engine_at(script)
    with pytest.raises(ItemCancelledError):
        engine.pull(STAGE, lease=Lease(silent))


def test_an_engine_that_does_not_tell_its_version_is_left_as_well(engine_at):
    """R7: to connect is a wait too, for those as well that wait for another thread to connect."""
    engine, server = engine_at(lambda server, _: server.over.wait(30))
    ended = []

    def ping():
        with under_lease(Lease(server.asked)), pytest.raises(ItemCancelledError) as caught:
            engine.ping()
        ended.append(caught.type)

    threads = [threading.Thread(target=ping) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [ItemCancelledError] * 3 == ended


def test_what_a_call_returns_or_raises_comes_out():
    assert 7 == call_under_lease(lambda _: 7, Lease(threading.Event()))
    for error in (EngineUnreachableError("away"), TimeoutError("its own")):
        with pytest.raises(type(error)) as caught:
            call_under_lease(_raising(error), Lease(threading.Event()))
        assert error is caught.value


def test_a_call_that_was_left_is_told_so():
    """R7: it ends with the next word of the engine."""
    over, told = threading.Event(), threading.Event()

    def call(heed):
        over.set()
        try:
            while True:
                heed()
        finally:
            told.set()

    with pytest.raises(ItemCancelledError):
        call_under_lease(call, Lease(over))
    assert told.wait(20)


def _raising(error):
    def call(_heed):
        raise error

    return call
