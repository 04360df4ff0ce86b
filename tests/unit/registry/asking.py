"""Each method of the client as one call, and what tests of its waits have in common."""

from __future__ import annotations

import threading

from stagefleet.errors import ItemCancelledError
from stagefleet.leases import NO_LEASE
from stagefleet.manifests import OCI_MANIFEST, Descriptor, Manifest, digest_of
from stagefleet.names import Repository

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


class Lease:
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


def ping(client, repository, lease=NO_LEASE):
    client.ping(repository.host, lease=lease)


def tags(client, repository, lease=NO_LEASE):
    return list(client.tags(repository, lease=lease))


def head(client, repository, lease=NO_LEASE):
    return client.head_manifest(repository.tagged("one"), lease=lease)


def fetch(client, repository, lease=NO_LEASE):
    return client.fetch_manifest(repository.tagged("one"), lease=lease)


def put(client, repository, lease=NO_LEASE):
    client.put_manifest(repository.tagged("one"), MANIFEST, lease=lease)


def delete(client, repository, lease=NO_LEASE):
    client.delete_manifest(repository.tagged("one"), lease=lease)


def config(client, repository, lease=NO_LEASE):
    return client.fetch_blob(repository, BLOB, lease=lease)


def layer(client, repository, lease=NO_LEASE):
    client.hash_blob(repository, BLOB, lease=lease)


def begin(client, repository, lease=NO_LEASE):
    return client.begin_upload(repository, BLOB.digest, mount_from=None, lease=lease)


ALL = [ping, tags, head, fetch, put, delete, config, layer, begin]
