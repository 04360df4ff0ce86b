"""What is believed of an answer: a HEAD that says enough, and no digest but the one that was sent."""

from __future__ import annotations

import hashlib

import pytest

from stagefleet.errors import (
    CredentialsError,
    DigestMismatchError,
    ForbiddenError,
    NotFoundError,
    RegistryUnavailableError,
    StoredDigestError,
)
from stagefleet.manifests import OCI_INDEX, OCI_MANIFEST, Manifest, digest_of
from stagefleet.names import Reference
from tests.unit.registry.scripted import RegistryResponse

CONTENT = b"content"
DIGEST = digest_of(CONTENT)
MANIFEST = Manifest.of(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/x", "digest": str(DIGEST), "size": 7},
        "layers": [],
    }
)
INDEX = Manifest.of({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
OTHER = digest_of(b"other")
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


def telling(manifest, **more):
    headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": str(manifest.digest), **more}
    return RegistryResponse(body=manifest.raw, headers={name: text for name, text in headers.items() if text})


def by_method(**answers):
    return lambda asked: answers[asked.method]


def methods(server):
    return [asked.method for asked in server.asked]


def test_a_head_that_tells_digest_and_kind_is_believed(serve, client, repository_at):
    """R21: one request, where it says all."""
    server = serve(lambda _: telling(MANIFEST))

    found = client.head_manifest(repository_at(server).tagged("one"))

    assert (MANIFEST.digest, OCI_MANIFEST, MANIFEST.size) == (found.digest, found.media_type, found.size)
    assert ["HEAD"] == methods(server)


@pytest.mark.parametrize(
    "head",
    [
        {"Content-Type": ""},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/json"},
        {"Content-Type": "text/html; charset=utf-8"},
        {"Docker-Content-Digest": ""},
        {"Docker-Content-Digest": "sha256:short"},
        {"Docker-Content-Digest": "9" * 5000},
    ],
)
def test_a_head_that_leaves_something_out_is_not_believed(serve, client, repository_at, head):
    """R21, kind 3: without the kind an index passes for an image, and what it has for what nobody needs."""
    server = serve(by_method(HEAD=telling(INDEX, **head), GET=telling(INDEX)))

    found = client.head_manifest(repository_at(server).tagged("one"))

    assert (INDEX.digest, OCI_INDEX) == (found.digest, found.media_type)
    assert ["HEAD", "GET"] == methods(server)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 406, 501])
def test_a_head_that_is_refused_is_no_proof_where_get_works(serve, client, repository_at, status):
    """Kind 3: a gateway that knows no HEAD says 404, 405 or 501; the GET decides."""
    server = serve(by_method(HEAD=RegistryResponse(status), GET=telling(MANIFEST)))

    assert MANIFEST.digest == client.head_manifest(repository_at(server).tagged("one")).digest


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (403, ForbiddenError)])
def test_a_get_that_is_refused_too_is_the_answer(serve, client, repository_at, status, error):
    """Kind 3: with the registry's own words, which a HEAD cannot have."""
    body = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such thing"}]}'
    server = serve(lambda _: RegistryResponse(status, body))

    with pytest.raises(error, match=r"GET answered .* no such thing"):
        client.head_manifest(repository_at(server).tagged("one"))
    assert ["HEAD", "GET"] == methods(server)


def test_a_registry_that_fails_is_not_asked_in_another_way(serve, client, repository_at):
    """Kind 3: 5xx says nothing of HEAD; it has had its retries."""
    server = serve(lambda _: RegistryResponse(503))

    with pytest.raises(RegistryUnavailableError):
        client.head_manifest(repository_at(server).tagged("one"))
    assert {"HEAD"} == set(methods(server))


def test_a_login_that_is_refused_is_not_tried_in_another_way(serve, client, repository_at):
    """Kind 3: a 401 says nothing of HEAD either."""
    server = serve(lambda _: RegistryResponse(401, headers={"WWW-Authenticate": "Basic realm=x"}))

    with pytest.raises(CredentialsError):
        client.head_manifest(repository_at(server).tagged("one"))
    assert ["HEAD"] == methods(server)


def test_what_a_head_says_of_another_digest_is_not_believed(serve, client, repository_at):
    """R21: asked for a digest, a registry may not name another."""
    server = serve(
        by_method(HEAD=telling(MANIFEST, **{"Docker-Content-Digest": str(OTHER)}), GET=telling(MANIFEST))
    )
    repository = repository_at(server)

    assert MANIFEST.digest == client.head_manifest(Reference.of(repository, MANIFEST.digest)).digest
    with pytest.raises(DigestMismatchError):
        client.head_manifest(Reference.of(repository, OTHER.__class__.parse(f"sha256:{'0' * 64}")))


