"""Each method of the client as one call, and what tests of its waits have in common."""

from __future__ import annotations

import threading

from stagefleet.errors import ItemCancelledError
from stagefleet.names import Repository
from stagefleet.registry.leash import UNLEASHED
from stagefleet.registry.manifests import OCI_MANIFEST, Descriptor, Manifest, digest_of

SHORT = 0.15
LONG = 30
CONTENT = b'{"padding": "%s"}' % (b"x" * 90)
BLOB = Descriptor("application/x", digest_of(CONTENT), len(CONTENT))
LARGE = Descriptor("application/x", digest_of(bytes(50_000_000)), 50_000_000)
MANIFEST = Manifest.of(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/x", "digest": str(BLOB.digest), "size": 7},
        "layers": [],
        "annotations": {"padding": "x" * 100},
    }
)
PADDING = b"X-Padding: " + b"x" * 100 + b"\r\n"


class Leash:
    """Cancelled once an event is set; notes what is required."""

    def __init__(self, cancelled=None):
        self.cancelled = cancelled or threading.Event()
        self.required = []

    def check(self):
        if self.cancelled.is_set():
            raise ItemCancelledError("cancelled")

    def require(self, seconds):
        self.required.append(seconds)


def answer(body=b"", *, status=b"200 OK", headers=b""):
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body)


def at(server):
    return Repository.parse(f"{server.host}/group/app")


def ping(client, repository, leash=UNLEASHED):
    client.ping(repository.host, leash=leash)


def tags(client, repository, leash=UNLEASHED):
    return list(client.tags(repository, leash=leash))


def head(client, repository, leash=UNLEASHED):
    return client.head_manifest(repository.tagged("one"), leash=leash)


def fetch(client, repository, leash=UNLEASHED):
    return client.fetch_manifest(repository.tagged("one"), leash=leash)


def put(client, repository, leash=UNLEASHED):
    client.put_manifest(repository.tagged("one"), MANIFEST, leash=leash)


def delete(client, repository, leash=UNLEASHED):
    client.delete_manifest(repository.tagged("one"), leash=leash)


def config(client, repository, leash=UNLEASHED):
    return client.fetch_blob(repository, BLOB, leash=leash)


def layer(client, repository, leash=UNLEASHED):
    client.hash_blob(repository, BLOB, leash=leash)


def begin(client, repository, leash=UNLEASHED):
    return client.begin_upload(repository, BLOB.digest, mount_from=None, leash=leash)


ALL = [ping, tags, head, fetch, put, delete, config, layer, begin]
