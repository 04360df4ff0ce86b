"""What a registry sends for a blob, read so that it can be held against it."""

from __future__ import annotations

import pytest

from stagefleet.errors import (
    ItemCancelledError,
    NotFoundError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    TruncatedError,
)
from stagefleet.leases import under_lease
from stagefleet.manifests import Descriptor, digest_of
from tests.unit.registry.raw import RawServer
from tests.unit.registry.scripted import RegistryResponse

CONTENT = b"content of a layer"
BLOB = Descriptor("application/x", digest_of(CONTENT), len(CONTENT))


def test_a_blob_that_is_whole_has_its_digest(serve, client, repository_at):
    registry = serve(lambda _: RegistryResponse(body=CONTENT))
    assert BLOB.digest == client.hash_blob(repository_at(registry), BLOB)


@pytest.mark.parametrize("content", [b"", b"another layer", CONTENT[:5], CONTENT + b" and more"])
def test_other_content_has_its_own_digest_whatever_its_length_is(serve, client, repository_at, content):
    """R5: what a registry says is all of the blob is altered, if it is not the blob."""
    registry = serve(lambda _: RegistryResponse(body=content))
    found = client.hash_blob(repository_at(registry), BLOB)
    assert BLOB.digest != found
    if len(content) <= BLOB.size:
        assert digest_of(content) == found


def test_an_endless_blob_is_read_no_further_than_it_has_to_be(serve, client, repository_at):
    """R5: one byte more than there should be is enough."""
    registry = serve(lambda _: RegistryResponse(body=CONTENT * 1_000_000))
    assert digest_of(CONTENT + CONTENT[:1]) == client.hash_blob(repository_at(registry), BLOB)


def test_a_blob_that_breaks_off_says_nothing(serve, client, repository_at):
    """R5: the connection ended, and not the content."""
    registry = serve(lambda _: RegistryResponse(body=CONTENT, cut_at=5))
    with pytest.raises(RegistryUnreachableError):
        client.hash_blob(repository_at(registry), BLOB)


def test_a_blob_whose_end_nobody_tells_says_nothing(client, repository_at):
    """R5: without a length or chunks a body that was cut off looks like one that ended."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"

    def cut_off(_, connection):
        connection.sendall(head + CONTENT[:5])
        connection.close()

    server = RawServer(cut_off)
    with server.running() as registry, pytest.raises(TruncatedError, match="did not say that it was all"):
        client.hash_blob(repository_at(registry), BLOB)


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (503, RegistryUnavailableError)])
def test_a_registry_that_lacks_it_is_told_from_one_that_fails(serve, client, repository_at, status, error):
    """R5: only the first says something about the blob."""
    registry = serve(lambda _: RegistryResponse(status))
    with pytest.raises(error):
        client.hash_blob(repository_at(registry), BLOB)


def test_a_cancelled_item_reads_no_further(serve, client, repository_at):
    """R5: also in the middle of a large layer."""

    class Lease:
        def check(self):
            raise ItemCancelledError("cancelled")

        def require(self, seconds):
            raise NotImplementedError

    registry = serve(lambda _: RegistryResponse(body=CONTENT))
    with under_lease(Lease()), pytest.raises(ItemCancelledError):
        client.hash_blob(repository_at(registry), BLOB)


def test_a_blob_that_the_registry_knows_is_told_by_one_head(serve, client, repository_at):
    registry = serve(lambda asked: RegistryResponse(200 if asked.method == "HEAD" else 500))
    assert client.has_blob(repository_at(registry), BLOB.digest)
    assert not client.has_blob(repository_at(serve(lambda _: RegistryResponse(404))), BLOB.digest)


def test_a_fresh_client_has_connections_of_its_own_and_asks_past_caches(serve, client, repository_at):
    """R5: a cache on the way may have kept a 404, or half of a blob."""
    kept = [RegistryResponse(404)]

    def cache(asked):
        if asked.headers.get("Cache-Control") == "no-cache" == asked.headers.get("Pragma"):
            return RegistryResponse(body=CONTENT)
        return kept[0]

    registry = serve(cache)
    with pytest.raises(NotFoundError):
        client.hash_blob(repository_at(registry), BLOB)
    with client.reopened() as fresh:
        assert BLOB.digest == fresh.hash_blob(repository_at(registry), BLOB)
    assert fresh._transport is not client._transport