@pytest.mark.parametrize("kind", [SCHEMA_1, "application/vnd.example.odd+json"])
def test_a_manifest_of_another_kind_can_be_looked_at_all_the_same(serve, client, repository_at, kind):
    """R21, x3: what an odd tag names is known, though nobody can read it."""
    body = b'{"schemaVersion": 1, "odd": true}'
    complete = RegistryResponse(headers={"Content-Type": kind, "Docker-Content-Digest": str(digest_of(body))})
    server = serve(by_method(HEAD=complete, GET=RegistryResponse(body=body)))
    assert (digest_of(body), kind) == (
        (found := client.head_manifest(repository_at(server).tagged("one"))).digest,
        found.media_type,
    )

    server = serve(
        by_method(HEAD=RegistryResponse(405), GET=RegistryResponse(body=body, headers={"Content-Type": kind}))
    )
    found = client.head_manifest(repository_at(server).tagged("one"))
    assert (digest_of(body), kind, len(body)) == (found.digest, found.media_type, found.size)


def stored(told, at=""):
    headers = {"Docker-Content-Digest": str(told) if told else "", "Location": at}
    return {name: text for name, text in headers.items() if text}


ALTERED = [
    stored(OTHER),
    stored(None, f"/v2/group/app/manifests/{OTHER}"),
    stored(None, f"http://elsewhere.example.com/v2/x/blobs/{str(OTHER).replace(':', '%3A')}?a=b"),
    stored(MANIFEST.digest, f"/v2/group/app/manifests/{OTHER}"),
]


@pytest.mark.parametrize("headers", ALTERED)
def test_a_registry_that_stored_another_manifest_than_it_was_sent_is_found_out(
    serve, client, repository_at, headers
):
    """R42: what rewrites manifests makes no copies; the error says so, and nobody tries again."""
    server = serve(lambda _: RegistryResponse(201, headers=headers))

    with pytest.raises(StoredDigestError, match=rf"stored {OTHER}.*sent {MANIFEST.digest}") as caught:
        client.put_manifest(repository_at(server).tagged("one"), MANIFEST)
    assert not caught.value.retryable
    assert 1 == len(server.asked)


@pytest.mark.parametrize("headers", [stored(OTHER), stored(None, f"/v2/group/app/blobs/{OTHER}")])
def test_a_registry_that_stored_another_blob_than_it_was_sent_is_found_out(
    serve, client, repository_at, headers
):
    """R42: the same of a blob, sent or mounted."""
    server = serve(
        lambda asked: (
            RegistryResponse(201, headers=headers)
            if asked.method == "PUT" or "mount=" in asked.path
            else RegistryResponse(202, headers={"Location": "/upload"})
        )
    )
    repository = repository_at(server)
    upload = client.begin_upload(repository, DIGEST, mount_from=None)

    with pytest.raises(StoredDigestError, match=f"stored {OTHER}"):
        client.upload_bytes(upload, CONTENT)
    with pytest.raises(StoredDigestError, match=f"stored {OTHER}"):
        client.begin_upload(repository, DIGEST, mount_from=repository)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        stored(MANIFEST.digest),
        stored(digest_of(MANIFEST.raw, "sha512")),
        stored(MANIFEST.digest, f"/v2/group/app/manifests/{MANIFEST.digest}"),
        stored(None, "/v2/group/app/manifests/one"),
        stored(None, "http://[broken"),
        {"Docker-Content-Digest": "garbage", "Location": "garbage"},
        {"Docker-Content-Digest": "9" * 5000},
    ],
)
def test_a_registry_that_says_nothing_else_is_believed(serve, client, repository_at, headers):
    """R42: the headers may lack, name the tag, or speak of another algorithm's digest of the same bytes."""
    server = serve(lambda _: RegistryResponse(201, headers=headers))

    client.put_manifest(repository_at(server).tagged("one"), MANIFEST)


def test_a_manifest_by_a_longer_digest_is_compared_too(serve, client, repository_at):
    """R42: a manifest that goes by its sha512 digest is compared by whichever the registry names."""
    manifest = Manifest.parse(MANIFEST.raw, algorithm="sha512")
    assert hashlib.sha512(MANIFEST.raw).hexdigest() == manifest.digest.hex
    server = serve(lambda _: RegistryResponse(201, headers=stored(MANIFEST.digest)))
    client.put_manifest(repository_at(server).tagged("one"), manifest)

    server = serve(lambda _: RegistryResponse(201, headers=stored(OTHER)))
    with pytest.raises(StoredDigestError):
        client.put_manifest(repository_at(server).tagged("one"), manifest)
