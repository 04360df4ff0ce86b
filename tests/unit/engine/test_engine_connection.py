"""Connections to Docker Engines that cannot be asked: one line each, with what to do."""

from __future__ import annotations

import gc
import json
import ssl
from contextlib import ExitStack

import pytest

from stagefleet import engine_errors, processes
from stagefleet.credentials import DockerConfig
from stagefleet.engine import Engine
from stagefleet.engine_address import EngineAddress
from stagefleet.engine_errors import map_engine_errors
from stagefleet.errors import EngineError, EngineUnreachableError, SettingsError
from stagefleet.fleet_storages import require_engine
from stagefleet.names import Repository
from stagefleet.settings import EngineSettings
from tests.unit.registry.raw import RawServer


def answer(content, status="200 OK"):
    body = content if isinstance(content, str) else json.dumps(content)
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


@pytest.fixture
def connect(tmp_path):
    """Connects to an engine at an address."""
    with ExitStack() as stack:

        def make(url, **address):
            engine = Engine(
                EngineAddress(url, **address), EngineSettings(), config=DockerConfig(tmp_path / "config.json")
            )
            stack.callback(engine.close)
            return engine

        yield make


@pytest.fixture
def serve():
    """Starts engines that answer by the path of the request; returns HOST:PORT."""
    with ExitStack() as stack:

        def start(respond):
            def script(server, connection):
                connection.sendall(respond(server.heads[-1].split()[1].decode()))

            return stack.enter_context(RawServer(script).running()).host

        yield start


@pytest.fixture
def _collect():
    """Free the sockets that docker-py leaves to the garbage collector when it cannot connect them."""
    yield
    gc.collect()


def refusal(engine, kind):
    with pytest.raises(kind) as told:
        engine.ping()
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("_collect")
def test_a_socket_that_is_missing(connect, tmp_path):
    told = refusal(connect(f"unix://{tmp_path}/none.sock"), EngineUnreachableError)
    assert f"there is no socket of a Docker Engine at unix://{tmp_path}/none.sock: start the engine" in told


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("_collect")
def test_a_socket_that_this_user_may_not_open(connect, tmp_path, monkeypatch):
    def refuse(_self, _address):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refuse)
    told = refusal(connect(f"unix://{tmp_path}/closed.sock"), SettingsError)
    assert "may not be used by this user: add the user to the socket's group" in told


def test_an_engine_that_wants_tls(connect, serve):
    """The words are those of Go's `net/http` server."""
    host = serve(lambda _: answer("Client sent an HTTP request to an HTTPS server.\n", "400 Bad Request"))
    assert "wants TLS: set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH" in refusal(
        connect(f"tcp://{host}"), SettingsError
    )


def test_an_engine_that_speaks_no_tls(connect, tmp_path):
    def script(_server, connection):
        connection.sendall(answer("Bad Request", "400 Bad Request"))

    with RawServer(script, reads_head=False).running() as server:
        told = refusal(connect(f"tcp://{server.host}", certificates=tmp_path, verifies=False), SettingsError)
    assert "do not agree on TLS" in told


def test_certificates_that_are_missing(connect, tmp_path):
    told = refusal(connect("tcp://127.0.0.1:1", certificates=tmp_path / "certs"), SettingsError)
    assert f"{tmp_path}/certs has no certificates" in told


@pytest.mark.parametrize(("spoken", "is_served"), [("1.40", False), ("1.41", True), ("1.52", True)])
def test_an_api_older_than_1_41_is_refused(connect, serve, spoken, is_served):
    engine = connect(f"tcp://{serve(lambda _: answer({'Version': '29.1', 'ApiVersion': spoken}))}")
    if is_served:
        assert "29.1" == engine.ping()
    else:
        assert "speaks API 1.40, and 1.41 is needed: update it to Docker 20.10" in refusal(
            engine, EngineError
        )


