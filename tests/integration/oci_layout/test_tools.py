"""skopeo, crane and regctl read what we wrote, and we read what they wrote."""

from __future__ import annotations

import gzip
import json
import os
import tarfile

import pytest

from stagefleet.names import StageId

REPOSITORY = "team/app"
TAG = str(StageId("a" * 56, 1_700_000_000_000))
OTHER_TAG = str(StageId("b" * 56, 1_700_000_000_001))
INDEX_TAG = "c" * 56


def packed(content):
    """A layer that no tool packs once more."""
    return gzip.compress(content, mtime=0)


SHARED = packed(b"shared")


@pytest.fixture
def pushed(maker):
    return maker.push_image(REPOSITORY, TAG, oci=True, layers=[SHARED, packed(os.urandom(300_000))])


@pytest.fixture
def other(maker):
    return maker.push_image(REPOSITORY, OTHER_TAG, oci=True, layers=[SHARED, packed(b"own")])


@pytest.fixture
def index(maker):
    members = [
        maker.push_image(
            REPOSITORY,
            None,
            oci=True,
            layers=[packed(name.encode())],
            platform={"os": "linux", "architecture": name},
        )
        for name in ("amd64", "arm64")
    ]
    return maker.push_index(REPOSITORY, INDEX_TAG, members)


def at(pushed):
    return f"{pushed.host}/{pushed.repository}:{pushed.tag}"


def repository_of(pushed):
    return f"{pushed.host}/{pushed.repository}"


class TestSkopeo:
    def test_we_read_what_it_wrote(self, skopeo, layouts, path, maker, pushed, other, index):
        for one in (pushed, other):
            skopeo("copy", f"docker://{at(one)}", f"oci:{path}:{one.tag}")
        skopeo("copy", "--all", f"docker://{at(index)}", f"oci:{path}:{index.tag}")
        assert [TAG, OTHER_TAG, INDEX_TAG] == layouts.tags(path)
        for one in (pushed, other, index):
            assert one.digest == layouts.read_whole(path, one.tag)
            layouts.copy(path, f"{one.host}/copied/app", one.tag)
            assert one.digest == maker.digest("copied/app", one.tag)

    def test_we_read_its_archive(self, skopeo, layouts, tmp_path, maker, pushed):
        archive = tmp_path / "layout.tar"
        skopeo("copy", f"docker://{at(pushed)}", f"oci-archive:{archive}:{TAG}")
        assert [TAG] == layouts.tags(archive)
        assert pushed.digest == layouts.read_whole(archive, TAG)
        layouts.copy(archive, f"{pushed.host}/copied/app", TAG)
        assert pushed.digest == maker.digest("copied/app", TAG)

    def test_it_reads_what_we_wrote(self, skopeo, layouts, path, maker, pushed, other, index):
        for one in (pushed, other, index):
            layouts.copy(repository_of(one), path, one.tag)
        for one in (pushed, other):
            assert json.loads(skopeo("inspect", f"oci:{path}:{one.tag}"))["Digest"] == one.digest
        for one in (pushed, other, index):
            skopeo("copy", "--all", f"oci:{path}:{one.tag}", f"docker://{one.host}/copied/app:{one.tag}")
            assert one.digest == maker.digest("copied/app", one.tag)

    def test_it_reads_a_tar_file_of_what_we_wrote(self, skopeo, layouts, path, tmp_path, maker, pushed):
        layouts.copy(repository_of(pushed), path, TAG)
        archive = tmp_path / "layout.tar"
        with tarfile.open(archive, "w") as file:
            file.add(path, arcname="")
        skopeo("copy", f"oci-archive:{archive}:{TAG}", f"docker://{pushed.host}/copied/app:{TAG}")
        assert pushed.digest == maker.digest("copied/app", TAG)
        assert pushed.digest == layouts.read_whole(archive, TAG)

    def test_both_write_into_one_layout(self, skopeo, layouts, path, maker, pushed, other):
        skopeo("copy", f"docker://{at(pushed)}", f"oci:{path}:{TAG}")
        layouts.copy(repository_of(other), path, OTHER_TAG)
        skopeo("copy", f"docker://{at(other)}", f"oci:{path}:{TAG}")  # the same tag again
        assert [TAG, OTHER_TAG] == layouts.tags(path)
        assert other.digest == layouts.read_whole(path, TAG)
        skopeo("copy", f"oci:{path}:{OTHER_TAG}", f"docker://{other.host}/copied/app:{OTHER_TAG}")
        layouts.delete(path, OTHER_TAG)
        assert json.loads(skopeo("inspect", f"oci:{path}:{TAG}"))["Digest"] == other.digest
        layouts.delete(path, TAG)  # skopeo left the first image of the tag without a name
        assert pushed.digest in {f"sha256:{blob.name}" for blob in path.glob("blobs/sha256/*")}
        assert [] == layouts.tags(path)


class TestCrane:
    def test_we_read_what_it_wrote(self, crane, layouts, path, pushed, index):
        crane("pull", "--insecure", "--format=oci", "--annotate-ref", at(pushed), path)
        crane("pull", "--insecure", "--format=oci", "--annotate-ref", at(index), path)
        assert [TAG, INDEX_TAG] == layouts.tags(path)
        for one in (pushed, index):
            assert one.digest == layouts.read_whole(path, one.tag)

    def test_it_reads_what_we_wrote(self, crane, layouts, path, maker, pushed):
        layouts.copy(repository_of(pushed), path, TAG)
        crane("push", "--insecure", path, f"{pushed.host}/copied/app:{TAG}")
        assert pushed.digest == maker.digest("copied/app", TAG)


class TestRegctl:
    @pytest.fixture(autouse=True)
    def _plain(self, regctl, registry):
        regctl("registry", "set", "--tls", "disabled", registry.host)

    def test_we_read_what_it_wrote(self, regctl, layouts, path, pushed, other, index):
        for one in (pushed, other, index):
            regctl("image", "copy", at(one), f"ocidir://{path}:{one.tag}")
        assert [TAG, OTHER_TAG, INDEX_TAG] == layouts.tags(path)
        for one in (pushed, other, index):
            assert one.digest == layouts.read_whole(path, one.tag)

    def test_it_reads_what_we_wrote(self, regctl, layouts, path, maker, pushed, index):
        """Also an image of Docker's types, of which skopeo sees no tag in a layout."""
        docker = maker.push_image(REPOSITORY, OTHER_TAG)
        for one in (pushed, docker, index):
            layouts.copy(repository_of(one), path, one.tag)
        assert {TAG, OTHER_TAG, INDEX_TAG} == set(regctl("tag", "ls", f"ocidir://{path}").split())
        for one in (pushed, docker, index):
            regctl("image", "copy", f"ocidir://{path}:{one.tag}", f"{one.host}/copied/app:{one.tag}")
            assert one.digest == maker.digest("copied/app", one.tag)

    def test_an_artifact_that_it_wrote_keeps_its_subject(self, regctl, layouts, path, tmp_path, pushed):
        regctl("image", "copy", at(pushed), f"ocidir://{path}:{TAG}")
        (tmp_path / "sbom").write_text("sbom")
        kind, subject = "application/x.sbom", f"ocidir://{path}:{TAG}"
        regctl("artifact", "put", "--artifact-type", kind, "-f", tmp_path / "sbom", "--subject", subject)
        layouts.delete(path, TAG)
        assert [] == layouts.tags(path)
        assert (path / "blobs/sha256" / pushed.digest.partition(":")[2]).exists()
