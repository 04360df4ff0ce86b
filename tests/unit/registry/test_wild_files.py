"""Logins, certificates and proxies as people write them (docs/registries.md, "What was tried")."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import ssl

import pytest

from stagefleet.credentials import DockerConfig, Login
from stagefleet.errors import CredentialsError, RegistryUnreachableError, SettingsError
from stagefleet.names import Repository
from stagefleet.registry.http import origins, sockets
from stagefleet.registry.http.sockets import make_context
from stagefleet.setting_types import docker_config_file
from stagefleet.settings import RegistrySettings
from tests.services.tls import Tls
from tests.unit.registry.scripted import RegistryResponse

TAGS = RegistryResponse(body=b'{"name": "app", "tags": ["one"]}')


def encode(user, password="secret"):  # noqa: S107 - of nobody
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def write(tmp_path):
    """Writes the file that the client reads."""

    def write(document):
        (tmp_path / "config.json").write_text(json.dumps(document))
        return DockerConfig(tmp_path / "config.json")

    return write


def asks_for_passwords(asked):
    """A registry with a user per namespace, of the namespace's name."""
    user = asked.path.split("/")[2]
    if asked.headers.get("Authorization") == f"Basic {encode(user)}":
        return TAGS
    return RegistryResponse(401, b"{}", {"WWW-Authenticate": 'Basic realm="by path"'})


def test_each_namespace_has_its_login(serve, client, write):
    """W38 (go-containerregistry #1329, containers/image #1288): the longest key that fits counts."""
    server = serve(asks_for_passwords)
    keys = {f"{server.host}/a": "a", f"http://{server.host}/b/": "b", server.host: "c"}
    write({"auths": {key: {"auth": encode(user)} for key, user in keys.items()}})
    for path in ("a/x", "b/y/z", "c/w", "a/x", "b/y"):
        repository = Repository(server.host, path)
        assert ["one"] == list(client.tags(repository)), path


def test_each_namespace_has_its_token(serve, client, write):
    """W38: tokens, too, are asked for with the login of the namespace."""
    asked_as = []

    def script(asked):
        if asked.path.startswith("/token"):
            asked_as.append(asked.headers.get("Authorization"))
            return RegistryResponse(body=b'{"token": "granted"}')
        if "Authorization" in asked.headers:
            return TAGS
        challenge = f'Bearer realm="http://{server.host}/token"'
        return RegistryResponse(401, b"{}", {"WWW-Authenticate": challenge})

    server = serve(script)
    write({"auths": {f"{server.host}/{name}": {"auth": encode(name)} for name in "ab"}})
    for path in ("a/x", "b/x", "c/x"):
        list(client.tags(Repository(server.host, path)))
    assert [f"Basic {encode('a')}", f"Basic {encode('b')}", None] == asked_as


@pytest.mark.parametrize(
    ("path", "user"),
    [("team/app", "team"), ("team/sub/app", "sub"), ("team", "team"), ("teams/app", "all"), ("", "all")],
)
def test_the_longest_namespace_counts(write, path, user):
    """W38: containers-auth.json(5); a namespace ends at a slash, and a registry by itself is in none."""
    config = write(
        {"auths": {f"reg.example{end}": {"auth": encode(name)} for end, name in
                   (("", "all"), ("/team", "team"), ("/team/sub", "sub"))}}
    )  # fmt: skip
    assert Login(user, "secret") == config.login("reg.example", path)


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text,
        lambda text: text + "\n",
        lambda text: text[:8] + "\n" + text[8:],
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
    ],
    ids=["docker", "echo", "base64 -w", "no padding", "for URLs"],
)
def test_auth_is_read_as_people_make_it(write, spell):
    """W38: `echo -n user:password | base64`, and what other tools write."""
    password = "~~~???>>>"
    config = write({"auths": {"reg.example": {"auth": spell(encode("ann", password))}}})
    assert Login("ann", password) == config.login("reg.example")


@pytest.mark.parametrize("auth", ["ann", "====", "Y", "###"])
def test_auth_that_is_none_is_named(write, auth):
    config = write({"auths": {"reg.example": {"auth": auth}}})
    with pytest.raises(CredentialsError, match="malformed"):
        config.login("reg.example")


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


@pytest.mark.parametrize("where", ["run/containers/auth.json", ".config/containers/auth.json", "named.json"])
def test_podman_s_logins_count_where_docker_has_none(home, monkeypatch, where):
    """W38: containers-auth.json(5)."""
    if where == "named.json":
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / where))
    (home / where).parent.mkdir(parents=True, exist_ok=True)
    (home / where).write_text("{}")
    assert home / where == docker_config_file()
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text("{}")
    assert home / ".docker/config.json" == docker_config_file()
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "elsewhere"))
    assert home / "elsewhere/config.json" == docker_config_file()


def test_no_file_at_all_is_docker_s(home):
    assert home / ".docker/config.json" == docker_config_file()


class PublicRegistry:
    """Lets strangers pull what is not private, by tokens."""

    def __init__(self, *, gives=200):
        self.gives = gives
        self.host = ""

    def __call__(self, asked):
        if asked.path.startswith("/token"):
            return RegistryResponse(self.gives, b'{"token": "for-all"}')
        if "Authorization" in asked.headers and "private" not in asked.path:
            return TAGS
        challenge = f'Bearer realm="http://{self.host}/token"'
        return RegistryResponse(401, b"{}", {"WWW-Authenticate": challenge})


