"""Answers that pass, and answers that lead elsewhere (docs/registries.md, "What was tried")."""

from __future__ import annotations

import base64
import json

import pytest

from stagefleet.errors import CredentialsError, ForbiddenError, NotFoundError, RegistryError
from stagefleet.registry.http.origins import in_own_scheme
from tests.unit.registry.asking import ALL, BLOB, CONTENT, MANIFEST, fetch, put, tags
from tests.unit.registry.scripted import RegistryResponse

LOGIN = base64.b64encode(b"alice:secret").decode()


def registry(asked):
    """Answers every request of a client as a registry would that has what is asked for."""
    path = asked.path.partition("?")[0]
    if asked.method in {"PUT", "DELETE"}:
        return RegistryResponse(202 if asked.method == "DELETE" else 201)
    if asked.method == "POST":
        return RegistryResponse(202, headers={"Location": f"{path}session"})
    if "/manifests/" in path:
        headers = {"Content-Type": MANIFEST.media_type, "Docker-Content-Digest": str(MANIFEST.digest)}
        return RegistryResponse(body=MANIFEST.raw, headers=headers)
    return RegistryResponse(body=CONTENT if "/blobs/" in path else b'{"name": "group/app", "tags": ["one"]}')


@pytest.mark.parametrize("status", [408, 425, 500, 520, 522, 524, 599])
@pytest.mark.parametrize("ask", ALL, ids=lambda ask: ask.__name__)
def test_an_answer_that_passes_is_asked_for_again(serve, client, repository_at, ask, status):
    """W30 (regclient #334, skopeo #2499): once is not enough to end a command."""
    seen = []

    def script(asked):
        key = (asked.method, asked.path)
        seen.append(key)
        return RegistryResponse(status) if seen.count(key) == 1 else registry(asked)

    ask(client, repository_at(serve(script)))
    assert seen.count(seen[0]) == 2


def test_a_blob_s_upload_that_passes_is_done_again(serve, client, repository_at):
    """W30: the PUT of a blob, too."""
    puts = []

    def script(asked):
        puts.extend([asked] if asked.method == "PUT" else [])
        return RegistryResponse(425) if len(puts) == 1 and asked.method == "PUT" else registry(asked)

    upload = client.begin_upload(repository_at(serve(script)), BLOB.digest, mount_from=None)
    client.upload_bytes(upload, CONTENT)
    assert [CONTENT, CONTENT] == [asked.body for asked in puts]


@pytest.mark.parametrize("status", [307, 308])
def test_writes_are_led_elsewhere_on_the_same_host(serve, client, repository_at, status):
    """W8 (jib #408, distribution-spec #607): POST and PUT go with method, body and login."""

    def script(asked):
        if asked.path.startswith("/v2/group/"):
            headers = {"Location": asked.path.replace("/v2/group/", "/v2/moved/group/")}
            return RegistryResponse(status, b"moved", headers)
        return registry(asked)

    server = serve(script)
    repository = repository_at(server)
    upload = client.begin_upload(repository, BLOB.digest, mount_from=None)
    client.upload_bytes(upload, CONTENT)
    put(client, repository)
    client.delete_manifest(repository.tagged("one"))
    arrived = [(asked.method, asked.body) for asked in server.asked if asked.path.startswith("/v2/moved/")]
    assert [("POST", b""), ("PUT", CONTENT), ("PUT", MANIFEST.raw), ("DELETE", b"")] == arrived


