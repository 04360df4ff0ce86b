import json
import traceback

import pytest

from stagefleet.errors import (
    ForbiddenError,
    RegistryError,
    RegistryUnreachableError,
    StagefleetError,
    UnsupportedManifestError,
)
from stagefleet.manifests import OCI_MANIFEST, Descriptor, Manifest, digest_of
from stagefleet.names import Repository
from tests.unit.registry.scripted import RegistryResponse

BLOB = Descriptor("application/x", digest_of(b"content"), 7)
LOGIN = "Basic c2VjcmV0"
MALFORMED = ["http://[", "http://[::1", "//:80/", "http://127.0.0.1:99999/"]


@pytest.fixture
def logged_in(client, monkeypatch):
    """The client, with a login that every registry wants."""
    monkeypatch.setattr(client._http_client._authorizer, "header", lambda host, scopes: LOGIN)
    return client


def test_an_upload_to_another_host_goes_there_without_the_login(serve, logged_in, repository_at):
    storage = serve(lambda _: RegistryResponse(201))
    location = {"Location": f"http://{storage.host}/bucket?signature=x"}
    registry = serve(lambda _: RegistryResponse(202, headers=location))

    upload = logged_in.begin_upload(repository_at(registry), BLOB.digest, mount_from=None)
    logged_in.upload_bytes(upload, b"content")

    assert LOGIN == registry.asked[0].headers["Authorization"]
    assert "Authorization" not in storage.asked[0].headers
    assert "signature" not in repr(upload)


def test_a_page_of_tags_on_another_host_is_read_without_the_login(serve, logged_in, repository_at):
    other = serve(lambda _: RegistryResponse(body=b'{"tags": ["two"]}'))
    link = {"Link": f'<http://{other.host}/v2/more>; rel="next"'}
    registry = serve(lambda _: RegistryResponse(body=b'{"tags": ["one"]}', headers=link))

    assert ["one", "two"] == list(logged_in.tags(repository_at(registry)))
    assert "Authorization" not in other.asked[0].headers


@pytest.mark.parametrize("location", [*MALFORMED, "http://", "/v2/caf\u00e9", "ftp://elsewhere/x"])
def test_a_malformed_redirect_is_a_typed_error(serve, client, repository_at, location):
    registry = serve(lambda _: RegistryResponse(307, headers={"Location": location}))

    with pytest.raises(StagefleetError):
        client.fetch_blob(repository_at(registry), BLOB)


@pytest.mark.parametrize("location", MALFORMED)
def test_an_upload_to_a_malformed_location_is_refused(serve, client, repository_at, location):
    registry = serve(lambda _: RegistryResponse(202, headers={"Location": location}))

    with pytest.raises(RegistryError, match="an address that is none"):
        client.begin_upload(repository_at(registry), BLOB.digest, mount_from=None)


def test_a_signature_in_a_url_comes_out_in_no_traceback(serve, client, repository_at):
    location = {"Location": "http://127.0.0.1:1/bucket?X-Amz-Signature=hidden"}
    registry = serve(lambda _: RegistryResponse(307, headers=location))

    with pytest.raises(RegistryUnreachableError) as caught:
        client.fetch_blob(repository_at(registry), BLOB)
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


def test_error_codes_are_words_and_few(serve, client, repository_at):
    codes = ["DENIED", "a\n\x1b[31m", 7, None, "x" * 1000] + ["AGAIN"] * 500
    body = json.dumps({"errors": [{"code": code} for code in codes]}).encode()
    registry = serve(lambda _: RegistryResponse(403, body))

    with pytest.raises(ForbiddenError) as caught:
        list(client.tags(repository_at(registry)))
    assert ("DENIED", "7", "AGAIN") == caught.value.codes[:3]
    assert 10 == len(caught.value.codes)
    assert str(caught.value).isprintable()


def test_a_kind_of_manifest_that_is_unknown_is_shown_on_one_line():
    with pytest.raises(UnsupportedManifestError) as caught:
        Manifest.parse(json.dumps({"schemaVersion": 2, "mediaType": "x\n\x1b[31m"}).encode())
    assert str(caught.value).isprintable()


def test_tags_that_cannot_be_tags_are_passed_over(serve, client, repository_at):
    tags = ["good", "\x1b[31m", "", "x" * 129, "a/b", "a\n", 7, None]
    registry = serve(lambda _: RegistryResponse(body=json.dumps({"tags": tags}).encode()))

    assert ["good"] == list(client.tags(repository_at(registry)))


def test_a_manifest_that_breaks_off_is_asked_for_again(serve, client, repository_at):
    manifest = Manifest.of(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/x", "digest": str(BLOB.digest), "size": 7},
        }
    )
    cuts = [20]

    def registry(_):
        cut_at = cuts.pop() if cuts else None
        return RegistryResponse(body=manifest.raw, headers={"Content-Type": OCI_MANIFEST}, cut_at=cut_at)

    assert manifest == client.fetch_manifest(repository_at(serve(registry)).tagged("one"))


def test_a_mount_that_is_refused_is_an_upload_and_not_asked_for_again(serve, client, repository_at):
    def registry(asked):
        if "from=group/other" in asked.path:
            return RegistryResponse(404)
        return RegistryResponse(202, headers={"Location": "/v2/upload"})

    server = serve(registry)
    repository, other = repository_at(server), Repository.parse(f"{server.host}/group/other")

    assert client.begin_upload(repository, BLOB.digest, mount_from=other)
    assert client.begin_upload(repository, BLOB.digest, mount_from=other)

    froms = [asked.path.rpartition("from=")[2] for asked in server.asked]
    assert ["group/other", "/v2/group/app/blobs/uploads/", "group/app"] == froms


def test_a_token_server_that_fails_is_asked_again(serve, client, repository_at, naps):
    failures = [RegistryResponse(429, headers={"Retry-After": "7"}), RegistryResponse(503)]

    def registry(asked):
        if asked.path.startswith("/token"):
            return failures.pop() if failures else RegistryResponse(body=b'{"token": "t"}')
        if asked.headers.get("Authorization") == "Bearer t":
            return RegistryResponse(body=b'{"tags": ["one"]}')
        realm = f'Bearer realm="http://{asked.headers["Host"]}/token"'
        return RegistryResponse(401, headers={"WWW-Authenticate": realm})

    assert ["one"] == list(client.tags(repository_at(serve(registry))))
    assert [False, True] == [nap >= 7 for nap in naps]