@pytest.fixture
def public(serve):
    def start(**options):
        registry = PublicRegistry(**options)
        server = serve(registry)
        registry.host = server.host
        return server

    return start


def test_a_helper_that_is_not_here_keeps_nobody_from_public_images(public, client, write, caplog):
    """W29 (podman-desktop #5375, steampipe #4325): a file from Docker Desktop; said, and gone on without."""
    server = public()
    write({"credsStore": "desktop.exe"})
    with caplog.at_level(logging.WARNING):
        assert ["one"] == list(client.tags(Repository(server.host, "app")))
    assert "docker-credential-desktop.exe cannot be started" in caplog.text


@pytest.mark.parametrize(("path", "gives"), [("private", 200), ("app", 401)])
def test_a_helper_that_is_not_here_is_named_where_strangers_are_refused(public, client, write, path, gives):
    """W29: at the token server, or at the registry."""
    server = public(gives=gives)
    write({"credsStore": "desktop.exe"})
    with pytest.raises(Exception, match=r"docker-credential-desktop\.exe cannot be started"):
        list(client.tags(Repository(server.host, path)))


def test_a_helper_that_is_not_here_ends_a_push_at_once(public, client, write):
    """W29: nobody pushes as a stranger."""
    server = public()
    write({"credsStore": "desktop.exe"})
    with pytest.raises(CredentialsError, match="cannot be started"):
        client.delete_manifest(Repository(server.host, "app").tagged("one"))


@pytest.mark.parametrize(
    ("no_proxy", "is_direct"),
    [
        ("*.lab.test", True),
        (".lab.test", True),
        ("lab.test", True),
        ("reg.lab.test", True),
        (" other , REG.Lab.Test ", True),
        ("*", True),
        ("reg.lab.test:5000", True),
        ("reg.lab.test:5001", False),
        ("*.lab.test:5000", True),
        ("b.test", False),
        ("*.reg.lab.test", False),
        ("*lab.test", False),
        ("127.0.0.0/8", False),
        ("", False),
    ],
)
def test_no_proxy_is_read_as_go_reads_it(monkeypatch, no_proxy, is_direct):
    """W26 (requests #3195): golang.org/x/net/http/httpproxy, which docker, crane and skopeo use."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert is_direct == ("https" not in origins.proxies_of("https://reg.lab.test:5000"))


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_direct"),
    [
        ("10.0.0.0/8", "10.1.2.3:5000", True),
        ("10.1.2.3", "10.1.2.3:5000", True),
        ("10.1.2.3:5000", "10.1.2.3:5000", True),
        ("10.1.2.3:80", "10.1.2.3:5000", False),
        ("fd00::/8", "[fd00::1]:5000", True),
        ("[fd00::1]:5000", "[fd00::1]:5000", True),
        ("10.0.0.0/8", "11.1.2.3", False),
    ],
)
def test_no_proxy_knows_networks(monkeypatch, no_proxy, host, is_direct):
    """W26: addresses, with a port or without, and networks."""
    for name in ("https_proxy", "all_proxy", "no_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert is_direct == ("https" not in origins.proxies_of(f"https://{host}"))


def test_a_socks_proxy_is_named_and_not_taken_for_an_outage(monkeypatch, connect):
    """W26: what to set instead, at the first request."""
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.test:1080")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match="SOCKS is not supported"):
        connect().ping("reg.example")


@pytest.fixture
def certs_d(tmp_path, monkeypatch):
    folder = tmp_path / "certs.d"
    monkeypatch.setattr(sockets, "_certificate_folders", lambda: [tmp_path / "none", folder])
    return folder


def test_certificates_of_docker_are_trusted_and_shown(certs_d, tmp_path, serve, connect):
    """W38: `/etc/docker/certs.d/HOST:PORT`, as docker and podman read it."""
    tls = Tls(tmp_path / "tls")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca_file)
    context.load_cert_chain(tls.server_certificate, tls.server_key)
    context.verify_mode = ssl.CERT_REQUIRED
    server = serve(lambda _: RegistryResponse(body=b"{}"), context=context)
    registries = {server.host: RegistrySettings(plain_http=False)}
    with pytest.raises(RegistryUnreachableError):
        connect(registries=registries).ping(server.host)
    folder = certs_d / server.host
    folder.mkdir(parents=True)
    shutil.copy(tls.ca_file, folder / "ca.crt")
    shutil.copy(tls.client_certificate, folder / "client.cert")
    shutil.copy(tls.client_key, folder / "client.key")
    connect(registries=registries).ping(server.host)


def test_a_certificate_that_is_none_is_named(certs_d):
    """W38: the file, and whose it is."""
    (certs_d / "reg.example").mkdir(parents=True)
    (certs_d / "reg.example" / "ca.crt").write_text("nothing")
    with pytest.raises(SettingsError, match=r"reg\.example/ca\.crt"):
        make_context("reg.example", RegistrySettings())
    assert isinstance(make_context("other.example", RegistrySettings()), ssl.SSLContext)
