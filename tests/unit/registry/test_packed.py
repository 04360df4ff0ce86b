"""Bodies that a cache on the way has compressed, though `identity` was asked for."""

from __future__ import annotations

import gzip

import pytest

from stagefleet.errors import RegistryError, RegistryUnreachableError
from stagefleet.names import Reference
from tests.unit.registry.asking import BLOB, CONTENT, MANIFEST, fetch, tags
from tests.unit.registry.scripted import RegistryResponse

TAGS = b'{"name": "group/app", "tags": ["one"]}'
CODED = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize("name", ["gzip", "x-gzip", " GZip"])
def test_manifests_and_lists_are_unpacked(serve, client, repository_at, name):
    """Kind of W20 (quay/quay #1310): the digest is that of the manifest itself."""

    def script(asked):
        body = TAGS if "tags/list" in asked.path else MANIFEST.raw
        return RegistryResponse(200, gzip.compress(body), {"Content-Encoding": name})

    repository = repository_at(serve(script))
    assert ["one"] == tags(client, repository)
    assert MANIFEST == fetch(client, repository)
    assert MANIFEST == client.fetch_manifest(Reference.of(repository, MANIFEST.digest))


def test_what_is_named_gzip_and_is_none_is_taken_as_it_is(serve, client, repository_at):
    repository = repository_at(serve(lambda _: RegistryResponse(200, MANIFEST.raw, CODED)))
    assert MANIFEST == fetch(client, repository)


def test_a_layer_that_a_store_names_gzip_stays_packed(serve, client, repository_at):
    """A layer is gzip itself, and some stores say so in this header."""
    repository = repository_at(serve(lambda _: RegistryResponse(200, CONTENT, CODED)))
    assert CONTENT == client.fetch_blob(repository, BLOB)


def test_a_small_body_that_grows_without_end_is_refused(serve, client, repository_at):
    bomb = gzip.compress(b'{"a": "' + bytes(8 * 1024 * 1024))
    repository = repository_at(serve(lambda _: RegistryResponse(200, bomb, CODED)))
    with pytest.raises(RegistryError, match="more than 4194304 bytes"):
        fetch(client, repository)


def test_gzip_that_is_damaged_is_asked_for_again(serve, client, repository_at):
    packed = gzip.compress(MANIFEST.raw)
    damaged = packed[:12] + b"\xff" * 8 + packed[20:]
    answers = [RegistryResponse(200, damaged, CODED), RegistryResponse(200, packed, CODED)]
    server = serve(lambda _: answers.pop(0) if len(answers) > 1 else answers[0])
    assert MANIFEST == fetch(client, repository_at(server))

    server.script = lambda _: RegistryResponse(200, damaged, CODED)
    with pytest.raises(RegistryUnreachableError, match="cannot be unpacked"):
        fetch(client, repository_at(server))
