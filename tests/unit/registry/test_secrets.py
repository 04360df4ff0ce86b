"""What servers hand us or repeat to us stands in no error: logins, tokens, signatures, states of uploads."""

import base64
import json
import os
import pickle
import traceback
from urllib.parse import quote

import pytest

from stagefleet.credentials import DockerConfig, ask_helper
from stagefleet.errors import StagefleetError
from stagefleet.manifests import Descriptor, digest_of
from stagefleet.names import Repository
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.tokens import Token, TokenServer
from stagefleet.settings import HttpSettings, Settings
from tests.unit.registry.scripted import RegistryResponse

PASSWORDS = ["pw", "hunter2", "planted/pass#word?of@ann:1"]
SIGNATURE = "planted-signature-0123456789"
BLOB = Descriptor("application/x", digest_of(b"content"), 7)


def told(error: BaseException) -> str:
    """All that can be seen of an error: its message, its traceback, and what is pickled of it."""
    return f"{error!s} {error!r} {''.join(traceback.format_exception(error))} {pickle.dumps(error)!r}"


def spellings(secret: str, user: str = "ann") -> list[str]:
    pair = base64.b64encode(f"{user}:{secret}".encode()).decode()
    return [secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode(), pair]


def assert_hidden(secret: str, text: str) -> None:
    assert [] == [spelled for spelled in spellings(secret) if spelled in text and len(spelled) > 2]


@pytest.fixture
def connect(tmp_path):
    """Makes clients with a login for a server."""

    def connect(server, password):
        entry = {"auth": base64.b64encode(f"ann:{password}".encode()).decode()}
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"auths": {server.host: entry}}))
        http = HttpSettings(retries=0, read_timeout_seconds=5)
        return RegistryClient(Settings(http=http), config=DockerConfig(file))

    return connect


def echo_of(asked, as_json):
    """What a server says that repeats the login that it got, in each spelling that it can give it."""
    header = asked.headers.get("Authorization", "")
    decoded = base64.b64decode(header.partition(" ")[2] + "==").decode(errors="replace")
    words = f"got {header}, which is {decoded}, {quote(decoded)}"
    if not as_json:
        return RegistryResponse(403, words.encode(), {"Content-Type": "text/plain"})
    document = {"errors": [{"code": "DENIED", "message": words, "detail": words}]}
    return RegistryResponse(403, json.dumps(document).encode(), {"Content-Type": "application/json"})


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("as_json", [True, False])
def test_a_registry_that_repeats_the_login_is_not_quoted(serve, connect, repository_at, password, as_json):
    """R16: an error body with the Authorization header in it, as proxies that debug write them."""
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}

    def answer(asked):
        return (
            echo_of(asked, as_json)
            if "Authorization" in asked.headers
            else RegistryResponse(401, headers=challenge)
        )

    server = serve(answer)
    with connect(server, password) as client, pytest.raises(StagefleetError) as refused:
        list(client.tags(repository_at(server)))
    assert "403" in str(refused.value)
    assert_hidden(password, told(refused.value))


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "answer",
    [
        lambda words: RegistryResponse(401, json.dumps({"details": words}).encode()),
        lambda words: RegistryResponse(403, json.dumps({"errors": [{"message": words}]}).encode()),
        lambda words: RegistryResponse(500, words.encode(), {"Content-Type": "text/plain"}),
        lambda words: RegistryResponse(200, json.dumps({"token": f"{words} \n"}).encode()),
        lambda words: RegistryResponse(200, json.dumps({"access_token": [words]}).encode()),
        lambda words: RegistryResponse(200, words.encode()),
        lambda words: RegistryResponse(302, headers={"Location": f"http://127.0.0.1:1/{quote(words)}"}),
    ],
)
def test_a_token_server_that_repeats_the_login_is_not_quoted(serve, connect, repository_at, password, answer):
    """R16: errors, malformed tokens and redirects of the token server."""
    tokens = serve(lambda asked: answer(f"of {asked.headers.get('Authorization')} {password}"))
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{tokens.host}/token?secret={SIGNATURE}"'}
    server = serve(lambda _: RegistryResponse(401, headers=challenge))
    with connect(server, password) as client, pytest.raises(StagefleetError) as refused:
        list(client.tags(repository_at(server)))
    assert_hidden(password, told(refused.value))
    assert SIGNATURE not in told(refused.value)


def test_a_token_that_a_registry_repeats_is_not_quoted(serve, connect, repository_at):
    """R16: not even cut in two by the bound on what is shown."""
    token = "planted-token-" + "x" * 200
    tokens = serve(
        lambda _: RegistryResponse(200, json.dumps({"token": token, "refresh_token": token}).encode())
    )
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{tokens.host}/token"'}

    def answer(asked):
        if "Authorization" not in asked.headers:
            return RegistryResponse(401, headers=challenge)
        message = "you sent " + "y" * 250 + asked.headers["Authorization"]
        return RegistryResponse(
            400, json.dumps({"errors": [{"code": token[:60], "message": message}]}).encode()
        )

    server = serve(answer)
    with connect(server, "hunter2") as client, pytest.raises(StagefleetError) as refused:
        list(client.tags(repository_at(server)))
    assert "planted-token" not in told(refused.value).replace(token[:60], "")


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_a_signed_address_of_a_blob_is_not_told(serve, connect, repository_at, status):
    """R16: storage that refuses, with its words, an address that a registry has signed."""
    storage = serve(
        lambda asked: RegistryResponse(status, f"no {asked.path}".encode(), {"Content-Type": "text/plain"})
    )
    location = {"Location": f"http://{storage.host}/bucket/blob?X-Amz-Signature={SIGNATURE}"}
    server = serve(lambda _: RegistryResponse(307, headers=location))
    with connect(server, "hunter2") as client, pytest.raises(StagefleetError) as refused:
        client.fetch_blob(repository_at(server), BLOB)
    assert SIGNATURE not in told(refused.value)


