"""Bodies that a cache on the way has compressed, though `identity` was asked for."""

from __future__ import annotations

import gzip
import os

import pytest

from stagefleet.errors import (
    DigestMismatchError,
    RegistryError,
    RegistryUnreachableError,
    ShortContentError,
)
from stagefleet.manifests import Descriptor, digest_of
from stagefleet.names import Reference
from tests.unit.registry.asking import BLOB, CONTENT, MANIFEST, fetch, tags
from tests.unit.registry.scripted import RegistryResponse

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
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


def chunked(body):
    headers = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    return RegistryResponse(200, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), CODED | headers)


@pytest.mark.parametrize("answer", [lambda body: RegistryResponse(200, body, CODED), chunked])
@pytest.mark.parametrize("content", [b"{}", b'{"a": "%s"}' % (b"x" * 100_000), os.urandom(100_000)])
def test_configurations_are_unpacked(serve, client, repository_at, answer, content):
    config = Descriptor(OCI_CONFIG, digest_of(content), len(content))
    repository = repository_at(serve(lambda _: answer(gzip.compress(content))))
    assert content == client.fetch_blob(repository, config)
    assert config.digest == client.hash_blob(repository, config)
    with client.open_blob(repository, config) as reader:
        assert content == b"".join(iter(reader.read, b""))
    assert client.has_blob(repository, config.digest, size=config.size)


def test_a_configuration_that_is_named_gzip_and_is_none_is_taken_as_it_is(serve, client, repository_at):
    config = Descriptor(OCI_CONFIG, BLOB.digest, BLOB.size)
    repository = repository_at(serve(lambda _: RegistryResponse(200, CONTENT, CODED)))
    assert CONTENT == client.fetch_blob(repository, config)


@pytest.mark.parametrize("packed", [gzip.compress(bytes(8 * 1024 * 1024)), gzip.compress(b"") * 200_000])
def test_a_configuration_that_unpacks_to_another_is_altered(serve, client, repository_at, packed):
    config = Descriptor(OCI_CONFIG, BLOB.digest, BLOB.size)
    repository = repository_at(serve(lambda _: RegistryResponse(200, packed, CODED)))
    with pytest.raises((DigestMismatchError, ShortContentError)):
        client.fetch_blob(repository, config)


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
