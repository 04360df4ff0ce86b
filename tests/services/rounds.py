"""A registry far away, in rounds: it counts the requests of a client that wait for one another."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""
_NOT_FOUND: Answer = (404, {}, b"")
_SLICE_SECONDS = 0.02


class Rounds:
    """Round trips: requests that are there together are answered together, once no more come.

    So a request that waits for the answer to another one is in a later round, whatever the time that the
    client takes. A body counts as arrived with its last byte. Time in which this process did not run, on a
    busy machine, does not count: the client did not run, either.

    Attributes:
        requests: The requests of each round.
        quiet_seconds: How long no other request must come for a round to be over.
    """

    def __init__(self, quiet_seconds: float = 0.4) -> None:
        self.requests: list[list[str]] = [[]]
        self.quiet_seconds = quiet_seconds
        self._changed = threading.Condition()

    @property
    def count(self) -> int:
        return len(self.requests) - 1

    @property
    def total(self) -> int:
        return sum(map(len, self.requests))

    def await_answer(self, request: str) -> None:
        """Return when the round of a request that has arrived is over."""
        with self._changed:
            number, quiet_seconds = len(self.requests), 0.0
            self.requests[-1].append(request)
            arrived = len(self.requests[-1])
            while number == len(self.requests):
                if quiet_seconds >= self.quiet_seconds:
                    self.requests.append([])
                    self._changed.notify_all()
                    return
                began_at = time.monotonic()
                self._changed.wait(_SLICE_SECONDS)
                if arrived != len(self.requests[number - 1]):
                    quiet_seconds, arrived = 0.0, len(self.requests[number - 1])
                elif time.monotonic() - began_at < 2 * _SLICE_SECONDS:
                    quiet_seconds += _SLICE_SECONDS


class FarRegistry:
    """A registry in memory, with one repository.

    Attributes:
        manifests: Media type and bytes, by tag and digest.
        blobs: By digest.
        accepted: Connections that were accepted.
        takes_whole_blobs: Whether a POST may bring a blob ("Single POST").
        most_whole_bytes: The largest blob that a POST may bring; a larger one is refused.
        keeps_content: Whether the content of a POST counts as the beginning of the upload that it begins.
        on_request: Called with each request, as "METHOD NAME"; it may wait, and may return another answer.
    """

    def __init__(self, rounds: Rounds, *, takes_whole_blobs: bool = False) -> None:
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.accepted = 0
        self.takes_whole_blobs = takes_whole_blobs
        self.most_whole_bytes = 1 << 40
        self.keeps_content = False
        self.on_request: Callable[[str], Answer | None] = lambda _: None
        self._rounds = rounds
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                outer.accepted += 1
                super().setup()

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                if len(body) < length:
                    self.close_connection = True
                    return
                parts = urlsplit(self.path)
                request = f"{self.command} {parts.path.split('/', 4)[-1]}"
                outer._rounds.await_answer(request)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                media_type = self.headers.get("Content-Type", "")
                status, headers, content = outer.on_request(request) or outer._answer(
                    self.command, parts.path, query, body, media_type
                )
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.request_queue_size = 128

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[FarRegistry]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def push(self, content: bytes) -> str:
        """Store a blob; returns its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return digest

    def put(self, tag: str, media_type: str, raw: bytes) -> str:
        """Store a manifest under a tag and its digest."""
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.manifests[tag] = self.manifests[digest] = (media_type, raw)
        return digest

    def _answer(self, method: str, path: str, query: dict[str, str], body: bytes, media_type: str) -> Answer:
        folder, name = path.rsplit("/", 2)[-2:]
        if folder == "tags":
            return 200, {}, b'{"tags": []}'
        if folder == "manifests":
            return self._answer_manifest(method, name, media_type, body)
        if method in {"POST", "PUT"}:
            return self._answer_upload(method, path, query, body)
        return (200, {}, self.blobs[name]) if name in self.blobs else _NOT_FOUND

    def _answer_manifest(self, method: str, name: str, media_type: str, body: bytes) -> Answer:
        if method == "PUT":
            return 201, {"Docker-Content-Digest": self.put(name, media_type, body)}, b""
        if name not in self.manifests:
            return _NOT_FOUND
        media_type, raw = self.manifests[name]
        return 200, {"Content-Type": media_type}, raw

    def _answer_upload(self, method: str, path: str, query: dict[str, str], body: bytes) -> Answer:
        if query.get("mount") in self.blobs:
            return 201, {}, b""
        if method == "POST" and len(body) > self.most_whole_bytes:
            return 413, {}, b""
        if method == "POST" and not (self.takes_whole_blobs and "digest" in query):
            kept = "-kept" if body and self.keeps_content else ""
            return 202, {"Location": f"{path}session{kept}"}, b""
        if path.endswith("-kept"):
            return 400, {}, b""
        return 201, {"Docker-Content-Digest": self.push(body)}, b""
