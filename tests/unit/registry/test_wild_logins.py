"""Logins that are renamed, aged, or told by a gateway (docs/registries.md, "What was tried")."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from stagefleet.errors import CredentialsError, ForbiddenError
from stagefleet.manifests import digest_of
from stagefleet.registry.upload_sessions import Upload
from tests.unit.registry.scripted import RegistryResponse

TAGS = RegistryResponse(body=b'{"name": "group/app", "tags": ["one"]}')
EXPIRED = b'{"errors": [{"code": "DENIED", "message": "Your authorization token has expired"}]}'


def basic(password):
    return base64.b64encode(f"alice:{password}".encode()).decode()


@pytest.fixture
def log_in(tmp_path):
    def log_in(server, password):
        (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": basic(password)}}}))

    return log_in


class AgingRegistry:
    """Takes one password, and answers any other as told; asks strangers for one."""

    def __init__(self, status):
        self.password = "first"
        self.status = status

    def __call__(self, asked):
        sent = asked.headers.get("Authorization")
        if sent is None:
            return RegistryResponse(401, b"{}", {"WWW-Authenticate": 'Basic realm="aging"'})
        return TAGS if sent == f"Basic {basic(self.password)}" else RegistryResponse(self.status, EXPIRED)


@pytest.mark.parametrize("status", [403, 400])
def test_a_password_that_is_over_is_read_again(serve, client, log_in, repository_at, status):
    """W2 (aws/amazon-ecr-credential-helper #679): 403 without a challenge, for a login that has worked."""
    registry = AgingRegistry(status)
    server = serve(registry)
    log_in(server, "first")
    assert ["one"] == list(client.tags(repository_at(server)))

    registry.password = "second"
    log_in(server, "second")
    assert ["one"] == list(client.tags(repository_at(server)))
    before = len(server.asked)
    assert ["one"] == list(client.tags(repository_at(server)))
    (asked,) = {asked.headers["Authorization"] for asked in server.asked[before:]}
    assert f"Basic {basic('second')}" == asked


def test_a_login_that_may_not_do_it_is_read_once_and_sent_once(serve, client, log_in, repository_at):
    """W2: where the login is the same, 403 is the registry's answer."""
    registry = AgingRegistry(403)
    server = serve(registry)
    log_in(server, "first")
    assert ["one"] == list(client.tags(repository_at(server)))

    registry.password = "nobody's"
    before = len(server.asked)
    with pytest.raises(ForbiddenError, match="expired"):
        list(client.tags(repository_at(server)))
    assert 1 == len(server.asked[before:])


class TokenRegistry:
    """A registry and its token server: it takes tokens whose text is the scope that `wanted` returns.

    `gives` says for the scopes of a request whether the token server gives a token, or its status.
    """

    def __init__(self, challenge_scope, wanted, gives):
        self.challenge_scope = challenge_scope
        self.wanted = wanted
        self.gives = gives
        self.scopes = []
        self.host = ""

    def __call__(self, asked):
        if asked.path.startswith("/token"):
            scopes = [text for name, text in parse_qsl(urlsplit(asked.path).query) if name == "scope"]
            self.scopes.append(scopes)
            status = self.gives(scopes)
            if status != 200:
                return RegistryResponse(status, b'{"details": "scope"}')
            token = base64.b64encode(" ".join(scopes).encode()).decode().rstrip("=")
            return RegistryResponse(body=json.dumps({"token": token}).encode())
        sent = asked.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.wanted in base64.b64decode(sent + "==").decode().split():
            return TAGS if asked.method == "GET" else RegistryResponse(202)
        error = ',error="insufficient_scope"' if sent else ""
        challenge = f'Bearer realm="http://{self.host}/token",scope="{self.challenge_scope}"{error}'
        return RegistryResponse(401, b"{}", {"WWW-Authenticate": challenge})


@pytest.fixture
def serve_tokens(serve, log_in):
    def start(*arguments):
        registry = TokenRegistry(*arguments)
        server = serve(registry)
        registry.host = server.host
        log_in(server, "secret")
        return registry, server

    return start


@pytest.mark.parametrize("taken", ["*", "pull,push"])
def test_a_deletion_is_asked_for_in_the_token_server_s_words(serve_tokens, client, repository_at, taken):
    """W4 (quay/quay #6576): 400 for the scope `delete` is no refused login."""
    scope = f"repository:group/app:{taken}"
    registry, server = serve_tokens(
        "repository:group/app:delete", scope, lambda scopes: 200 if scopes == [scope] else 400
    )
    client.delete_manifest(repository_at(server).tagged("one"))
    asked = len(registry.scopes)
    client.delete_manifest(repository_at(server).tagged("one"))
    assert asked == len(registry.scopes), "the token is kept"


def test_a_deletion_that_the_token_server_refuses_says_for_what(serve_tokens, client, repository_at):
    """W4: the message names the scope, and four requests are the end."""
    registry, server = serve_tokens("repository:group/app:delete", "nothing", lambda _: 400)
    with pytest.raises(CredentialsError, match="repository:group/app:delete"):
        client.delete_manifest(repository_at(server).tagged("one"))
    assert 3 == len(registry.scopes)


def test_a_wrong_password_is_sent_once(serve_tokens, client, repository_at):
    """W4: 401 is a refused login: no other scope makes it a right one, and accounts are locked."""
    registry, server = serve_tokens("repository:group/app:delete", "nothing", lambda _: 401)
    with pytest.raises(CredentialsError, match="refuses the login"):
        client.delete_manifest(repository_at(server).tagged("one"))
    assert 1 == len(registry.scopes)


@pytest.mark.parametrize("knows_ours", [True, False])
def test_the_scope_of_the_challenge_is_asked_for(serve_tokens, client, repository_at, knows_ours):
    """W15 (oras-go #650, containerd #5503): a gateway renames the repository, and keeps the challenge."""
    wanted = "repository:app:pull"

    def gives(scopes):
        return 200 if knows_ours or scopes == [wanted] else 400

    registry, server = serve_tokens(wanted, wanted, gives)
    assert ["one"] == list(client.tags(repository_at(server)))
    asked = len(registry.scopes)
    assert ["one"] == list(client.tags(repository_at(server)))
    assert asked == len(registry.scopes)


def test_a_scope_of_the_challenge_that_the_token_server_refuses_is_done_without(
    serve_tokens, client, repository_at
):
    """W4, W15: what is taken with our own scope goes on, and costs no more tokens."""
    ours = "repository:group/app:pull"
    registry, server = serve_tokens(
        "repository:group/app:delete", ours, lambda scopes: 200 if scopes == [ours] else 400
    )
    assert ["one"] == list(client.tags(repository_at(server)))
    asked = len(registry.scopes)
    assert ["one"] == list(client.tags(repository_at(server)))
    assert asked == len(registry.scopes)


def test_an_upload_is_deleted_in_the_token_server_s_words(serve_tokens, client, repository_at):
    """W4, R40: distribution wants the right to delete for it, which is not the one to go on uploading."""
    scope = "repository:group/app:*"
    _, server = serve_tokens(
        "repository:group/app:delete", scope, lambda scopes: 200 if scopes == [scope] else 400
    )
    repository = repository_at(server)
    url = f"http://{server.host}/v2/group/app/blobs/uploads/one"
    client.cancel_upload(Upload(repository, digest_of(b"x"), url))
    encoded = base64.b64encode(scope.encode()).decode().rstrip("=")
    last = server.asked[-1]
    assert ("DELETE", f"Bearer {encoded}") == (last.method, last.headers["Authorization"])


def test_more_rights_that_a_challenge_names_are_asked_for(serve_tokens, client, repository_at):
    """W4, W15: a token for `delete` that the registry finds too weak, and says for what it asks."""
    wanted = "repository:group/app:*"
    _, server = serve_tokens(wanted, "repository:group/app:*,delete", lambda _: 200)
    client.delete_manifest(repository_at(server).tagged("one"))


def test_a_registry_that_is_never_content_is_an_error(serve_tokens, client, repository_at):
    """W15: the same scope named again and again ends, too."""
    registry, server = serve_tokens("repository:app:pull", "nothing", lambda _: 200)
    with pytest.raises((ForbiddenError, CredentialsError)):
        list(client.tags(repository_at(server)))
    assert len(registry.scopes) <= 2
