"""Writes whose answers get lost, or that are refused on the way (docs/registries.md, "What was tried")."""

from __future__ import annotations

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stagefleet.errors import ManifestRefusedError, RegistryError
from stagefleet.leases import NO_LEASE
from stagefleet.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, digest_of
from stagefleet.names import Digest, Repository
from stagefleet.records.image import RecordImage, put_record
from stagefleet.registry.upload_sessions import WHOLE_LAYER_BYTES
from stagefleet.settings import RegistrySettings
from tests.unit.registry.asking import BLOB, CONTENT, MANIFEST, put
from tests.unit.registry.scripted import RegistryResponse

HEAD = RegistryResponse(
    headers={"Content-Type": MANIFEST.media_type, "Docker-Content-Digest": str(MANIFEST.digest)}
)


@pytest.mark.parametrize("status", [400, 403, 409, 412])
def test_an_immutable_tag_that_is_there_is_pushed(serve, client, repository_at, status):
    """W18 (buildkit #3776, containers-roadmap #2380): the answer to the first PUT got lost."""
    puts = []

    def script(asked):
        if asked.method != "PUT":
            return HEAD
        puts.append(asked)
        return RegistryResponse(201, cut_at=0) if len(puts) == 1 else RegistryResponse(status)

    put(client, repository_at(serve(script)))


@pytest.mark.parametrize("there", [RegistryResponse(404), None])
def test_a_tag_that_is_refused_and_names_something_else_is_an_error(serve, client, repository_at, there):
    """W18: only the same digest counts, and the refusal is what is told."""
    other = RegistryResponse(
        headers={**HEAD.headers, "Docker-Content-Digest": str(digest_of(b"something else"))}
    )
    server = serve(
        lambda asked: RegistryResponse(409, b"immutable") if asked.method == "PUT" else there or other
    )
    with pytest.raises(RegistryError, match="PUT answered 409"):
        put(client, repository_at(server))


class Destination:
    """Takes uploads as distribution does; `refuse` answers a request first, if it wants to."""

    def __init__(self, refuse=lambda _asked: None, *, headers=None):
        self.refuse = refuse
        self.headers = headers or {}
        self.blobs = set()
        self.sessions = {}
        self.numbers = itertools.count()
        self.received = 0

    def __call__(self, asked):
        refused = self.refuse(asked)
        if refused is not None:
            return refused
        path, _, query = asked.path.partition("?")
        if asked.method == "HEAD":
            return RegistryResponse(200 if path.rpartition("/")[2] in self.blobs else 404)
        if asked.method == "POST":
            if any(f"mount={blob}" in query for blob in self.blobs):
                return RegistryResponse(201)
            session = f"{path}{next(self.numbers)}"
            self.sessions[session] = b""
            return RegistryResponse(202, headers={"Location": session, **self.headers})
        if asked.method != "DELETE":
            return self.take(asked, path, query)
        self.sessions.pop(path, None)
        return RegistryResponse(204)

    def take(self, asked, path, query):
        self.received += len(asked.body)
        if asked.method == "PATCH":
            begin, _, end = asked.headers["Content-Range"].partition("-")
            assert (len(self.sessions[path]), len(asked.body)) == (int(begin), int(end) + 1 - int(begin))
        self.sessions[path] += asked.body
        if asked.method == "PATCH":
            return RegistryResponse(202, headers={"Location": path})
        digest = query.partition("digest=")[2]
        assert digest == str(digest_of(self.sessions[path]))
        self.blobs.add(digest)
        return RegistryResponse(201)


def send(client, repository, content, *, mount_from=None):
    digest = digest_of(content)
    upload = client.begin_upload(repository, digest, mount_from=mount_from)
    if upload is not None:
        client.upload_bytes(upload, content)
    return digest


def test_a_blob_whose_answer_came_too_late_is_sent_once(serve, client, repository_at):
    """W11 (moby #53700, quay-operator #825): what is there is looked at before anything is sent again."""
    destination = Destination()

    def script(asked):
        answer = destination(asked)
        lost = RegistryResponse(answer.status, cut_at=0, headers={"Content-Length": "1"})
        return lost if asked.method == "PUT" else answer

    server = serve(script)
    send(client, repository_at(server), CONTENT)
    assert len(CONTENT) == destination.received


@pytest.mark.parametrize("status", [403, 404, 405])
@pytest.mark.parametrize("own", [True, False])
def test_a_mount_that_is_refused_is_an_upload(serve, client, repository_at, status, own):
    """W17 (containerd #14086, oras #1892, harbor #17097): remembered, and blobs are looked for by HEAD."""
    destination = Destination(lambda asked: RegistryResponse(status) if "mount=" in asked.path else None)
    server = serve(destination)
    repository = repository_at(server)
    source = repository if own else repository.parse(f"{server.host}/group/other")
    for content in (b"one", b"two", b"two"):
        send(client, repository, content, mount_from=source)
    asked = [(each.method, "mount=" in each.path) for each in server.asked]
    assert 1 + (not own) == asked.count(("POST", True))
    assert 2 == asked.count(("PUT", False))


