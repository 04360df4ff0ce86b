"""The tasks over a real client; and a registry that deletes tags alone, as distribution 3 does.

No program like it is packaged, so it is a double, with as much of the protocol as a deletion needs.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from stagefleet.credentials import DockerConfig
from stagefleet.deletion import mode as deletion_probe
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import Settings
from stagefleet.shared_state.implementations import MemorySharedState
from tests.stage_tasks import StageTasks

MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")
BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[a-f0-9]{64})")
UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/.*")
TAGS = re.compile(r"/v2/(.+)/tags/list")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TagRegistry

    def log_message(self, *_):
        return

    def _answer(self, status, body=b"", **headers):
        self.server.log.append((self.command, urlsplit(self.path).path, status))
        self.send_response(status)
        length = headers.pop("content_length", len(body))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code):
        self._answer(404, json.dumps({"errors": [{"code": code}]}).encode(), Content_Type="application/json")

    def _route(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        with self.server.lock:
            if match := MANIFEST.fullmatch(parts.path):
                self._manifest(match[1], match[2], body)
            elif match := TAGS.fullmatch(parts.path):
                tags = sorted(self.server.tags.get(match[1], {}))
                document = {"name": match[1], "tags": tags}
                self._answer(200, json.dumps(document).encode(), Content_Type="application/json")
            elif match := BLOB.fullmatch(parts.path):
                content = self.server.blobs.get((match[1], match[2]))
                if content is None:
                    self._missing("BLOB_UNKNOWN")
                else:
                    self._answer(200, content, Docker_Content_Digest=match[2])
            elif match := UPLOAD.fullmatch(parts.path):
                self._upload(match[1], parse_qs(parts.query), body)
            else:
                self._answer(200 if parts.path == "/v2/" else 404)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _route  # noqa: N815 - the names are http.server's

    def _upload(self, repository, query, body):
        mount = query.get("mount", [""])[0]
        if self.command == "PUT":
            digest = query["digest"][0]
            assert digest == "sha256:" + hashlib.sha256(body).hexdigest()
            self.server.blobs[repository, digest] = body
            self._answer(201, Docker_Content_Digest=digest)
        elif (query.get("from", [""])[0], mount) in self.server.blobs:
            self.server.blobs[repository, mount] = self.server.blobs[query["from"][0], mount]
            self._answer(201, Docker_Content_Digest=mount)
        else:
            self._answer(202, Location=f"/v2/{repository}/blobs/uploads/1")

    def _manifest(self, repository, name, body):
        tags = self.server.tags.setdefault(repository, {})
        manifests = self.server.manifests.setdefault(repository, {})
        if self.command == "PUT":
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            manifests[digest] = (body, self.headers["Content-Type"])
            if ":" not in name:
                tags[name] = digest
            self._answer(201, Docker_Content_Digest=digest)
            return
        digest = name if ":" in name else tags.get(name)
        if digest not in manifests:
            self._missing("MANIFEST_UNKNOWN")
        elif self.command == "DELETE" and ":" not in name:
            del tags[name]
            self._answer(202)
        elif self.command == "DELETE":
            del manifests[digest]
            self.server.tags[repository] = {t: d for t, d in tags.items() if d != digest}
            self._answer(202)
        else:
            content, media_type = manifests[digest]
            self._answer(200, content, Content_Type=media_type, Docker_Content_Digest=digest)


class TagRegistry(ThreadingHTTPServer):
    """The registry; `log` holds (method, path, status) of each request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.tags, self.manifests, self.blobs, self.log = {}, {}, {}, []
        self.host = f"127.0.0.1:{self.server_port}"


@pytest.fixture
def tag_registry():
    with TagRegistry() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(tmp_path):
    with RegistryClient(Settings(), config=DockerConfig(tmp_path / "config.json")) as client:
        yield client


@pytest.fixture
def stage_tasks(client):
    return StageTasks(client, MemorySharedState())


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch):
    """The two looks at a probe follow each other at once, and what is found of one was left."""
    monkeypatch.setattr(deletion_probe, "SECOND_LOOK_SECONDS", 0)
    monkeypatch.setattr(deletion_probe, "UNDER_WAY_SECONDS", 0)