def test_the_api_version_is_agreed_on_anew_after_an_update_of_the_engine(connect, serve):
    """Docker 29 refuses what 20.10 spoke; moby `api/server/middleware/version.go`."""
    spoken = ["1.41", "1.44"]

    def respond(path):
        if path == "/version":
            return answer({"Version": "x", "ApiVersion": spoken[0]})
        if path.startswith(f"/v{spoken[0]}/"):
            return answer({"Id": "sha256:1"})
        told = "client version 1.41 is too old. Minimum supported API version is 1.44"
        return answer({"message": told}, "400 Bad Request")

    engine = connect(f"tcp://{serve(respond)}")
    assert engine.find("app:1")
    del spoken[0]
    with pytest.raises(EngineUnreachableError, match="was updated meanwhile"):
        engine.find("app:1")
    assert engine.find("app:1")


@pytest.mark.parametrize(
    ("status", "store"),
    [
        ([["driver-type", "io.containerd.snapshotter.v1"]], "containerd's image store"),
        ([["Backing Filesystem", "extfs"]], "the classic image store"),
        (None, "the classic image store"),
    ],
)
def test_an_engine_is_described_with_its_versions_and_its_image_store(connect, serve, status, store):
    def respond(path):
        if path.endswith("/info"):
            return answer({"DriverStatus": status})
        return answer({"Version": "29.1.0", "ApiVersion": "1.52", "MinAPIVersion": "1.44"})

    host = serve(respond)
    assert (
        f"Docker Engine 29.1.0 answers at tcp://{host}, with API 1.52 (the oldest is 1.44) and {store}"
        == connect(f"tcp://{host}").describe()
    )


def test_ssh_that_does_not_connect_is_an_engine_out_of_reach(monkeypatch):
    """Paramiko's errors are neither docker-py's nor of the system."""

    class SSHException(Exception):  # noqa: N818 - as paramiko calls it
        pass

    monkeypatch.setattr(engine_errors, "_UNANSWERED", (SSHException,))
    with (
        pytest.raises(
            EngineUnreachableError, match=r"over SSH .* ssh ssh://build docker version  asks nothing"
        ),
        map_engine_errors("ssh://build", "its version"),
    ):
        raise SSHException("Server 'build' not found in known_hosts")


def test_a_certificate_that_is_not_valid_is_told_with_its_reason():
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed")
    refused.verify_message = "self-signed certificate"
    with (
        pytest.raises(SettingsError, match=r"do not agree on TLS \(self-signed certificate\)"),
        map_engine_errors("tcp://e:2376", "its version"),
    ):
        raise ConnectionError(refused)


def test_an_engine_over_ssh_needs_the_extra(monkeypatch):
    monkeypatch.setattr(processes, "find_spec", lambda name: None if name == "paramiko" else object())
    with pytest.raises(SettingsError, match=r"pip install 'stagefleet\[ssh\]'"):
        require_engine(EngineAddress("ssh://build"))


@pytest.mark.parametrize(
    ("events", "is_whole"),
    [
        ([{"status": "one: digest: sha256:12ab size: 405"}, {"aux": {"Digest": "sha256:12ab"}}], True),
        ([{"status": "Pushed", "id": "6ea6"}, {"status": "one: digest: sha256:12ab size: 405"}], True),
        ([{"status": "Pushed", "progressDetail": {}, "id": "6ea6"}], False),
    ],
    ids=["classic", "containerd", "broken off"],
)
def test_a_push_is_whole_when_the_engine_names_a_digest(connect, serve, events, is_whole):
    """With containerd's image store an engine says it in a status alone (moby 29)."""
    version = {"Version": "29", "ApiVersion": "1.52", "Os": "linux", "Arch": "amd64"}
    stream = "\r\n".join(map(json.dumps, events))
    host = serve(lambda path: answer(stream if path.endswith("/push?tag=one") else version))
    reference = Repository("r.test", "app").tagged("one")
    if is_whole:
        assert 0 == connect(f"tcp://{host}").push(reference)
        return
    with pytest.raises(EngineError, match="without a digest"):
        connect(f"tcp://{host}").push(reference)
