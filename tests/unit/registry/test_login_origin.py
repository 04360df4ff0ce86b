"""A login goes to the registry's own origin and to the realm that this origin names, and to nobody else."""

from __future__ import annotations

import base64
import json
import ssl

import pytest

from stagefleet.credentials import DockerConfig
from stagefleet.errors import CredentialsError, ForbiddenError, RegistryError, StagefleetError
from stagefleet.manifests import OCI_MANIFEST, Descriptor, Manifest, digest_of
from stagefleet.names import Repository
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.http.origins import Origin, join_url, origin_of
from stagefleet.settings import HttpSettings, RegistrySettings, Settings
from tests.unit.registry.scripted import RegistryResponse

CONTENT = b"content"
BLOB = Descriptor("application/x", digest_of(CONTENT), len(CONTENT))
MANIFEST = Manifest.of(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/x", "digest": str(BLOB.digest), "size": 7},
        "layers": [],
    }
)
USER, PASSWORD, IDENTITY = "alice", "hunter2-password", "hunter2-identity"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, IDENTITY, BASIC, "granted-token", "netrc-password", "hunter2-cookie")
TAGS = RegistryResponse(body=b'{"name": "group/app", "tags": ["one"]}')


def wants(scheme, **more):
    return RegistryResponse(
        401, b"{}", {"WWW-Authenticate": scheme, "Set-Cookie": "session=hunter2-cookie", **more}
    )


def bearer(server):
    return f'Bearer realm="http://{server.host}/token",service="x"'


@pytest.fixture
def log_in(tmp_path):
    """Writes a login for a registry; an identity token where that is asked for."""

    def log_in(server, *, identity=False):
        entry = {"auth": BASIC, **({"identitytoken": IDENTITY} if identity else {})}
        (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: entry}}))

    return log_in


@pytest.fixture
def evil(serve):
    """Wants whatever login there is, at every path, and hands out tokens for it."""

    def script(asked):
        if asked.path.startswith("/token"):
            return RegistryResponse(body=b'{"token": "stolen"}')
        return wants(f'Bearer realm="http://{asked.headers["Host"]}/token",service="x", Basic realm="x"')

    return serve(script)


def tokens(_):
    return RegistryResponse(body=b'{"token": "granted-token", "refresh_token": "granted-token-to-refresh"}')


def told(server):
    """All that a server was told."""
    return "\n".join(f"{asked.path} {dict(asked.headers)} {asked.body!r}" for asked in server.asked)


def assert_ignorant(server):
    assert server.asked
    for asked in server.asked:
        assert {"Authorization", "Cookie", "Proxy-Authorization"}.isdisjoint(asked.headers)
    assert [] == [secret for secret in SECRETS if secret in told(server)]


def take_tags(client, repository):
    return list(client.tags(repository))


def take_blob(client, repository):
    return client.fetch_blob(repository, BLOB)


def send_blob(client, repository):
    upload = client.begin_upload(repository, BLOB.digest, mount_from=None)
    client.upload_bytes(upload, CONTENT)


def elsewhere(asked, other):
    """An answer of the registry that leads to `other`, by whatever header the request can be led with."""
    if asked.path.startswith("/v2/group/app/tags"):
        link = f'<http://{other.host}/v2/more>; rel="next"'
        return RegistryResponse(body=b'{"tags": ["one"]}', headers={"Link": link})
    status = 202 if asked.method == "POST" else 307
    return RegistryResponse(status, headers={"Location": f"http://{other.host}/bucket?signature=s"})


LED = pytest.mark.parametrize("ask", [take_blob, send_blob, take_tags])


@LED
@pytest.mark.parametrize("identity", [False, True])
def test_a_challenge_of_where_the_registry_leads_gets_no_login(
    serve, client, log_in, evil, repository_at, ask, identity
):
    """R1: a redirect's target, an upload's Location and a Link's host ask for the login, and get nothing."""
    registry = serve(lambda asked: elsewhere(asked, evil))
    log_in(registry, identity=identity)

    with pytest.raises(ForbiddenError, match=f"{evil.host}.* gets no login"):
        ask(client, repository_at(registry))
    assert_ignorant(evil)
    assert [] == [asked.path for asked in evil.asked if asked.path.startswith("/token")]


@LED
def test_a_realm_is_learnt_from_the_registry_alone(serve, client, log_in, evil, repository_at, ask):
    """R1: after a foreign challenge tokens still come from the registry's own realm, and go to it alone."""
    realm = serve(tokens)
    leads = [True]

    def script(asked):
        if leads[0]:
            return elsewhere(asked, evil)
        return TAGS if asked.headers.get("Authorization") == "Bearer granted-token" else wants(bearer(realm))

    registry = serve(script)
    log_in(registry)
    with pytest.raises(ForbiddenError):
        ask(client, repository_at(registry))
    leads[0] = False

    assert ["one"] == list(client.tags(repository_at(registry)))
    assert_ignorant(evil)
    assert PASSWORD not in told(registry)
    assert BASIC not in told(registry)
    assert f"Basic {BASIC}" == realm.asked[0].headers["Authorization"]


