"""Tags, manifests and blobs as a real registry has them: how many requests, threads and bytes it takes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagefleet.errors import NotFoundError
from stagefleet.manifests import Descriptor, digest_of
from stagefleet.names import Digest, Reference
from tests.services import ImageMaker
from tests.services.registry import copy_blob

LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
TAGS = 3000
THREADS = 32
HUGE_BYTES = 300_000_000
PEAK_BYTES = 10_000_000


@pytest.fixture
def destination(make_registry):
    return make_registry()


def test_thousands_of_tags_are_listed(registry, client, at):
    """Their links are written into the registry's folder: a PUT each would take a minute."""
    with ImageMaker(registry) as maker:
        pushed = maker.push_image("team/app", "tag-0")
    tags = registry.root / "docker/registry/v2/repositories/team/app/_manifests/tags"
    for number in range(1, TAGS):
        (tags / f"tag-{number}/current").mkdir(parents=True)
        (tags / f"tag-{number}/current/link").write_text(pushed.digest)
    assert {f"tag-{number}" for number in range(TAGS)} == set(client.tags(at(registry)))
    assert pushed.digest == str(client.head_manifest(at(registry).tagged(f"tag-{TAGS - 1}")).digest)


def test_a_repository_that_does_not_exist_is_told_from_one_without_tags(registry, client, at):
    with ImageMaker(registry) as maker:
        pushed = maker.push_image("team/app", "one")
    reference = Reference.of(at(registry), Digest.parse(pushed.digest))
    client.delete_manifest(reference)
    assert [] == list(client.tags(at(registry)))
    with pytest.raises(NotFoundError) as caught:
        list(client.tags(at(registry, "no/such")))
    assert ("GET", 404, ("NAME_UNKNOWN",)) == (caught.value.method, caught.value.status, caught.value.codes)
    with pytest.raises(NotFoundError):
        client.delete_manifest(reference)


@pytest.mark.parametrize("oci", [False, True])
def test_manifests_and_indexes_pass_byte_for_byte(registry, destination, client, at, oci):
    with ImageMaker(registry) as maker:
        members = [
            maker.push_image("team/app", None, oci=oci, platform={"os": "linux", "architecture": arch})
            for arch in ("amd64", "arm64")
        ]
        index = maker.push_index("team/app", "all", members, oci=oci)
    source, target = at(registry), at(destination)
    found = client.fetch_manifest(source.tagged("all"))
    assert (index.manifest, index.media_type, True) == (found.raw, found.media_type, found.is_index)
    assert [member.digest for member in members] == [str(member.digest) for member in found.members]
    for member in found.members:
        manifest = client.fetch_manifest(Reference.of(source, member.digest))
        assert manifest.config is not None
        for blob in (*manifest.layers, manifest.config):
            copy_blob(client, source, target, blob, mount_from=target)
        client.put_manifest(Reference.of(target, member.digest), manifest)
    client.put_manifest(target.tagged("all"), found)
    with ImageMaker(destination) as maker:
        assert index.manifest == maker.manifest("team/app", "all")
    assert index.digest == str(client.head_manifest(target.tagged("all")).digest)


def test_a_stage_takes_eight_requests_and_a_blob_that_is_there_one(registry, destination, client, at):
    with ImageMaker(registry) as maker:
        maker.push_image("team/app", "one", layers=[b"layer"])
    source, target = at(registry), at(destination)
    registry.forget_requests()
    manifest = client.fetch_manifest(source.tagged("one"))
    assert manifest.config is not None
    config = client.fetch_blob(source, manifest.config)
    (layer,) = manifest.layers
    assert 5 == copy_blob(client, source, target, layer, mount_from=target)
    upload = client.begin_upload(target, manifest.config.digest, mount_from=target)
    assert upload is not None
    client.upload_bytes(upload, config)
    client.put_manifest(target.tagged("one"), manifest)
    assert ["GET"] * 3 == [request.method for request in registry.requests()]
    assert ["POST", "PUT"] * 2 + ["PUT"] == [request.method for request in destination.requests()]
    destination.forget_requests()
    assert 0 == copy_blob(client, source, target, layer, mount_from=target)
    assert [("POST", 201)] == [(request.method, request.status) for request in destination.requests()]


def test_many_threads_share_one_client(registry, destination, client, at):
    contents = [os.urandom(50_000) for _ in range(THREADS)]
    with ImageMaker(registry) as maker:
        for content in contents:
            maker.push_blob("team/app", content)
    source, target = at(registry), at(destination)
    blobs = [Descriptor(LAYER, digest_of(content), len(content)) for content in contents]
    with ThreadPoolExecutor(THREADS) as pool:
        sent = list(pool.map(lambda blob: copy_blob(client, source, target, blob, mount_from=target), blobs))
    assert [50_000] * THREADS == sent
    with ImageMaker(destination) as maker:
        assert contents == [maker.blob("team/app", str(blob.digest)) for blob in blobs]
    assert {200, 201, 202} == {request.status for request in destination.requests()}


_COPY = """
import re, sys
from pathlib import Path
from stagefleet.names import Digest, Repository
from stagefleet.credentials import DockerConfig
from stagefleet.manifests import Descriptor
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import Settings

def peak_bytes():
    # Of this program alone: getrusage(2) counts what the one that started it had before exec.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

source, target, digest, size = sys.argv[1:]
descriptor = Descriptor("", Digest.parse(digest), int(size))
with RegistryClient(Settings(), config=DockerConfig(Path("none"))) as client:
    here, there = Repository.parse(source), Repository.parse(target)
    client.ping(here.host)
    before = peak_bytes()
    sent = client.upload_blob(
        there, descriptor, lambda: client.open_blob(here, descriptor), mount_from=there
    )
    assert sent == descriptor.size
    print(peak_bytes() - before)
"""


def place_huge_blob(root):
    """A blob of zeros, put into the registry's folder as a file with a hole: nothing has to be sent."""
    checksum = hashlib.sha256()
    for _ in range(HUGE_BYTES // 1_000_000):
        checksum.update(bytes(1_000_000))
    name = checksum.hexdigest()
    data = root / f"blobs/sha256/{name[:2]}/{name}/data"
    link = root / f"repositories/team/app/_layers/sha256/{name}/link"
    data.parent.mkdir(parents=True)
    link.parent.mkdir(parents=True)
    with data.open("wb") as file:
        file.truncate(HUGE_BYTES)
    link.write_text(f"sha256:{name}")
    return f"sha256:{name}"


def test_a_huge_blob_takes_no_more_memory_than_its_buffers(registry, destination, at, tmp_path):
    digest = place_huge_blob(registry.root / "docker/registry/v2")
    arguments = [str(at(registry)), str(at(destination)), digest, str(HUGE_BYTES)]
    done = subprocess.run(
        [sys.executable, "-c", _COPY, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
    )
    assert PEAK_BYTES > int(done.stdout), done.stdout
