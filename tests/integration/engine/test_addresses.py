"""Engines at addresses that need more than a socket: TLS with certificates, SSH with a key."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec

import pytest

from stagefleet.engine_address import find_engine
from stagefleet.errors import EngineUnreachableError, SettingsError
from stagefleet.fleet_storages import open_engine_host
from stagefleet.locks import MemoryLocks
from stagefleet.names import EngineProject, StageId
from stagefleet.settings import EngineSettings
from stagefleet.storages.docker_engine import EngineStorage
from tests.integration.engine.conftest import LABELS
from tests.services import DockerEngine, SshServer, Tls, clean_environment, stage_id_of

ONE = StageId.parse(stage_id_of("one"))
_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def open_project(cleanup):
    """Opens a project in the engine that the environment names, or a URL."""

    def open_it(url=""):
        host = open_engine_host(EngineSettings(url=url, timeout_seconds=20), MemoryLocks())
        cleanup.callback(host.close)
        return EngineStorage(host, EngineProject("app"))

    return open_it


# TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return Tls(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="module")
def tls_engine(service_folder, tls):
    """An engine that lets nobody in without a certificate."""
    engine = DockerEngine(service_folder("engine"), tls=tls).start()
    yield engine
    engine.stop()


@pytest.fixture
def trust(monkeypatch, tmp_path):
    """Puts certificates where `DOCKER_CERT_PATH` finds them, as Docker's command does."""

    def put(tls, *, authority=None, client=True):
        folder = tmp_path / "certs"
        folder.mkdir()
        shutil.copy((authority or tls).ca_file, folder / "ca.pem")
        if client:
            shutil.copy(tls.client_certificate, folder / "cert.pem")
            shutil.copy(tls.client_key, folder / "key.pem")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(folder))
        return folder

    return put


@pytest.mark.parametrize("has_bundle", [False, True])
def test_an_engine_lets_a_client_with_a_certificate_in(
    tls_engine, tls, trust, open_project, monkeypatch, tmp_path, has_bundle
):
    """Also where `REQUESTS_CA_BUNDLE` names authorities for everything else, as in companies."""
    trust(tls)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    if has_bundle:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Tls(tmp_path / "company").ca_file))
    tls_engine.import_image(f"app:{ONE}", labels=LABELS)
    monkeypatch.setenv("DOCKER_HOST", tls_engine.tls_url)
    assert [ONE] == list(open_project().stage_ids())
    monkeypatch.delenv("DOCKER_HOST")
    assert [ONE] == list(open_project(tls_engine.tls_url).stage_ids())


def test_a_context_has_its_certificates(tls_engine, tls, trust, open_project, monkeypatch):
    """Made by Docker's own command, which lays them where it looks for them."""
    folder = trust(tls)
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("no docker command here: apt-get install docker.io")
    files = ",".join(f"{name}={folder / name}.pem" for name in ("ca", "cert", "key"))
    command = [docker, "context", "create", "far", "--docker", f"host={tls_engine.tls_url},{files}"]
    variables = dict.fromkeys(_VARIABLES, "") | {"DOCKER_CONFIG": os.environ["DOCKER_CONFIG"]}
    subprocess.run(command, check=True, capture_output=True, env=clean_environment(**variables))
    for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    tls_engine.import_image(f"app:{ONE}", labels=LABELS)
    assert [ONE] == list(open_project().stage_ids())


def refusal(project, kind):
    with pytest.raises(kind) as refused:
        project.check()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_client_without_a_certificate_is_told_so(tls_engine, tls, trust, open_project):
    trust(tls, client=False)
    told = refusal(open_project(tls_engine.tls_url), SettingsError)
    assert "do not agree on TLS" in told
    assert "DOCKER_CERT_PATH" in told


def test_an_engine_of_another_authority_is_not_believed(tls_engine, tls, trust, open_project, tmp_path):
    trust(tls, authority=Tls(tmp_path / "others"))
    assert "do not agree on TLS" in refusal(open_project(tls_engine.tls_url), SettingsError)


def test_a_client_without_tls_is_told_what_to_set(tls_engine, open_project):
    assert "wants TLS: set DOCKER_TLS_VERIFY=1" in refusal(open_project(tls_engine.tls_url), SettingsError)


# SSH


@pytest.fixture
def ssh(engine, service_folder, cleanup, monkeypatch):
    """An SSH server on a machine with an engine; the client's home has the key."""
    if find_spec("paramiko") is None:
        pytest.skip("no paramiko here: pip install 'docker[ssh]'")
    if shutil.which("docker") is None:
        pytest.skip("no docker command here, which docker-py runs there: apt-get install docker.io")
    environment = {"DOCKER_HOST": engine.url, "PATH": os.environ.get("PATH", os.defpath)}
    server = SshServer(service_folder("ssh"), environment)
    cleanup.callback(server.stop)
    server.start()
    monkeypatch.setenv("HOME", str(server.home))
    return server


def test_an_engine_is_reached_over_ssh(engine, ssh, open_project, monkeypatch):
    engine.import_image(f"app:{ONE}", labels=LABELS)
    monkeypatch.setenv("DOCKER_HOST", ssh.url)
    address = find_engine()
    assert address is not None
    assert address.is_ssh
    project = open_project()
    assert [ONE] == list(project.stage_ids())
    assert f"app:{ONE}" == project.read(ONE).info.name
    assert project.engine.describe().startswith("Docker Engine ")


def test_a_host_whose_key_is_not_known_is_not_trusted(ssh, open_project):
    (ssh.home / ".ssh" / "known_hosts").unlink()
    told = refusal(open_project(ssh.url), EngineUnreachableError)
    assert "over SSH (SSHException): see that its key is known, and that  ssh ssh://127.0.0.1:" in told


def test_a_login_that_is_refused_says_what_to_try(ssh, open_project):
    (ssh.home / ".ssh" / "id_ed25519").unlink()
    assert "over SSH" in refusal(open_project(ssh.url), EngineUnreachableError)


def test_an_engine_that_is_away_behind_ssh_is_out_of_reach(engine, ssh, open_project):
    project = open_project(ssh.url)
    engine.stop()
    assert "over SSH" in refusal(project, EngineUnreachableError)
