"""Uploads that break off: resumed at the registry's own offset, begun anew, or cancelled."""

from __future__ import annotations

import hashlib
import itertools
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stagefleet.errors import NotFoundError, RegistryUnreachableError, StagefleetError
from stagefleet.manifests import Descriptor, digest_of
from stagefleet.names import Repository
from stagefleet.registry.http.responses import received_bytes
from stagefleet.registry.upload_sessions import RESUMED_BYTES, SessionStore

CONTENT = b"0123456789abcdef" * (RESUMED_BYTES // 16) + b"and a bit"
BLOB = Descriptor("application/x", digest_of(CONTENT), len(CONTENT))
HALF = len(CONTENT) // 2
SMALL = CONTENT[:1000]
UNKNOWN = b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN", "message": "blob upload unknown to registry"}]}'


class Registry(ThreadingHTTPServer):
    """A source and a destination; it keeps what arrives, and breaks off where it is told to.

    Attributes:
        breaks: After how many bytes each PUT breaks off, in turn; None for one that is taken.
        limit: The largest body that is let through, None for any; chunks move the session's address, and an
            older one drops it, as in distribution 2.8.
        chunk_breaks: As `breaks`, of PATCH.
        resumes: What a session says of itself: "its offset" as distribution 3, "nothing" as one that is gone,
            "everything" as one that is wrong.
        ranges: Whether blobs can be read from an offset.
        gone: The status that tells of a session that is gone; 400 as olareg's.
        forgets: How many sessions are gone when their content comes, as after a restart.
        asked: Method and kind of each request.
    """

    daemon_threads = True

    def __init__(
        self,
        *,
        breaks=(),
        resumes="its offset",
        ranges=True,
        limit=None,
        chunk_breaks=(),
        gone=404,
        forgets=0,
    ):
        self.gone, self.forgets = gone, forgets
        self.breaks, self.resumes, self.ranges = list(breaks), resumes, ranges
        self.limit, self.chunk_breaks = limit, list(chunk_breaks)
        self.states = {}
        self.blobs, self.sessions, self.asked = {}, {}, []
        self.received = self.read = 0
        self.numbers = itertools.count()
        super().__init__(("127.0.0.1", 0), type("Handler", (Handler,), {"registry": self}))

    @property
    def repository(self):
        return Repository.parse(f"127.0.0.1:{self.server_port}/group/app")


class Handler(BaseHTTPRequestHandler):
    """Answers for a `Registry`."""

    protocol_version = "HTTP/1.1"
    registry: Registry

    def log_message(self, *_):
        return

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _handle(self):
        path = self.path.partition("?")[0]
        is_session = "/uploads/" in path
        self.registry.asked.append((self.command, "session" if is_session else "blob"))
        getattr(self, f"_{self.command.lower()}_{'session' if is_session else 'blob'}")(path)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _handle  # noqa: N815 - http.server's names

    def _head_blob(self, path):
        content = self.registry.blobs.get(path.rpartition("/")[2])
        if content is None:
            return self._answer(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        return self.end_headers()

    def _get_blob(self, path):
        content = self.registry.blobs.get("source " + path.rpartition("/")[2])
        if content is None:
            return self._answer(404)
        first = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if first and self.registry.ranges:
            self.registry.read += len(content) - first
            return self._answer(206, content[first:], Content_Range=f"bytes {first}-{len(content) - 1}/*")
        self.registry.read += len(content)
        return self._answer(200, content)

    def _post_session(self, _path):
        if any(digest in self.path for digest in self.registry.blobs):
            return self._answer(201)
        name = f"/v2/group/app/blobs/uploads/{next(self.registry.numbers)}"
        self.registry.sessions[name] = b""
        return self._answer(202, Location=name + "?_state=secret")

    def _is_current(self, path):
        """Drop a session that is asked for under an older address."""
        state = self.registry.states.get(path)
        if state is None or f"_state={state}" in self.path:
            return True
        self.registry.sessions.pop(path, None)
        return False

    def _patch_session(self, path):
        length = int(self.headers["Content-Length"])
        until = self.registry.chunk_breaks.pop(0) if self.registry.chunk_breaks else None
        if not self._is_current(path) or path not in self.registry.sessions:
            self.close_connection = True
            return self._answer(404)
        had = self.registry.sessions[path]
        assert f"{len(had)}-{len(had) + length - 1}" == self.headers["Content-Range"]
        if until is None:
            content = self.rfile.read(length)
            self.registry.received += length
            self.registry.sessions[path] = had + content
            self.registry.states[path] = f"at{len(had) + length}"
            return self._answer(202, Location=f"{path}?_state={self.registry.states[path]}")
        self.rfile.read(until)
        self.close_connection = True
        return None

    def _get_session(self, path):
        self._is_current(path)
        had = self.registry.sessions.get(path)
        if had is None or self.registry.resumes == "nothing":
            return self._answer(404)
        count = len(CONTENT) if self.registry.resumes == "everything" else len(had)
        state = self.registry.states.get(path, "newer")
        return self._answer(204, Range=f"0-{max(count - 1, 0)}", Location=f"{path}?_state={state}")

    def _put_session(self, path):
        length = int(self.headers["Content-Length"])
        if self.registry.limit is not None and length > self.registry.limit:
            self.close_connection = True
            return self._answer(413)
        until = self.registry.breaks.pop(0) if self.registry.breaks else None
        if self.registry.forgets:
            self.registry.forgets -= 1
            del self.registry.sessions[path]
            self.rfile.read(length)
        if not self._is_current(path) or path not in self.registry.sessions:
            self.close_connection = True
            return self._answer(self.registry.gone, UNKNOWN)
        had = self.registry.sessions[path]
        told = self.headers.get("Content-Range", "")
        assert not had or not length or f"{len(had)}-{len(had) + length - 1}" == told
        content = self.rfile.read(length if until is None else until)
        self.registry.received += len(content)
        self.registry.sessions[path] = had + content
        if until is not None and until < length:
            self.close_connection = True
            return None
        digest = self.path.partition("digest=")[2]
        if digest != "sha256:" + hashlib.sha256(had + content).hexdigest():
            del self.registry.sessions[path]
            return self._answer(400)
        self.registry.blobs[digest] = self.registry.sessions.pop(path)
        if until is not None:  # it is there, and the answer gets lost
            self.close_connection = True
            return None
        return self._answer(201)

    def _delete_session(self, path):
        self._answer(204 if self.registry.sessions.pop(path, None) is not None else 404)


@pytest.fixture
def run():
    with ExitStack() as stack:

        def run(**options):
            server = stack.enter_context(Registry(**options))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            server.blobs[f"source {BLOB.digest}"] = CONTENT
            server.blobs[f"source {digest_of(SMALL)}"] = SMALL
            return server

        yield run


class Kept(dict[str, str]):
    """What attempts keep of sessions."""

    @property
    def store(self):
        return SessionStore(lambda: self.pop("address", None), lambda address: self.update(address=address))


def upload(client, server, kept=None, *, blob=BLOB):
    return client.upload_blob(
        server.repository,
        blob,
        lambda: client.open_blob(server.repository, blob),
        mount_from=server.repository,
        sessions=None if kept is None else kept.store,
    )


@pytest.mark.parametrize(
    ("header", "count"),
    [
        ("0-1023", 1024),
        ("bytes=0-1023", 1024),
        (" 0-1 ", 2),
        ("0-0", 0),
        ("", 0),
        ("1-5", 0),
        ("0-", 0),
        ("0--1", 0),
        ("0-1023/2048", 0),
        ("0-" + "9" * 40, 0),
        ("0-\u0661", 0),
    ],
)
def test_the_offset_of_an_upload_is_read_as_registries_say_it(header, count):
    assert count == received_bytes({"Range": header} if header else {})


def test_what_has_arrived_is_not_sent_again(client, run):
    server, kept = run(breaks=[HALF]), Kept()
    assert len(CONTENT) == upload(client, server, kept)
    assert CONTENT == server.blobs[str(BLOB.digest)]
    assert len(CONTENT) == server.received
    assert ("HEAD", "blob") in server.asked, "what is there is looked at before anything is sent"
    assert 1 == server.asked.count(("POST", "session"))
    assert not kept["address"]


CHUNK = 1024 * 1024


@pytest.mark.parametrize("is_new_process", [True, False])
def test_chunks_go_on_from_the_last_one_that_arrived(connect, client, run, is_new_process):
    """Behind a gateway with limits each chunk moves the address of the session, which is kept with it."""
    server, kept = run(limit=CHUNK, chunk_breaks=[None, None, 100]), Kept()
    if is_new_process:
        first = connect()
        first.upload_facts.lower_body_limit(server.repository.host, 2 * CHUNK)
        with pytest.raises(RegistryUnreachableError):
            upload(first, server, kept)
        assert f"_state=at{2 * CHUNK}" in kept["address"]
        client = connect()
    client.upload_facts.lower_body_limit(server.repository.host, 2 * CHUNK)
    upload(client, server, kept)
    assert CONTENT == server.blobs[str(BLOB.digest)]
    assert len(CONTENT) == server.received
    assert 1 == server.asked.count(("POST", "session"))
    assert ({}, "") == (server.sessions, kept["address"])


@pytest.mark.parametrize("ranges", [True, False])
def test_the_source_is_read_from_there_where_it_can(client, run, ranges):
    server = run(breaks=[HALF], ranges=ranges)
    upload(client, server, Kept())
    rest = len(CONTENT) - HALF if ranges else len(CONTENT)
    assert len(CONTENT) + rest == server.read
    assert CONTENT == server.blobs[str(BLOB.digest)]


def test_another_process_goes_on(connect, run):
    server, kept = run(breaks=[HALF]), Kept()
    with pytest.raises(RegistryUnreachableError):
        upload(connect(), server, kept)
    assert kept["address"].startswith("/v2/group/app/blobs/uploads/")
    assert len(CONTENT) - HALF == upload(connect(), server, kept)
    assert len(CONTENT) == server.received
    assert CONTENT == server.blobs[str(BLOB.digest)]


def test_it_goes_on_as_often_as_it_breaks_off(client, run):
    step = len(CONTENT) // 4
    server = run(breaks=[step, step, step])
    upload(client, server, Kept())
    assert len(CONTENT) == server.received
    assert CONTENT == server.blobs[str(BLOB.digest)]


def test_all_is_there_but_the_end(connect, run):
    server, kept = run(), Kept()
    server.sessions["/v2/group/app/blobs/uploads/x"] = CONTENT
    kept["address"] = "/v2/group/app/blobs/uploads/x?_state=secret"
    assert 0 == upload(connect(), server, kept)
    assert (0, 0) == (server.received, server.read)
    assert CONTENT == server.blobs[str(BLOB.digest)]


@pytest.mark.parametrize("had", [None, b"", b"something else"])
def test_a_session_that_vanished_or_has_other_content_is_begun_anew(client, run, had):
    server, kept = run(), Kept(address="/v2/group/app/blobs/uploads/x?_state=secret")
    if had is not None:
        server.sessions["/v2/group/app/blobs/uploads/x"] = had
    upload(client, server, kept)
    assert CONTENT == server.blobs[str(BLOB.digest)]
    assert ({}, "") == (server.sessions, kept["address"])


@pytest.mark.parametrize("gone", [404, 400])
@pytest.mark.parametrize("content", [SMALL, CONTENT])
def test_a_session_that_is_gone_when_its_content_comes_is_begun_anew(client, run, content, gone):
    """As after a restart of a registry that keeps its sessions in memory."""
    server = run(forgets=1, gone=gone)
    blob = Descriptor("application/x", digest_of(content), len(content))
    upload(client, server, Kept(), blob=blob)
    assert content == server.blobs[str(blob.digest)]
    assert (2, {}) == (server.asked.count(("POST", "session")), server.sessions)


@pytest.mark.parametrize("address", ["//other.example/v2/x", "https://other.example/v2/x"])
def test_what_is_kept_leads_to_no_other_host(client, run, address):
    server = run()
    upload(client, server, Kept(address=address))
    assert CONTENT == server.blobs[str(BLOB.digest)]


@pytest.mark.parametrize("resumes", ["nothing", "everything"])
def test_a_registry_that_cannot_resume_gets_it_anew_and_keeps_no_half(client, run, resumes):
    """R40: distribution 2.8 drops what was interrupted."""
    server = run(breaks=[HALF], resumes=resumes)
    upload(client, server, Kept())
    assert CONTENT == server.blobs[str(BLOB.digest)]
    assert {} == server.sessions


def test_a_large_blob_whose_answer_was_lost_is_looked_for(client, run):
    """R41: the registry takes its time, and the answer gets lost."""
    server = run(breaks=[len(CONTENT)])
    upload(client, server, Kept())
    assert len(CONTENT) == server.received
    assert 1 == server.asked.count(("PUT", "session"))


def test_a_small_blob_is_begun_anew_and_leaves_no_session(client, run):
    """R40."""
    server, kept = run(breaks=[500]), Kept()
    blob = Descriptor("application/x", digest_of(SMALL), len(SMALL))
    upload(client, server, kept, blob=blob)
    assert SMALL == server.blobs[str(blob.digest)]
    assert ({}, {}) == (server.sessions, kept)


@pytest.mark.parametrize("size", [1000, len(CONTENT)])
def test_a_blob_that_the_source_lacks_leaves_no_session(client, run, size):
    """R40: nobody will finish it."""
    server, kept = run(), Kept()
    content = b"x" * size
    with pytest.raises(NotFoundError):
        upload(client, server, kept, blob=Descriptor("application/x", digest_of(content), size))
    assert ({}, ("DELETE", "session")) == (server.sessions, server.asked[-1])
    assert not kept.get("address")


def test_an_upload_that_nobody_retries_is_cancelled(connect, run):
    """R40: what is small is not resumed."""
    server = run(breaks=[500])
    client = connect()
    session = client.begin_upload(server.repository, digest_of(SMALL), mount_from=None)
    client.cancel_upload(session)
    assert {} == server.sessions
    client.cancel_upload(session)  # it is gone, which is no error


def test_where_an_upload_is_stands_in_no_error(connect, run):
    server, kept = run(breaks=[HALF]), Kept()
    with pytest.raises(StagefleetError) as caught:
        upload(connect(), server, kept)
    assert "secret" in kept["address"]
    assert "secret" not in repr(caught.value) + str(caught.value)