def limited(limit, *, headers=None):
    def refuse(asked):
        return RegistryResponse(413, b"too large", headers or {}) if len(asked.body) > limit else None

    return refuse


@pytest.mark.parametrize("limit", [4 << 20, 1 << 20, 600_000, 70_000])
def test_a_blob_goes_in_chunks_where_a_gateway_limits_bodies(serve, client, repository_at, limit):
    """W6 (regclient #75, harbor #22353): 413 to the whole, chunks get through; the limit is remembered."""
    destination = Destination(limited(limit))
    server = serve(destination)
    content = bytes(range(256)) * 16 * 1025  # 4 MiB and a bit
    assert str(send(client, repository_at(server), content)) in destination.blobs
    before = len(server.asked)
    assert str(send(client, repository_at(server), content + b"x")) in destination.blobs
    assert all(len(asked.body) <= limit for asked in server.asked[before:])


def test_blobs_side_by_side_learn_a_limit_together(serve, client, repository_at):
    """W6: what another upload learned while a body was on its way is tried before the blob fails."""
    limit, content = 70_000, bytes(300_000)
    others: list[bytes] = []

    def refuse(asked):
        if len(asked.body) == len(content) and not others:
            others.append(content + b"other")
            send(client, repository_at(server), others[0])
        return RegistryResponse(413, b"too large") if len(asked.body) > limit else None

    destination = Destination(refuse)
    server = serve(destination)
    assert str(send(client, repository_at(server), content)) in destination.blobs
    assert str(digest_of(others[0])) in destination.blobs


def test_a_small_blob_needs_no_chunks(serve, connect, repository_at):
    """W6: one PUT, as ever."""
    server = serve(Destination(limited(1 << 20)))
    client = connect(registries={server.host: RegistrySettings(chunk_bytes=1 << 20)})
    send(client, repository_at(server), CONTENT)
    assert ["POST", "PUT"] == [asked.method for asked in server.asked]


@pytest.mark.parametrize("how", ["setting", "header"])
def test_a_limit_that_is_known_is_kept_from_the_beginning(serve, connect, repository_at, how):
    """W6: `chunk_bytes`, and `OCI-Chunk-Max-Length`."""
    limit = 100_000
    destination = Destination(limited(limit), headers={"OCI-Chunk-Max-Length": str(limit)})
    server = serve(destination)
    settings = RegistrySettings(chunk_bytes=limit if how == "setting" else None)
    if how == "setting":
        destination.headers = {}
    client = connect(registries={server.host: settings})
    digest = send(client, repository_at(server), bytes(250_000))
    assert str(digest) in destination.blobs
    assert [0, 100_000, 100_000, 50_000, 0] == [len(asked.body) for asked in server.asked]


@pytest.mark.parametrize(
    ("limit", "most"), [(None, WHOLE_LAYER_BYTES), (100_000, 100_000), (64 << 20, WHOLE_LAYER_BYTES)]
)
def test_a_layer_beyond_a_known_limit_goes_in_no_single_post(connect, limit, most):
    """W6: though the registry takes whole blobs, and lacks what it is asked for."""
    repository = Repository.parse("registry.example/app")
    facts = connect(registries={repository.host: RegistrySettings(chunk_bytes=limit)}).upload_facts
    facts.note_whole_taken(repository.host)
    for _ in range(5):
        facts.note_presence(repository, repository, is_absent=True)
    layers = [Descriptor("application/x", digest_of(CONTENT), size) for size in (most, most + 1)]
    assert [True, False] == [facts.takes_unasked(repository, layer) for layer in layers]


def test_a_gateway_that_lets_nothing_through_is_an_error(serve, client, repository_at):
    """W6: the registry's own words, after the last size."""
    server = serve(Destination(limited(1000)))
    with pytest.raises(RegistryError, match="answered 413"):
        send(client, repository_at(server), bytes(100_000))


@pytest.mark.parametrize("status", [400, 415])
def test_a_record_is_oci_s_where_docker_s_types_are_refused(serve, client, repository_at, status):
    """W10 (zot #3104, #724): labels and configuration are the same."""
    put_types = []
    destination = Destination()

    def script(asked):
        if "/manifests/" not in asked.path:
            return destination(asked)
        put_types.append(asked.headers.get("Content-Type"))
        return RegistryResponse(201 if put_types[-1] == OCI_MANIFEST else status)

    repository = repository_at(serve(script))
    record = RecordImage.of("app", {"a": "b"})
    written = put_record(client, repository.tagged("one"), record, lease=NO_LEASE)
    assert written.media_type == OCI_MANIFEST
    assert Manifest.of(record.oci_manifest).digest == written.digest
    assert DOCKER_MANIFEST in put_types