@pytest.mark.parametrize(
    "location",
    [
        f"http://127.0.0.1:1/bucket/blob?X-Amz-Signature={SIGNATURE}",
        f"http://me:{SIGNATURE}@127.0.0.1:1/blob",
        f"ftp://elsewhere.test/{SIGNATURE}",
        f"http://[{SIGNATURE}",
        f"http://{'x' * 64}.test/{SIGNATURE}",
        f"http://127.0.0.1:1/{SIGNATURE} blank",
    ],
)
def test_an_address_that_leads_nowhere_is_not_told(serve, connect, repository_at, location):
    """R16: whatever fails at it, its path and query are the registry's own affair."""
    server = serve(lambda _: RegistryResponse(307, headers={"Location": location}))
    with connect(server, "hunter2") as client, pytest.raises(StagefleetError) as refused:
        client.fetch_blob(repository_at(server), BLOB)
    assert SIGNATURE not in told(refused.value)


@pytest.mark.parametrize("status", [400, 416, 500])
def test_the_state_of_an_upload_is_not_told(serve, connect, repository_at, status):
    """R16: `_state` stands in the address that an upload goes to."""

    def answer(asked):
        if asked.method == "POST":
            return RegistryResponse(202, headers={"Location": f"{asked.path}u?_state={SIGNATURE}"})
        return RegistryResponse(status, f"bad state in {asked.path}".encode(), {"Content-Type": "text/plain"})

    server = serve(answer)
    with connect(server, "hunter2") as client:
        upload = client.begin_upload(repository_at(server), BLOB.digest, mount_from=None)
        with pytest.raises(StagefleetError) as refused:
            client.upload_bytes(upload, b"content")
    assert SIGNATURE not in told(refused.value) + repr(upload)


@pytest.mark.parametrize("login", ["me:hunter2", "me:hunt/er2", "me:hunt#er2", "me:hunt@er2", "hunter2"])
def test_a_proxy_is_named_without_its_login(tmp_path, monkeypatch, login):
    """R16: also where the password in `http_proxy` is not percent-encoded."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://{login}@127.0.0.1:1")
    settings = Settings(http=HttpSettings(retries=0, plain_http=True))
    client = RegistryClient(settings, config=DockerConfig(tmp_path / "none"))
    with client, pytest.raises(StagefleetError, match="proxy") as refused:
        list(client.tags(Repository("registry.test", "app")))
    assert [] == [piece for piece in ("hunt", "er2@", "me:") if piece in told(refused.value)]


def test_values_that_hold_secrets_do_not_show_them():
    """R16: a `repr` ends in logs and tracebacks."""
    server = TokenServer("registry.test", f"https://auth.test/token?x={SIGNATURE}")
    assert SIGNATURE not in repr(server) + repr(Token(SIGNATURE, 60))


def test_a_helper_gets_none_of_our_settings(tmp_path, monkeypatch):
    """R16: a child's environment holds no more than it needs."""
    monkeypatch.setenv("STAGEFLEET_REDIS_URL", "redis://:planted@redis.test/0")
    monkeypatch.setenv("STAGEFLEET_WEBHOOKS__SECRET", "planted")
    monkeypatch.setenv("HELPERS_OWN", "kept")
    helper = tmp_path / "docker-credential-dump"
    helper.write_text(
        f'#!/bin/sh\nenv >{tmp_path}/environment\necho \'{{"Username": "ann", "Secret": "x"}}\'\n'
    )
    helper.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert ("ann", "x") == ask_helper("dump", "registry.test", timeout_seconds=20)
    seen = (tmp_path / "environment").read_text()
    assert "HELPERS_OWN=kept" in seen
    assert "STAGEFLEET" not in seen


@pytest.mark.parametrize(
    "document",
    [
        {"auths": {"https://ann:planted@registry.test": {"auth": 5}}},
        {"auths": {"registry.test": {"auth": "planted not base64"}}},
        {"auths": {"registry.test": {"auth": base64.b64encode(b"no colon planted").decode()}}},
        {"auths": {"registry.test": {"identitytoken": ["planted"]}}},
        {"auths": {"registry.test": "planted"}},
        {"credsStore": "pla/nted?x=planted"},
        {"credHelpers": {"registry.test": "https://ann:planted@x"}},
    ],
)
def test_a_broken_docker_configuration_is_not_quoted(tmp_path, document):
    """R16: what is wrong is named by its key."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(document))
    config = DockerConfig(file)
    key = next(iter(document.get("auths", {"registry.test": 1})))
    with pytest.raises(StagefleetError) as refused:
        config.login(key if "@" in key else "registry.test")
    assert [] == [spelled for spelled in spellings("planted") if spelled in told(refused.value)]
