"""Whatever a registry answers, a client gives what it was asked for, or one of our errors."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import traceback
from itertools import islice

import pytest
import requests
import urllib3
from hypothesis import HealthCheck, given, settings, strategies as st
from requests.structures import CaseInsensitiveDict

from stagefleet.credentials import DockerConfig, Login
from stagefleet.errors import CredentialsError, RegistryError, StagefleetError, UsageError
from stagefleet.manifests import Manifest
from stagefleet.names import Reference, Repository
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.error_mapping import map_body_errors
from stagefleet.registry.upload_sessions import Upload
from stagefleet.settings import HttpSettings, Settings
from tests.services.registry import copy_blob
from tests.unit.registry.hostile import ANSWERS, BLOB, CONTENT, MANIFEST, OTHER, REPOSITORY, TAG
from tests.unit.registry.raw import RawServer

MANY_REQUESTS = 400
EXAMPLES = int(os.environ.get("STAGEFLEET_TEST_EXAMPLES", "15"))
"""For each method; raise it in the environment to try harder."""


class Config(DockerConfig):
    """A configuration with a login for everybody."""

    def login(self, host: str, path: str = "") -> Login | None:
        return Login("ann", "hunter2")


def make_client(answers, folder):
    """A client whose every request is answered by the next of some answers, and the last over again."""
    http = HttpSettings(
        retries=2, backoff_seconds=0.001, backoff_limit_seconds=0.001, retry_after_limit_seconds=1
    )
    client = RegistryClient(Settings(http=http), config=Config(folder / "config.json"))
    left, asked = list(answers), []

    def send(method, url, *_, **__):
        asked.append((method, url))
        assert len(asked) < MANY_REQUESTS, "it goes on and on"
        status, headers, body = left.pop(0) if len(left) > 1 else left[0]
        response = requests.Response()
        response.status_code, response.url = status, url
        response.headers = CaseInsensitiveDict(headers)
        response.raw = urllib3.HTTPResponse(
            io.BytesIO(b"" if method == "HEAD" else body),
            headers=headers,
            status=status,
            preload_content=False,
        )
        return response

    client._transport.send = send  # type: ignore[method-assign]  # the answers are made up
    client._http_client._authorizer._send = send
    client._http_client._sleep = lambda _: None
    return client


def upload_url(client):
    return Upload(REPOSITORY, BLOB.digest, "https://reg.example.com/v2/upload")


METHODS = {
    "ping": lambda client: client.ping(REPOSITORY.host),
    "tags": lambda client: list(islice(client.tags(REPOSITORY), 1000)),
    "head_manifest": lambda client: client.head_manifest(TAG),
    "head_manifest by digest": lambda client: client.head_manifest(Reference.of(REPOSITORY, MANIFEST.digest)),
    "fetch_manifest": lambda client: client.fetch_manifest(TAG),
    "fetch_manifest by digest": lambda client: client.fetch_manifest(
        Reference.of(REPOSITORY, MANIFEST.digest)
    ),
    "put_manifest": lambda client: client.put_manifest(TAG, MANIFEST),
    "delete_manifest": lambda client: client.delete_manifest(TAG),
    "fetch_blob": lambda client: client.fetch_blob(REPOSITORY, BLOB),
    "has_blob": lambda client: client.has_blob(REPOSITORY, BLOB.digest, size=BLOB.size),
    "hash_blob": lambda client: client.hash_blob(REPOSITORY, BLOB),
    "begin_upload": lambda client: client.begin_upload(REPOSITORY, BLOB.digest, mount_from=OTHER),
    "upload_bytes": lambda client: client.upload_bytes(upload_url(client), CONTENT),
    "upload_blob": lambda client: copy_blob(client, OTHER, REPOSITORY, BLOB, mount_from=REPOSITORY),
}


def assert_ours(call):
    """Make a call: what it raises is typed, and no wrong use of ours, but for the login that is refused."""
    error = None
    try:
        call()
    except StagefleetError as caught:
        error = caught
    assert isinstance(error, CredentialsError) or not isinstance(error, UsageError)
    assert len(str(error)) < 2000
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("method", METHODS)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=5))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_answer_gives_a_result_or_one_of_our_errors(method, answers, tmp_path):
    """R30: no method of the client raises anything untyped, or goes on for ever, whatever is answered."""
    assert_ours(lambda: METHODS[method](make_client(answers, tmp_path)))


@given(answer=ANSWERS)
@settings(max_examples=2 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_answer_of_a_token_server_gives_a_token_or_one_of_our_errors(answer, tmp_path):
    """R30: the same of the token server's answers."""
    challenge = {"WWW-Authenticate": 'Bearer realm="https://tokens.example.com/t"'}
    answers = [(401, challenge, b""), answer, (200, {}, b'{"tags": []}')]
    assert_ours(lambda: list(make_client(answers, tmp_path).tags(REPOSITORY)))