DESCRIPTOR = {"mediaType": "application/x", "digest": str(BLOB.digest), "size": 7}
IMAGE = {"schemaVersion": 2, "config": DESCRIPTOR, "layers": []}
INDEX = {"schemaVersion": 2, "manifests": []}


@pytest.mark.parametrize(
    ("document", "header", "kind"),
    [
        ({**IMAGE, "mediaType": OCI_MANIFEST}, DOCKER_MANIFEST, OCI_MANIFEST),
        ({**IMAGE, "mediaType": DOCKER_MANIFEST}, OCI_MANIFEST, DOCKER_MANIFEST),
        ({**IMAGE, "mediaType": OCI_MANIFEST}, "application/octet-stream", OCI_MANIFEST),
        (IMAGE, DOCKER_MANIFEST, OCI_MANIFEST),
        (IMAGE, "application/octet-stream", OCI_MANIFEST),
        (IMAGE, "binary/octet-stream", OCI_MANIFEST),
        (INDEX, "application/octet-stream", OCI_INDEX),
        (INDEX, OCI_MANIFEST, OCI_INDEX),
    ],
)
def test_a_document_says_what_it_is(document, header, kind):
    """W20 (buildah #2266, containers/image #1150): what it says, its shape, and then the header."""
    assert kind == Manifest.parse(json.dumps(document).encode(), header).media_type


def test_missing_blobs_are_named_at_500_too(serve, client, repository_at):
    """W14: distribution 2.8 answers 500 with three codes, of which one decides."""
    digest = Digest("sha256", "a" * 64)
    body = (
        b'{"errors": [{"code": "UNKNOWN"}, {"code": "MANIFEST_BLOB_UNKNOWN", "detail": {"digest": "%s"}}]}'
        % str(digest).encode()
    )
    server = serve(lambda _: RegistryResponse(500, body, {"Content-Type": "application/json"}))
    with pytest.raises(ManifestRefusedError) as caught:
        put(client, repository_at(server))
    assert ((str(digest),), 1) == (caught.value.missing, len(server.asked))


class LockingRegistry(ThreadingHTTPServer):
    """Holds a lock while it reads the body of a PUT, and wants it for each GET, as crane does in memory."""

    daemon_threads = True

    def __init__(self, content):
        lock = threading.Lock()
        self.refused = refused = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if not lock.acquire(timeout=3):
                    refused.append(self.path)
                    self.close_connection = True
                    return
                lock.release()
                self._answer(200, content)

            def do_POST(self):
                self._answer(202)

            def do_PUT(self):
                with lock:
                    self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(201)

            def _answer(self, status, body=b""):
                self.send_response(status)
                self.send_header("Location", f"http://{self.headers['Host']}/session")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                return

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.mark.parametrize("size", [1000, 3 << 20])
@pytest.mark.parametrize("asks", [True, False])
def test_a_source_is_open_before_the_destination_reads(client, size, asks):
    """x4: a copy within a registry that holds a lock while it reads a body hung for ever."""
    content = bytes(size)
    with LockingRegistry(content) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        repository = Repository.parse(f"127.0.0.1:{server.server_port}/group/app")
        descriptor = Descriptor("application/x", digest_of(content), size)
        client.upload_blob(
            repository,
            descriptor,
            lambda: client.open_blob(repository, descriptor),
            mount_from=repository if asks else None,
        )
        server.shutdown()
    assert [] == server.refused


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_address_without_the_port_is_the_registry_s_own(serve, client, repository_at, scheme):
    """Kind of R33: nginx has sent `Host` without the port, so that `Location` and `Link` have none."""

    def script(asked):
        own = f"{scheme}://127.0.0.1{asked.path.partition('?')[0]}"
        if asked.method == "POST":
            return RegistryResponse(202, headers={"Location": f"{own}session?state=1"})
        if "last=" in asked.path or asked.method == "PUT":
            return RegistryResponse(201 if asked.method == "PUT" else 200, b'{"tags": ["two"]}')
        return RegistryResponse(200, b'{"tags": ["one"]}', {"Link": f'<{own}?last=one>; rel="next"'})

    server = serve(script)
    repository = repository_at(server)
    client.upload_bytes(client.begin_upload(repository, BLOB.digest, mount_from=None), CONTENT)
    assert CONTENT == server.asked[-1].body
    assert ["one", "two"] == list(client.tags(repository))


@pytest.mark.parametrize("path", ["/v2/group/other/blobs/uploads/1", "/bucket/1"])
def test_what_is_no_address_of_the_repository_keeps_its_port(serve, client, repository_at, path):
    server = serve(lambda _: RegistryResponse(202, headers={"Location": f"http://127.0.0.1{path}"}))
    upload = client.begin_upload(repository_at(server), BLOB.digest, mount_from=None)
    assert f"http://127.0.0.1{path}" == upload.url