@LED
def test_a_login_that_is_known_already_is_not_shown_to_others(
    serve, client, log_in, evil, repository_at, ask
):
    """R1: what the registry took is not sent to where it leads, whatever is answered there."""
    realm = serve(tokens)

    def script(asked):
        if asked.headers.get("Authorization") != "Bearer granted-token":
            return wants(bearer(realm))
        return elsewhere(asked, evil)

    registry = serve(script)
    log_in(registry)

    with pytest.raises(ForbiddenError, match="gets no login"):
        ask(client, repository_at(registry))
    assert_ignorant(evil)


def test_who_leads_back_to_the_registry_does_not_choose_what_the_login_is_sent_with(
    serve, client, log_in, repository_at
):
    """R1: once a redirect has left the registry, its login is out of the chain for good (CVE-2024-45336)."""
    log = []

    def script(asked):
        log.append((asked.path, asked.headers.get("Authorization")))
        if asked.path == "/v2/chosen/by/others":
            return RegistryResponse(body=CONTENT) if "Authorization" in asked.headers else wants("Basic")
        if "Authorization" not in asked.headers:
            return wants("Basic realm=x")
        return RegistryResponse(307, headers={"Location": f"http://{bucket.host}/b"})

    registry = serve(script)
    bucket = serve(
        lambda _: RegistryResponse(307, headers={"Location": f"http://{registry.host}/v2/chosen/by/others"})
    )
    log_in(registry)

    with pytest.raises(ForbiddenError):
        client.fetch_blob(repository_at(registry), BLOB)
    assert ("/v2/chosen/by/others", None) == log[-1]
    assert_ignorant(bucket)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 401])
@pytest.mark.parametrize("identity", [False, True])
def test_a_token_server_hands_the_login_on_to_nobody(
    serve, client, log_in, evil, repository_at, status, identity
):
    """R1: neither a redirect nor a challenge of the token server takes the login any further."""

    def realm_script(asked):
        headers = {"Location": f"http://{evil.host}/token", "WWW-Authenticate": bearer(evil)}
        return RegistryResponse(status, headers=headers)

    realm = serve(realm_script)
    registry = serve(lambda _: wants(bearer(realm)))
    log_in(registry, identity=identity)

    with pytest.raises(CredentialsError):
        list(client.tags(repository_at(registry)))
    assert [] == evil.asked
    assert {asked.method for asked in realm.asked} == {"POST" if identity else "GET"}
    assert PASSWORD not in told(registry)
    assert IDENTITY not in told(registry)


def test_what_a_token_server_grants_goes_to_the_registry_alone(serve, client, log_in, evil, repository_at):
    """R1: a token, and the refresh token beside it, are shown neither to where blobs lie nor to the realm."""
    realm = serve(tokens)

    def script(asked):
        if asked.headers.get("Authorization") != "Bearer granted-token":
            return wants(bearer(realm))
        return RegistryResponse(307, headers={"Location": f"http://{bucket.host}/b"})

    registry = serve(script)
    bucket = serve(lambda _: RegistryResponse(body=CONTENT))
    log_in(registry, identity=True)

    assert CONTENT == client.fetch_blob(repository_at(registry), BLOB)
    assert CONTENT == client.fetch_blob(repository_at(registry), BLOB)
    assert_ignorant(bucket)
    assert "granted-token" not in told(realm)
    assert "granted-token-to-refresh" not in told(registry)


@pytest.mark.parametrize(
    "location",
    [
        "http://{user}@{evil}/b",
        "http://{registry}@{evil}/b",
        "http://{evil}\\@{registry}/b",
        "http://{evil}#@{registry}/b",
        "//{evil}/b",
        "http://{evil}/http://{registry}/",
        "\thttp://{evil}/b",
        "HTTP://{evil}/b",
    ],
)
def test_no_spelling_of_an_address_passes_for_the_registrys(
    serve, client, log_in, evil, repository_at, location
):
    """R1, R33: two readers of one address must not see two hosts: what is no plain address is refused."""

    def script(asked):
        if "Authorization" not in asked.headers:
            return wants("Basic realm=x")
        target = location.format(user=f"{USER}:{PASSWORD}", evil=evil.host, registry=registry.host)
        return RegistryResponse(202 if asked.method == "POST" else 307, headers={"Location": target})

    registry = serve(script)
    log_in(registry)

    for ask in (take_blob, send_blob):
        with pytest.raises(RegistryError):
            ask(client, repository_at(registry))
    if evil.asked:
        assert_ignorant(evil)
    assert {asked.path.partition("?")[0] for asked in registry.asked} == {
        f"/v2/group/app/blobs/{BLOB.digest}",
        "/v2/group/app/blobs/uploads/",
    }


