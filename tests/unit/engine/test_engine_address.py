"""Where a Docker Engine is found: settings, variables, contexts and sockets, as Docker's command does."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from hashlib import sha256

import pytest

from stagefleet import engine_address
from stagefleet.engine_address import find_engine
from stagefleet.errors import EngineNotFoundError, SettingsError
from stagefleet.settings import EngineSettings


def find(url=""):
    """Find an engine that is there."""
    found = EngineSettings(url=url).address
    assert found is not None
    return found


VARIABLES = ("HOST", "CONTEXT", "TLS", "TLS_VERIFY", "CERT_PATH", "CONFIG")


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An empty home without engines; its path is short enough for sockets."""
    for name in VARIABLES:
        monkeypatch.delenv(f"DOCKER_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(engine_address, "_SYSTEM_SOCKET", tmp_path / "system.sock")
    (tmp_path / ".docker").mkdir()
    return tmp_path


@pytest.fixture
def listen(home, monkeypatch):
    """Makes sockets in the home."""
    with ExitStack() as stack:

        def make(name):
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            monkeypatch.chdir(path.parent)  # the address of a socket is short
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(path.name)
            return f"unix://{path}"

        yield make


@pytest.fixture
def add_context(home):
    """Writes a context as `docker context create` does; returns the folder of its certificates."""

    def add(name, endpoint, *, certificates=()):
        contexts, hashed = home / ".docker" / "contexts", sha256(name.encode()).hexdigest()
        meta, folder = contexts / "meta" / hashed, contexts / "tls" / hashed / "docker"
        meta.mkdir(parents=True)
        (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": endpoint}}))
        for file in certificates:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        return folder

    return add


@pytest.fixture
def choose(home):
    """Chooses a context as `docker context use` does."""
    return lambda name: (home / ".docker" / "config.json").write_text(json.dumps({"currentContext": name}))


@pytest.mark.parametrize(
    ("setting", "variables", "current", "expected"),
    [
        ("tcp://set:1", {"DOCKER_HOST": "tcp://host:1", "DOCKER_CONTEXT": "a"}, "b", "tcp://set:1"),
        ("", {"DOCKER_HOST": "tcp://host:1", "DOCKER_CONTEXT": "a"}, "b", "tcp://host:1"),
        ("", {"DOCKER_CONTEXT": "a"}, "b", "unix:///a.sock"),
        ("", {}, "b", "ssh://b"),
        ("", {"DOCKER_CONTEXT": "default"}, "b", "SYSTEM"),
        ("", {}, "default", "SYSTEM"),
        ("", {}, None, "SYSTEM"),
        ("", {"DOCKER_HOST": "", "DOCKER_CONTEXT": ""}, "", "SYSTEM"),
    ],
)
def test_an_engine_is_found_in_the_order_of_docker_s_command(
    add_context, choose, listen, monkeypatch, setting, variables, current, expected
):
    add_context("a", {"Host": "unix:///a.sock", "SkipTLSVerify": False})
    add_context("b", {"Host": "ssh://b"})
    system = listen("system.sock")
    if current is not None:
        choose(current)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (system if expected == "SYSTEM" else expected) == find(setting).url


SOCKETS = ("system.sock", "run/docker.sock", ".docker/run/docker.sock", ".docker/desktop/docker.sock")


@pytest.mark.parametrize("first", range(len(SOCKETS)))
def test_the_sockets_are_tried_in_their_order(listen, first):
    """That of the system, a rootless engine's, and Docker Desktop's on macOS and on Linux."""
    urls = [listen(name) for name in SOCKETS[first:]]
    assert urls[0] == find().url


def test_a_socket_that_this_user_may_use_comes_before_one_that_it_may_not(listen, home, monkeypatch):
    system, rootless = listen("system.sock"), listen("run/docker.sock")
    closed = [home / "system.sock"]
    monkeypatch.setattr(os, "access", lambda path, _: path not in closed)
    assert rootless == find().url
    closed.append(home / "run" / "docker.sock")
    assert system == find().url  # whose error says what is missing


@pytest.mark.usefixtures("home")
def test_a_host_without_any_has_none():
    assert find_engine() is None
    assert not EngineSettings().has_engine


def test_without_docker_py_only_what_was_named_counts(add_context, choose, listen, monkeypatch):
    add_context("b", {"Host": "ssh://b"})
    choose("b")
    listen("system.sock")
    monkeypatch.setattr(engine_address, "find_spec", lambda _: None)
    assert find_engine() is None
    monkeypatch.setenv("DOCKER_CONTEXT", "b")
    assert "ssh://b" == find().url


# TLS


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (None, True)),
        ({"DOCKER_TLS_VERIFY": ""}, (None, True)),
        ({"DOCKER_TLS_VERIFY": "1"}, (".docker", True)),
        ({"DOCKER_TLS": "1"}, (".docker", False)),
        ({"DOCKER_CERT_PATH": "certs"}, ("certs", False)),
        ({"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "certs"}, ("certs", True)),
        ({"DOCKER_TLS_VERIFY": "1", "DOCKER_CONFIG": "elsewhere"}, ("elsewhere", True)),
    ],
)
def test_the_variables_of_docker_s_command_say_how_tls_is_spoken(home, monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value if value in {"", "1"} else str(home / value))
    folder, verifies = expected
    for url in ("tcp://engine:2376", "https://engine:2376"):
        found = find(url)
        assert (folder and home / folder, verifies) == (found.certificates, found.verifies)
    for url in ("unix:///run/docker.sock", "ssh://engine"):
        assert find(url).certificates is None


@pytest.mark.parametrize(
    ("endpoint", "files", "expected"),
    [
        ({"Host": "tcp://e:2375"}, (), (False, True)),
        ({"Host": "tcp://e:2376"}, ("ca.pem",), (True, True)),
        ({"Host": "tcp://e:2376", "SkipTLSVerify": True}, ("cert.pem", "key.pem"), (True, False)),
        ({"Host": "tcp://e:2376", "SkipTLSVerify": True}, (), (True, False)),
        ({"Host": "ssh://e"}, ("ca.pem",), (False, True)),
    ],
)
def test_a_context_has_certificates_of_its_own(add_context, monkeypatch, endpoint, files, expected):
    """Those of the variables are for other engines."""
    folder = add_context("build", endpoint, certificates=files)
    for name, value in {"CONTEXT": "build", "TLS_VERIFY": "1", "CERT_PATH": "/elsewhere"}.items():
        monkeypatch.setenv(f"DOCKER_{name}", value)
    found = find()
    assert expected == (found.certificates == folder, found.verifies)
    assert "context build" == found.source
    present = [name for name in ("ca.pem", "cert.pem", "key.pem") if found.certificate_file(name)]
    assert present == ([] if found.certificates is None else list(files))


# What is of no use


def test_a_context_that_is_missing_is_told_with_who_names_it(add_context, choose, monkeypatch):
    add_context("other", {"Host": "ssh://b"})
    choose("lost")
    with pytest.raises(
        EngineNotFoundError, match="context 'lost', which currentContext names, does not exist"
    ):
        find_engine()
    assert not EngineSettings().has_engine  # a copy between registries needs none
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    with pytest.raises(
        SettingsError, match="context 'gone', which DOCKER_CONTEXT names, does not exist"
    ) as told:
        _ = EngineSettings().has_engine
    assert "STAGEFLEET_ENGINE__URL" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_configuration_file_that_came_alone_names_no_context(choose, listen):
    """Containers get `config.json` for its logins, often without the contexts that it speaks of."""
    choose("desktop-linux")
    assert listen("system.sock") == find().url


@pytest.mark.parametrize("content", ["no json", "{}", "[]", '{"Endpoints": {"kubernetes": {}}}'])
def test_a_damaged_context_is_told_with_its_file(add_context, home, monkeypatch, content):
    add_context("build", {})
    (file,) = home.glob(".docker/contexts/meta/*/meta.json")
    file.write_text(content)
    monkeypatch.setenv("DOCKER_CONTEXT", "build")
    with pytest.raises(SettingsError, match=f"cannot be read from {file}"):
        find_engine()


@pytest.mark.parametrize("content", ["no json", "[]", "{}", '{"currentContext": null}'])
def test_a_configuration_file_of_any_content_hides_no_socket(home, add_context, listen, content):
    add_context("build", {"Host": "ssh://b"})
    (home / ".docker" / "config.json").write_text(content)
    assert listen("system.sock") == find().url


def test_a_scheme_that_nobody_speaks_here_is_refused_without_its_login(add_context, home, monkeypatch):
    del home
    monkeypatch.setenv("DOCKER_HOST", "npipe://me:hunter2@pipe/docker_engine")
    with pytest.raises(
        SettingsError, match=r"DOCKER_HOST names .* write unix:///PATH, tcp://HOST:PORT or"
    ) as told:
        find_engine()
    assert "hunter2" not in str(told.value)
    monkeypatch.delenv("DOCKER_HOST")
    add_context("desktop-windows", {"Host": "npipe:////./pipe/docker_engine"})
    monkeypatch.setenv("DOCKER_CONTEXT", "desktop-windows")
    with pytest.raises(SettingsError, match="context desktop-windows names"):
        find_engine()


def test_an_address_does_not_show_its_login(home):
    del home
    assert "hunter2" not in repr(find_engine("tcp://me:hunter2@engine:2375"))
