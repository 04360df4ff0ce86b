"""Documents of errors under status 200, where content was asked for."""

from __future__ import annotations

import json

import pytest

from stagefleet.errors import DigestMismatchError, RateLimitedError, RegistryUnavailableError
from stagefleet.manifests import Descriptor, digest_of
from tests.unit.registry.asking import BLOB, LARGE, MANIFEST
from tests.unit.registry.scripted import RegistryResponse
from tests.unit.registry.test_pages import blob, by_digest, by_tag, has_blob, whole_blob


def document(code, message="no"):
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


SHORT = document("TOOMANYREQUESTS")
SAME_SIZE = SHORT.ljust(BLOB.size)
LONG = document("TOOMANYREQUESTS", "slow down " * 50)


def response(body, *, is_chunked):
    if not is_chunked:
        return RegistryResponse(200, body)
    headers = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    return RegistryResponse(200, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), headers)


def layer(client, repository):
    with client.open_blob(repository, BLOB) as reader:
        return b"".join(iter(reader.read, b""))


def large_layer(client, repository):
    return client.hash_blob(repository, LARGE)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("body", [SHORT, SAME_SIZE, LONG], ids=["short", "same size", "long"])
@pytest.mark.parametrize("ask", [by_tag, by_digest, blob, whole_blob, layer, large_layer])
def test_an_error_under_status_200_proves_nothing_about_content(
    serve, client, repository_at, ask, body, is_chunked
):
    """A stage that is called altered for it could be rejected."""
    server = serve(lambda _: response(body, is_chunked=is_chunked))
    with pytest.raises(RateLimitedError, match=r"answered 200 with an error \(TOOMANYREQUESTS"):
        ask(client, repository_at(server))


@pytest.mark.parametrize("body", [SHORT, LONG], ids=["short", "long"])
def test_an_error_that_a_head_is_answered_with_proves_nothing(serve, client, repository_at, body):
    server = serve(lambda _: RegistryResponse(200, body))
    with pytest.raises(RateLimitedError, match=r"answered 200 with an error \(TOOMANYREQUESTS"):
        has_blob(client, repository_at(server))


@pytest.mark.parametrize("ask", [by_tag, blob, whole_blob])
def test_any_other_error_is_an_outage(serve, client, repository_at, ask):
    server = serve(lambda _: RegistryResponse(200, document("DENIED")))
    with pytest.raises(RegistryUnavailableError, match="DENIED"):
        ask(client, repository_at(server))


@pytest.mark.parametrize(
    "body", [b'{"errors": []}', b'{"errors": [{"text": "x"}]}', b'{"errors": 5}', b'["errors"]', b"errors"]
)
def test_what_is_no_document_of_errors_is_altered_content(serve, client, repository_at, body):
    server = serve(lambda _: RegistryResponse(200, body.ljust(BLOB.size)))
    with pytest.raises(DigestMismatchError):
        blob(client, repository_at(server))
    assert BLOB.digest != whole_blob(client, repository_at(server))


def test_a_blob_that_is_a_document_of_errors_is_content(serve, client, repository_at):
    descriptor = Descriptor("application/x", digest_of(SHORT), len(SHORT))
    repository = repository_at(serve(lambda _: RegistryResponse(200, SHORT)))
    assert SHORT == client.fetch_blob(repository, descriptor)
    assert descriptor.digest == client.hash_blob(repository, descriptor)


def test_a_manifest_that_speaks_of_errors_is_a_manifest(serve, client, repository_at):
    raw = MANIFEST.raw.replace(b"padding", b"errors")
    repository = repository_at(serve(lambda _: RegistryResponse(200, raw)))
    assert raw == client.fetch_manifest(repository.tagged("one")).raw
