"""Clients of real registries, each with settings and logins of its own and nothing of the user's."""

from __future__ import annotations

import base64
import json
import os

import pytest

from stagefleet.credentials import DockerConfig
from stagefleet.names import Repository
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import HttpSettings, RegistrySettings, Settings

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _without_the_users_network_settings(monkeypatch):
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config_file(tmp_path):
    """Where the logins are read from."""
    return tmp_path / "docker" / "config.json"


@pytest.fixture
def write_config(config_file):
    """Writes a Docker configuration file."""

    def write(document):
        config_file.parent.mkdir(exist_ok=True)
        config_file.write_text(json.dumps(document))

    return write


@pytest.fixture
def log_in(write_config):
    """Writes a login as `docker login` does."""

    def log_in(host, user, password):
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        write_config({"auths": {host: {"auth": auth}}})

    return log_in


@pytest.fixture
def connect(config_file, cleanup):
    """Makes clients with short waits; takes `HttpSettings`, and settings by host in `registries`."""

    def connect(*, registries=None, **http):
        short = {
            "connect_timeout_seconds": 2,
            "read_timeout_seconds": 10,
            "backoff_seconds": 0.01,
            "backoff_limit_seconds": 0.05,
        }
        named = {host: RegistrySettings(**said) for host, said in (registries or {}).items()}
        settings = Settings(http=HttpSettings(**{**short, **http}), registries=named)
        return cleanup.enter_context(RegistryClient(settings, config=DockerConfig(config_file)))

    return connect


@pytest.fixture
def client(connect):
    return connect()


@pytest.fixture
def at():
    """A repository of a server, or of a host."""

    def at(server, path="team/app"):
        return Repository(server if isinstance(server, str) else server.host, path)

    return at


@pytest.fixture
def install_helper(tmp_path, monkeypatch):
    """Puts a credential helper on the PATH: a shell script that notes what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def install(name, *, user, secret):
        asked = tmp_path / f"asked-of-{name}"
        answer = json.dumps({"ServerURL": "", "Username": user, "Secret": secret})
        program = folder / f"docker-credential-{name}"
        program.write_text(
            f'#!/bin/sh\n[ "$1" = get ] || exit 2\n(cat; echo) >> {asked}\ncat <<"END"\n{answer}\nEND\n'
        )
        program.chmod(0o755)
        return asked

    return install