@pytest.mark.parametrize(
    "cause",
    [
        ValueError("planted-text"),
        TypeError("planted-text"),
        KeyError("planted-text"),
        OverflowError("planted-text"),
        RecursionError("planted-text"),
        AttributeError("planted-text"),
        UnicodeDecodeError("ascii", b"planted-text", 0, 1, "planted-text"),
    ],
)
def test_the_border_makes_one_typed_error_of_whatever_reading_an_answer_raises(cause):
    """R30: the error says who answered what, and nothing of what could not be read."""
    with (
        pytest.raises(RegistryError, match=r"reg answered GET with what makes no sense") as caught,
        map_body_errors("GET", "reg", "reg/app", "reg/app:one"),
    ):
        raise cause
    assert not caught.value.retryable
    assert "planted-text" not in "".join(traceback.format_exception(caught.value)).replace(
        '("planted-text")', ""
    )


@pytest.mark.parametrize("size", [-1, True, 1.5, "7", None, 2**49, 10**30, sys.maxsize + 1])
def test_a_size_that_cannot_be_is_refused_where_it_is_read(size):
    """R30: sizes of descriptors are whole numbers that a blob can have."""
    document = json.loads(MANIFEST.raw)
    document["config"]["size"] = size
    with pytest.raises(StagefleetError, match="size"):
        Manifest.parse(json.dumps(document).encode())


def test_annotations_are_texts():
    """R30: what else stands there is left out: nobody would know what to do with it."""
    document = json.loads(MANIFEST.raw) | {"annotations": {"a": "b", "c": 7, "d": {"e": "f"}, "g": None}}

    assert {"a": "b"} == Manifest.parse(json.dumps(document).encode()).annotations


MANGLED = {
    "nothing": b"",
    "blank": b"\r\n",
    "garbage": b"garbage\r\n\r\n",
    "no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "long status": b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n",
    "other version": b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=next\r\n\r\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\n{}",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "long length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n{}",
    "no chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "long chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\n",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}",
    "packed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "controls": b"HTTP/1.1 307 \x1b[31m\r\nLocation: \x00\x1b\r\nContent-Length: 0\r\n\r\n",
    "folded": b"HTTP/1.1 307 x\r\nLocation: http://127.0.0.1\r\n :1/\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", MANGLED.values(), ids=MANGLED)
def test_what_is_no_http_is_one_of_our_errors(answer, tmp_path):
    """R30: bytes that no HTTP server would send, on a real connection."""

    def serve(_, connection):
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    with RawServer(serve).running() as server:
        repository = Repository.parse(f"{server.host}/group/app")
        http = HttpSettings(retries=0, read_timeout_seconds=5, backoff_seconds=0.001)
        with RegistryClient(Settings(http=http), config=Config(tmp_path / "config.json")) as client:
            for ask in (
                lambda: list(client.tags(repository)),
                lambda: client.fetch_manifest(repository.tagged("one")),
                lambda: client.fetch_blob(repository, BLOB),
                lambda: client.put_manifest(repository.tagged("one"), MANIFEST),
                lambda: client.begin_upload(repository, BLOB.digest, mount_from=None),
            ):
                assert_ours(ask)
