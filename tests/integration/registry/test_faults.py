"""Registries that freeze, break off, come back or lose what they were sent."""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path

import pytest

from stagefleet.errors import RegistryUnreachableError, TruncatedError
from stagefleet.manifests import Descriptor, digest_of
from tests.services import ImageMaker, free_port, push_image
from tests.services.registry import copy_blob

LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
BLOB_BYTES = 8_000_000
SMALL_TIMEOUT_SECONDS = 0.3


@pytest.fixture
def content():
    return os.urandom(BLOB_BYTES)


@pytest.fixture
def descriptor(registry, content):
    with ImageMaker(registry) as maker:
        maker.push_blob("team/app", content)
    return Descriptor(LAYER, digest_of(content), len(content))


@pytest.fixture
def destination(make_registry):
    return make_registry()


def stored(repository, descriptor):
    with ImageMaker(repository.host) as maker:
        return maker.blob(repository.path, str(descriptor.digest))


def gets_of_blobs(registry):
    return [r for r in registry.requests() if r.method == "GET" and "/blobs/" in r.path]


def test_a_frozen_registry_is_given_up_after_the_time_out_and_its_retries(registry, connect, at):
    push_image(registry, "team/app", "one")
    client = connect(read_timeout_seconds=SMALL_TIMEOUT_SECONDS, retries=1)
    registry.pause()
    with pytest.raises(RegistryUnreachableError, match="time-out"):
        client.head_manifest(at(registry).tagged("one"))


def test_a_registry_that_thaws_while_it_is_tried_again_answers(registry, connect, at, cleanup):
    push_image(registry, "team/app", "one")
    client = connect(read_timeout_seconds=SMALL_TIMEOUT_SECONDS, retries=20)
    registry.pause()
    timer = threading.Timer(2 * SMALL_TIMEOUT_SECONDS, registry.resume)
    timer.start()
    cleanup.callback(timer.join)
    client.head_manifest(at(registry).tagged("one"))


def test_a_blob_that_falls_silent_in_the_middle_is_given_up(registry, connect, make_proxy, at, descriptor):
    proxy = make_proxy(registry.host)
    client = connect(read_timeout_seconds=SMALL_TIMEOUT_SECONDS, retries=0)
    reader = client.open_blob(at(proxy), descriptor)
    assert reader.read(1000)
    proxy.blackhole(on=True)
    with reader, pytest.raises(TruncatedError, match="time-out"):
        deque(iter(lambda: reader.read(100_000), b""), maxlen=0)


def test_a_port_where_nobody_listens_is_said_after_its_retries(connect):
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(RegistryUnreachableError, match=f"{host} does not answer .*connection refused"):
        connect(retries=2).ping(host)


def test_a_registry_that_restarts_between_requests_is_not_noticed(registry, client, at):
    pushed = push_image(registry, "team/app", "one")
    reference = at(registry).tagged("one")
    client.head_manifest(reference)
    registry.stop()
    registry.start()
    assert pushed.digest == str(client.head_manifest(reference).digest)


@pytest.mark.parametrize("parts", [2, 5])
def test_a_source_that_breaks_off_is_resumed_where_it_stopped(
    registry, destination, make_proxy, client, at, descriptor, content, parts
):
    proxy = make_proxy(registry.host)
    source, target = at(proxy), at(destination)
    piece = BLOB_BYTES // parts
    proxy.cut_after(piece)
    seen, cuts = 0, 1

    def count(sent):
        nonlocal seen, cuts
        seen += sent
        if seen >= cuts * piece and cuts < parts - 1:
            cuts += 1
            proxy.cut_after(piece)

    registry.forget_requests()
    copy_blob(client, source, target, descriptor, mount_from=target, on_bytes=count)
    assert content == stored(target, descriptor)
    assert BLOB_BYTES == seen
    answered = gets_of_blobs(registry)
    assert 2 <= len(answered) <= parts + 1
    assert {206} == {request.status for request in answered} - {200}


def test_a_destination_that_breaks_off_gets_the_blob_again(
    registry, destination, make_proxy, client, at, descriptor, content
):
    proxy = make_proxy(destination.host)
    target = at(proxy)
    proxy.cut_after(BLOB_BYTES // 2)
    assert BLOB_BYTES == copy_blob(client, at(registry), target, descriptor, mount_from=target)
    assert content == stored(at(destination), descriptor)


def test_an_upload_that_the_destination_forgot_begins_anew(
    registry, destination, client, at, descriptor, content
):
    """Its folder is emptied under it, as by a restart of one that keeps uploads in memory."""
    target = at(destination)
    lost: list[Path] = []

    def lose(_):
        if not lost:
            lost.append(destination.root)
            uploads = destination.root / "docker/registry/v2/repositories/team/app/_uploads"
            for file in uploads.rglob("startedat"):
                file.unlink()

    assert BLOB_BYTES == copy_blob(client, at(registry), target, descriptor, mount_from=target, on_bytes=lose)
    assert content == stored(target, descriptor)


def test_a_destination_that_restarts_in_the_middle_gets_the_blob(
    registry, destination, client, at, descriptor, content
):
    target = at(destination)
    restarted: list[int] = []

    def restart(_):
        if not restarted:
            restarted.append(destination.pid)
            destination.stop()
            destination.start()

    copy_blob(client, at(registry), target, descriptor, mount_from=target, on_bytes=restart)
    assert content == stored(target, descriptor)
    assert restarted != [destination.pid]


def test_a_source_that_is_gone_in_the_middle_is_given_up_after_its_retries(
    registry, destination, client, at, descriptor
):
    target = at(destination)
    with pytest.raises(TruncatedError, match=r"broke off at byte \d+ of 8000000.*does not answer"):
        copy_blob(
            client, at(registry), target, descriptor, mount_from=target, on_bytes=lambda _: registry.stop()
        )
    assert stored(target, descriptor) is None