def test_netrc_and_cookies_add_no_login(serve, client, log_in, evil, repository_at, tmp_path, monkeypatch):
    """R1: nothing is sent that the registry's own answers and the Docker configuration do not call for."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login alice password netrc-password\n")
    monkeypatch.setenv("NETRC", str(netrc))
    registry = serve(lambda asked: elsewhere(asked, evil))
    log_in(registry)

    for ask in (take_blob, send_blob, take_tags):
        with pytest.raises(ForbiddenError):
            ask(client, repository_at(registry))
    assert_ignorant(evil)
    assert_ignorant(registry)


def test_a_realm_without_tls_is_told_no_login(serve, client, log_in, repository_at):
    """R1: off this machine a realm without TLS gets nothing, also after a realm that was good."""
    realm = serve(tokens)
    challenges = [bearer(realm)]

    def script(asked):
        if challenges:
            return wants(challenges[0]) if "Authorization" not in asked.headers else TAGS
        return wants('Bearer realm="http://tokens.example.com/token"')

    registry = serve(script)
    log_in(registry)
    assert ["one"] == list(client.tags(repository_at(registry)))
    challenges.clear()

    with pytest.raises(CredentialsError, match="without TLS"):
        list(client.tags(repository_at(registry)))
    assert BASIC not in told(registry)


@pytest.mark.parametrize("challenge", ["Basic realm=x", 'Bearer realm="http://{evil}/token"'])
def test_a_registry_with_tls_that_leads_to_plain_http_takes_its_login_nowhere(
    serve, log_in, evil, tls, tmp_path, challenge
):
    """R1: a registry that spoke TLS and tokens, and then leads to plain HTTP, gets no login there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.server_certificate, tls.server_key)
    leads: list[bool] = []
    realm = serve(tokens)
    plain = serve(lambda _: wants(challenge.format(evil=evil.host)))

    def script(asked):
        if leads:
            return RegistryResponse(307, headers={"Location": f"http://{plain.host}{asked.path}"})
        return TAGS if "Authorization" in asked.headers else wants(bearer(realm))

    secure = serve(script, context=context)
    log_in(secure)
    named = {secure.host: RegistrySettings(plain_http=False, ca_file=tls.ca_file)}
    settings = Settings(registries=named, http=HttpSettings(retries=0))
    repository = Repository.parse(f"{secure.host}/group/app")
    with RegistryClient(settings, config=DockerConfig(tmp_path / "config.json")) as client:
        assert ["one"] == list(client.tags(repository))
        leads.append(True)
        for ask in (take_tags, take_blob):
            with pytest.raises(ForbiddenError, match="gets no login"):
                ask(client, repository)

    assert_ignorant(plain)
    assert [] == evil.asked


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://reg", Origin("https", "reg", 443)),
        ("https://reg:443/v2/", Origin("https", "reg", 443)),
        ("HTTPS://REG:443", Origin("https", "reg", 443)),
        ("http://reg:80/v2/", Origin("http", "reg", 80)),
        ("http://reg:443/v2/", Origin("http", "reg", 443)),
        ("https://[::1]:5000/v2/", Origin("https", "::1", 5000)),
    ],
)
def test_an_origin_is_scheme_host_and_port(url, origin):
    """R1, R33: the port that a scheme implies is the same written out, and case tells no hosts apart."""
    assert origin == origin_of(url)


def test_a_location_that_writes_the_default_port_is_the_registrys_own(client):
    """R33: `https://reg:443/...` of the registry `reg` is its own origin, and gets the login."""
    repository = Repository.parse("reg.example.com/app")
    asked = "https://reg.example.com/v2/app/blobs/uploads/"
    for given in (
        "https://reg.example.com:443/v2/upload",
        "http://reg.example.com/v2/upload",
        "http://reg.example.com:80/v2/upload",
        "https://REG.example.com/v2/upload",
        "/v2/upload",
    ):
        url = client._same_registry(repository, asked, given)
        assert origin_of("https://reg.example.com") == origin_of(url), given


@pytest.mark.parametrize(
    "given", ["http://a b/", "http://a/b\x7f", "http://reg/caf\u00e9", "http://a..b\\c/"]
)
def test_an_address_that_could_be_read_in_two_ways_is_none(given):
    """R1: an address with blanks, controls, other scripts or a backslash in its host is refused."""
    with pytest.raises(StagefleetError):
        join_url("http://reg/v2/", given)