def test_a_write_that_is_led_to_another_host_takes_no_login_along(serve, client, repository_at, tmp_path):
    """W8: the login is for the registry's own origin."""
    other = serve(registry)

    def script(asked):
        if asked.headers.get("Authorization") is None:
            return RegistryResponse(401, b"{}", {"WWW-Authenticate": 'Basic realm="registry"'})
        return RegistryResponse(307, headers={"Location": f"http://{other.host}{asked.path}"})

    server = serve(script)
    (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": LOGIN}}}))
    put(client, repository_at(server))
    (asked,) = other.asked
    assert (MANIFEST.raw, None) == (asked.body, asked.headers.get("Authorization"))


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_may_change_the_method_is_followed_by_no_write(serve, client, repository_at, status):
    """W8: RFC 9110, 15.4.2: a POST may become a GET there; nobody knows what it would mean."""
    server = serve(lambda asked: RegistryResponse(status, headers={"Location": f"{asked.path}x"}))
    with pytest.raises(RegistryError, match=f"PUT answered {status}"):
        put(client, repository_at(server))
    assert 1 == len(server.asked)


@pytest.mark.parametrize("status", [403, 404])
def test_the_target_of_a_redirect_may_fail_once(serve, client, repository_at, status):
    """W8, W30: a signed address that is over already: the registry gives another."""
    answers = [RegistryResponse(status, b"<Error>expired</Error>"), RegistryResponse(body=CONTENT)]
    store = serve(lambda _: answers.pop(0))
    server = serve(
        lambda asked: RegistryResponse(307, headers={"Location": f"http://{store.host}/{len(answers)}"})
    )
    assert CONTENT == client.fetch_blob(repository_at(server), BLOB)
    assert ["/2", "/1"] == [asked.path for asked in store.asked]


def test_the_target_of_a_redirect_that_goes_on_failing_is_an_error(serve, client, repository_at):
    """W8, W30: twice is enough."""
    store = serve(lambda _: RegistryResponse(403))
    server = serve(lambda _: RegistryResponse(307, headers={"Location": f"http://{store.host}/x"}))
    with pytest.raises(ForbiddenError):
        client.fetch_blob(repository_at(server), BLOB)
    assert 2 == len(store.asked)


def test_what_the_registry_itself_lacks_is_asked_for_once(serve, client, repository_at):
    server = serve(lambda _: RegistryResponse(404))
    with pytest.raises(NotFoundError):
        fetch(client, repository_at(server))
    assert 1 == len(server.asked)


class RedirectingRealm:
    """A registry whose token realm leads to `target`; the token says with which login it was asked for."""

    def __init__(self, status):
        self.status = status
        self.host = self.target = ""

    def __call__(self, asked):
        path, _, query = asked.path.partition("?")
        if path == "/old":
            return RegistryResponse(self.status, b"moved", {"Location": f"{self.target}/token?{query}"})
        if path == "/token":
            token = asked.headers.get("Authorization", "Basic nobody").removeprefix("Basic ").rstrip("=")
            return RegistryResponse(body=json.dumps({"token": token}).encode())
        if "Authorization" in asked.headers:
            return registry(asked)
        challenge = f'Bearer realm="http://{self.host}/old",service="registry"'
        return RegistryResponse(401, b"{}", {"WWW-Authenticate": challenge})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("has_login", [True, False])
def test_a_token_server_that_moved_is_followed(serve, client, repository_at, tmp_path, status, has_login):
    """W24 (dockhand #1428, docker_auth #397): Go's clients follow, and keep the login on the same host."""
    realm = RedirectingRealm(status)
    server = serve(realm)
    realm.host = server.host
    if has_login:
        (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": LOGIN}}}))
    assert ["one"] == tags(client, repository_at(server))
    sent = LOGIN.rstrip("=") if has_login else "nobody"
    assert f"Bearer {sent}" == server.asked[-1].headers["Authorization"]
    assert "scope=repository" in next(asked.path for asked in server.asked if asked.path.startswith("/token"))


@pytest.mark.parametrize("has_login", [True, False])
def test_a_token_server_elsewhere_gets_no_login(serve, client, repository_at, tmp_path, has_login):
    """W24: the registry named one server, and that one alone gets the login; strangers are led anywhere."""
    realm = RedirectingRealm(307)
    server, other = serve(realm), serve(RedirectingRealm(307))
    realm.host, realm.target = server.host, f"http://{other.host}"
    if has_login:
        (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": LOGIN}}}))
        with pytest.raises(CredentialsError, match="answered 307"):
            tags(client, repository_at(server))
        assert [] == other.asked
    else:
        assert ["one"] == tags(client, repository_at(server))
        assert "Authorization" not in other.asked[0].headers


@pytest.mark.parametrize("target", ["http://token.example", "http://user@x/"])
def test_a_token_server_leads_to_no_plain_http(serve, client, repository_at, target):
    """W24: neither off loopback nor where an address is none."""
    realm = RedirectingRealm(307)
    server = serve(realm)
    realm.host, realm.target = server.host, target
    with pytest.raises((CredentialsError, RegistryError)):
        tags(client, repository_at(server))


def test_a_token_server_that_leads_in_circles_is_an_error(serve, client, repository_at):
    """W24: five are followed."""

    def script(asked):
        if asked.path.startswith("/old"):
            return RegistryResponse(307, headers={"Location": asked.path})
        challenge = f'Bearer realm="http://{server.host}/old",service="registry"'
        return RegistryResponse(401, b"{}", {"WWW-Authenticate": challenge})

    server = serve(script)
    with pytest.raises(CredentialsError, match="in circles"):
        tags(client, repository_at(server))


@pytest.mark.parametrize(
    ("given", "arrives"),
    [
        ('/v2/x?name=attachment; filename="a b"', '/v2/x?name=attachment;%20filename="a%20b"'),
        ("/v2/a%20b?sig=%2F+x", "/v2/a%20b?sig=%2F+x"),
    ],
    ids=["spaces", "escaped"],
)
def test_spaces_in_addresses_are_escaped(serve, client, repository_at, given, arrives):
    """Kind of W8: of redirects, and of uploads alike; what is escaped already stays as it is."""

    def script(asked):
        if asked.path == arrives or asked.path.startswith(
            f"{arrives}{'&' if '?' in arrives else '?'}digest="
        ):
            return RegistryResponse(201 if asked.method == "PUT" else 200, CONTENT)
        return RegistryResponse(202 if asked.method == "POST" else 307, headers={"Location": given})

    repository = repository_at(serve(script))
    assert CONTENT == client.fetch_blob(repository, BLOB)
    client.upload_bytes(client.begin_upload(repository, BLOB.digest, mount_from=None), CONTENT)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_redirect_in_another_scheme_stays_at_the_registry(serve, client, repository_at, tmp_path, method):
    """Kind of W8: behind a proxy that ends TLS a registry does not know its own scheme, as in `Location`."""

    def script(asked):
        if asked.headers.get("Authorization") is None:
            return RegistryResponse(401, b"{}", {"WWW-Authenticate": 'Basic realm="registry"'})
        if asked.path.startswith("/v2/group/") and asked.method == method:
            moved = f"https://{asked.headers['Host']}{asked.path.replace('/v2/group/', '/v2/moved/group/')}"
            return RegistryResponse(307, headers={"Location": moved})
        return registry(asked)

    server = serve(script)
    (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": LOGIN}}}))
    (fetch if method == "GET" else put)(client, repository_at(server))
    assert server.asked[-1].path.startswith("/v2/moved/group/")


@pytest.mark.parametrize(
    ("base", "url", "target"),
    [
        ("https://reg.example", "http://reg.example/v2/x?a=1", "https://reg.example/v2/x?a=1"),
        ("https://reg.example:5000", "http://reg.example:5000/v2/x", "https://reg.example:5000/v2/x"),
        ("http://reg.example:5000", "https://reg.example:5000/v2/x", "http://reg.example:5000/v2/x"),
        ("https://reg.example:5000", "http://reg.example/v2/x", "http://reg.example/v2/x"),
        ("https://reg.example", "http://store.example/v2/x", "http://store.example/v2/x"),
    ],
)
def test_only_the_registry_s_own_address_changes_its_scheme(base, url, target):
    assert target == in_own_scheme(url, base)
