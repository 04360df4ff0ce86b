"""Large blobs whose upload breaks off: each release of distribution gets what it can go on with."""

from __future__ import annotations

import os
from contextlib import nullcontext

import pytest

from stagefleet.errors import RegistryUnavailableError, RegistryUnreachableError
from stagefleet.manifests import Descriptor, digest_of
from stagefleet.names import Repository
from stagefleet.registry.upload_sessions import RESUMED_BYTES, SessionStore
from tests.services import Answer, ImageMaker, RegistryFront, TcpProxy
from tests.services.registry import built_registry

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SIZE = 3 * RESUMED_BYTES
CUT = 2 * RESUMED_BYTES
LOST = RESUMED_BYTES
"""What may be under way when the connection is reset, in the buffers of the kernel, is less."""


@pytest.fixture(scope="module")
def content():
    return os.urandom(SIZE)


@pytest.fixture
def blob(registry, content):
    with ImageMaker(registry) as maker:
        maker.push_blob("team/app", content)
    return Descriptor(LAYER, digest_of(content), SIZE)


@pytest.fixture
def start_release(make_registry, cleanup):
    """Starts a release of distribution, and a proxy before it."""

    def start(release):
        binary = built_registry() if release > 2 else None
        if release > 2 and binary is None:
            pytest.skip("distribution 3 is not built here")
        server = make_registry(binary=binary)
        return server, cleanup.enter_context(TcpProxy(server.host))

    return start


class Kept(dict[str, str]):
    """What attempts keep of sessions."""

    @property
    def store(self):
        return SessionStore(lambda: self.pop("address", None), lambda address: self.update(address=address))


def upload(client, source, proxy, blob, kept):
    destination = Repository(proxy.host, "team/app")
    return client.upload_blob(
        destination,
        blob,
        lambda: client.open_blob(source, blob),
        mount_from=destination,
        sessions=kept.store,
    )


def sessions_of(server):
    return list(server.root.rglob("_uploads/*/startedat"))


@pytest.mark.parametrize("release", [2, 3])
def test_an_interrupted_upload_goes_on_where_it_can(
    registry, connect, at, blob, content, start_release, release
):
    server, proxy = start_release(release)
    proxy.cut_after(CUT)
    upload(connect(retries=3), at(registry), proxy, blob, Kept())
    assert (release == 3) == (proxy.passed_bytes < SIZE + LOST), "2.8 has dropped it, and gets all again"
    with ImageMaker(server) as maker:
        assert content == maker.blob("team/app", str(blob.digest))


@pytest.mark.parametrize("release", [2, 3])
def test_another_client_goes_on_where_it_can(registry, connect, at, blob, content, start_release, release):
    server, proxy = start_release(release)
    kept = Kept()
    proxy.cut_after(CUT)
    with pytest.raises(RegistryUnreachableError):
        upload(connect(retries=0), at(registry), proxy, blob, kept)
    sent = upload(connect(), at(registry), proxy, blob, kept)
    assert (release == 3) == (sent < SIZE - CUT + LOST)
    with ImageMaker(server) as maker:
        assert content == maker.blob("team/app", str(blob.digest))


@pytest.mark.parametrize("release", [2, 3])
def test_chunks_go_on_from_the_last_that_arrived(
    registry, connect, at, blob, content, start_release, release
):
    """Behind a gateway with limits each chunk is whole: 2.8 goes on from it, too, under the last address."""
    server, _ = start_release(release)
    kept, arrived = Kept(), 2
    with RegistryFront(server.host) as front:

        def break_down(method, _path):
            chunks = [status for name, _, status in front.requests if name == "PATCH"]
            return Answer(502) if method == "PATCH" and len(chunks) >= arrived else None

        front.rule = break_down
        for retries, error in ((0, RegistryUnavailableError), (3, None)):
            client = connect(retries=retries)
            client.upload_facts.lower_body_limit(front.host, None)
            with pytest.raises(error) if error else nullcontext():
                upload(client, at(registry), front, blob, kept)
            front.rule = lambda *_: None
        statuses = [status for name, _, status in front.requests if name == "PATCH"]
    chunk = client.upload_facts.body_limit(front.host)
    assert [202] * arrived + [502] + [202] * (SIZE // chunk - arrived) == statuses
    with ImageMaker(server) as maker:
        assert content == maker.blob("team/app", str(blob.digest))


@pytest.mark.parametrize("release", [2, 3])
def test_an_upload_that_nobody_goes_on_with_is_gone(registry, connect, at, start_release, release):
    """R40."""
    server, proxy = start_release(release)
    client = connect(retries=0)
    session = client.begin_upload(at(proxy), digest_of(b"x"), mount_from=None)
    assert 1 == len(sessions_of(server))
    client.cancel_upload(session)
    assert [] == sessions_of(server)


def test_what_broke_off_and_is_not_resumed_is_gone(connect, at, start_release):
    """R40: distribution 3 wants to be asked where it is first; 2.8 keeps it for a week."""
    server, proxy = start_release(3)
    small = os.urandom(RESUMED_BYTES // 2)
    client = connect(retries=0)
    session = client.begin_upload(at(proxy), digest_of(small), mount_from=None)
    proxy.cut_after(len(small) // 2)
    with pytest.raises(RegistryUnreachableError):
        client.upload_bytes(session, small)
    assert [] == sessions_of(server)
