"""Blobs that come in parts nobody asked for, and registries that know no HEAD for blobs."""

from __future__ import annotations

import re

import pytest

from stagefleet.errors import DigestMismatchError, ForbiddenError, RegistryUnavailableError, TruncatedError
from stagefleet.manifests import Descriptor, digest_of
from tests.unit.registry.asking import BLOB, CONTENT
from tests.unit.registry.scripted import RegistryResponse

LARGE = bytes(range(256)) * 1024
LARGE_BLOB = Descriptor("application/x", digest_of(LARGE), len(LARGE))


def parts_of(content, most, *, total=None):
    """Make a store that sends no more than so many bytes at once, always as a part."""

    def script(asked):
        start = int(re.sub(r"\D", "", asked.headers.get("Range", "0")))
        body = content[start : start + most]
        size = len(content) if total is None else total
        return RegistryResponse(206, body, {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{size}"})

    return script


def test_the_whole_may_come_as_a_part(serve, client, repository_at):
    """Kind of x6 (rust-lang/cargo #8647): CDNs answer 206 to who asked for no range."""
    server = serve(parts_of(CONTENT, len(CONTENT)))
    assert CONTENT == client.fetch_blob(repository_at(server), BLOB)
    assert 1 == len(server.asked)


@pytest.mark.parametrize("total", [None, "*"])
def test_parts_that_are_shorter_than_asked_for_are_followed_by_others(
    serve, client, repository_at, naps, total
):
    """RFC 9110, 15.3.7: a server may send less; nothing broke off, so nothing is waited for."""
    server = serve(parts_of(LARGE, 10_000, total=total))
    with client.open_blob(repository_at(server), LARGE_BLOB) as reader:
        assert LARGE == b"".join(iter(reader.read, b""))
    assert ([], 27) == (naps, len(server.asked))


def test_a_part_of_something_larger_is_another_blob(serve, client, repository_at):
    server = serve(parts_of(CONTENT, 10, total=len(CONTENT) + 1))
    with pytest.raises(DigestMismatchError):
        client.fetch_blob(repository_at(server), BLOB)


@pytest.mark.parametrize("told", ["", "bytes 1-2/3", "bytes 9-0/3", "items 0-1/2"])
def test_a_part_that_is_not_the_beginning_is_an_error(serve, client, repository_at, told):
    server = serve(lambda _: RegistryResponse(206, CONTENT, {"Content-Range": told}))
    with pytest.raises(TruncatedError, match="another range"):
        client.fetch_blob(repository_at(server), BLOB)


def without_head(status, get):
    return lambda asked: RegistryResponse(status) if asked.method == "HEAD" else get


FIRST_BYTE = RegistryResponse(206, CONTENT[:1], {"Content-Range": f"bytes 0-0/{len(CONTENT)}"})


@pytest.mark.parametrize("status", [400, 403, 405, 501])
@pytest.mark.parametrize(
    ("get", "is_there"),
    [
        (FIRST_BYTE, True),
        (RegistryResponse(200, CONTENT), True),
        (RegistryResponse(416), True),
        (RegistryResponse(404), False),
    ],
    ids=["first-byte", "whole", "empty", "absent"],
)
def test_where_head_is_refused_the_first_byte_is_asked_for(
    serve, client, repository_at, status, get, is_there
):
    """Kind of R21 (containerd/containerd #6684): as for manifests, a GET decides."""
    server = serve(without_head(status, get))
    assert is_there == client.has_blob(repository_at(server), BLOB.digest, size=BLOB.size)
    assert "bytes=0-0" == server.asked[-1].headers["Range"]


def test_a_first_byte_tells_the_size_as_well(serve, client, repository_at):
    server = serve(without_head(405, FIRST_BYTE))
    with pytest.raises(DigestMismatchError, match="bytes, its manifest 7"):
        client.has_blob(repository_at(server), BLOB.digest, size=7)


def test_who_may_read_nothing_is_told_so(serve, client, repository_at):
    server = serve(lambda _: RegistryResponse(403))
    with pytest.raises(ForbiddenError, match="GET answered 403"):
        client.has_blob(repository_at(server), BLOB.digest)


@pytest.mark.parametrize("size", [None, BLOB.size])
def test_a_page_in_answer_to_a_head_is_no_blob(serve, client, repository_at, size):
    """Some frameworks call everything HTML, and portals answer everything with it: a GET decides."""
    html = {"Content-Type": "text/html"}
    page = RegistryResponse(200, headers=html)
    server = serve(lambda asked: page if asked.method == "HEAD" else FIRST_BYTE)
    assert client.has_blob(repository_at(server), BLOB.digest, size=size)

    server.script = lambda _: RegistryResponse(200, b"<html>", html)
    with pytest.raises(RegistryUnavailableError):
        client.has_blob(repository_at(server), BLOB.digest, size=size)
