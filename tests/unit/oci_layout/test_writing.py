"""Stages written into a layout."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagefleet.errors import (
    DigestMismatchError,
    ItemCancelledError,
    LockTimeoutError,
    ManifestRefusedError,
    TruncatedError,
    UsageError,
)
from stagefleet.leases import under_lease
from stagefleet.manifests import OCI_MANIFEST, Manifest
from stagefleet.oci_layout import directory
from stagefleet.oci_layout.directory import IndexChanges, LayoutDirectory
from stagefleet.oci_layout.layout import OciLayout
from tests.unit.oci_layout.conftest import REF_NAME, blobs_of, descriptor_of, entry, image, index


def names_in(path):
    return {found.name for found in path.iterdir()}


def entries_in(path):
    return json.loads((path / "index.json").read_text())["manifests"]


def test_the_first_stage_makes_the_layout(tmp_path):
    path = tmp_path / "new" / "layout"
    stage = image().write(OciLayout(path), "v1")
    assert {"oci-layout", "index.json", "blobs"} == names_in(path)
    assert {"imageLayoutVersion": "1.0.0"} == json.loads((path / "oci-layout").read_text())
    assert {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(stage.descriptor, annotations={REF_NAME: "v1"})],
    } == json.loads((path / "index.json").read_text())
    assert stage.manifest.raw == (path / "blobs/sha256" / stage.manifest.digest.hex).read_bytes()


def test_files_have_the_rights_that_the_user_gives_new_files(layout, path):
    before = os.umask(0o027)
    try:
        image().write(layout, "v1")
    finally:
        os.umask(before)
    assert {0o640} == {stat.S_IMODE(found.stat().st_mode) for found in path.rglob("*") if found.is_file()}


def test_an_empty_directory_becomes_a_layout_and_another_does_not(layout, path):
    path.mkdir()
    (path / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not empty, and no OCI image layout"), layout.writing():
        pass
    assert {"notes.txt"} == names_in(path)
    (path / "notes.txt").unlink()
    image().write(layout, "v1")
    assert ["v1"] == list(layout.tags())


def test_the_same_tag_again_replaces_the_entry(layout, path):
    image("one").write(layout, "v1")
    image("other").write(layout, "v2")
    two = image("two").write(layout, "v1")
    assert ["v2", "v1"] == list(layout.tags())
    assert two.manifest.digest == layout.resolve("v1").digest
    two.write(layout, "v1")
    assert ["v2", "v1"] == list(layout.tags())


def test_a_tag_that_others_wrote_with_its_repository_is_replaced(layout, path):
    one = image("one").write(layout, "old")
    (path / "index.json").write_text(
        json.dumps({"manifests": [entry(one.descriptor, annotations={REF_NAME: "registry.test/app:v1"})]})
    )
    two = image("two").write(layout, "v1")
    assert [entry(two.descriptor, annotations={REF_NAME: "v1"})] == entries_in(path)


def test_what_others_wrote_into_the_index_stays(layout, path):
    one = image("one").write(layout, "v1")
    foreign = [
        {"digest": "blake3:00", "mediaType": "application/x", "size": 1, "x": {"y": [1.0]}},
        entry(one.descriptor, annotations={"a": "b"}, platform={"os": "linux"}, artifactType="x/y"),
    ]
    document = {"schemaVersion": 2, "annotations": {"c": "d"}, "manifests": foreign, "future": {"e": 1}}
    (path / "index.json").write_text(json.dumps(document, indent=3))
    two = image("two").write(layout, "v2")
    document["manifests"] = [*foreign, entry(two.descriptor, annotations={REF_NAME: "v2"})]
    assert document == json.loads((path / "index.json").read_text())


def test_members_of_an_index_have_no_entry(layout, path):
    stage = index(image("arm"), image("amd")).write(layout, "v1")
    assert [stage.manifest.digest] == [layout.resolve("v1").digest]
    assert 1 == len(entries_in(path))
    assert stage.manifest == layout.fetch_manifest(layout.resolve("v1").digest)


def test_a_blob_that_is_there_is_not_read_again(layout):
    content = b"content"
    with layout.writing() as writer:
        assert 7 == writer.write_blob(descriptor_of(content), io.BytesIO(content))
        assert 0 == writer.write_blob(descriptor_of(content), None)


def test_a_blob_of_the_wrong_size_is_written_again(layout, path):
    """As a tool leaves it that was killed."""
    content = b"content"
    with layout.writing() as writer:
        file = path / "blobs/sha256" / descriptor_of(content).digest.hex
        file.parent.mkdir()
        file.write_bytes(b"cont")
        writer.write_blob(descriptor_of(content), io.BytesIO(content))
    assert content == file.read_bytes()


@pytest.mark.parametrize("sent", [b"", b"conten", b"contenT", b"content and more"])
def test_other_content_than_its_digest_says_is_not_kept(layout, path, sent):
    with layout.writing() as writer, pytest.raises(DigestMismatchError, match="was sent other content"):
        writer.write_blob(descriptor_of(b"content"), io.BytesIO(sent))
    assert set() == blobs_of(path)
    assert {"oci-layout", "index.json", "blobs"} == names_in(path)


def test_a_source_without_an_end_is_left_at_the_size(layout):
    class Endless:
        bytes_read = 0

        def read(self, size):
            self.bytes_read += size
            return bytes(size)

    source = Endless()
    with layout.writing() as writer, pytest.raises(DigestMismatchError):
        writer.write_blob(descriptor_of(b"content"), source)
    assert 2**21 > source.bytes_read


def test_a_source_that_breaks_off_leaves_nothing(layout, path):
    class Broken:
        def read(self, _size):
            raise TruncatedError("broke off")

    with pytest.raises(TruncatedError), layout.writing() as writer:
        writer.write_blob(descriptor_of(b"content"), Broken())
    assert {"oci-layout", "index.json", "blobs"} == names_in(path)


def test_a_manifest_whose_blobs_are_missing_is_refused(layout):
    stage = image()
    with layout.writing() as writer, pytest.raises(ManifestRefusedError, match="lacks 3 blobs") as caught:
        writer.put_manifest(stage.manifest, "v1")
    assert tuple(str(blob.digest) for blob in stage.blobs) == caught.value.missing
    assert [] == list(layout.tags())


def test_a_layer_that_nobody_may_distribute_can_be_missing(layout):
    config = descriptor_of(b"{}")
    foreign = entry(descriptor_of(b"x", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"))
    manifest = Manifest.of(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry(config), "layers": [foreign]}
    )
    with layout.writing() as writer:
        writer.write_blob(config, io.BytesIO(b"{}"))
        writer.put_manifest(manifest, "v1")
    assert ["v1"] == list(layout.tags())


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "no space left on device: free some space"), (errno.EIO, "check the file system")],
)
def test_a_full_disk_is_told_in_one_line(layout, path, monkeypatch, number, text):
    image().write(layout, "v1")

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UsageError, match=text) as caught:
        image("other").write(layout, "v2")
    assert "\n" not in str(caught.value)
    assert ["v1"] == list(layout.tags())
    assert {"oci-layout", "index.json", "blobs"} == names_in(path)


def test_what_a_full_disk_refuses_leaves_no_file(layout, path):
    """The content fits into the buffer of a file, and is written when that is flushed or closed."""
    image().write(layout, "v1")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(UsageError, match="file too large"):
            image("other").write(layout, "v2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {"oci-layout", "index.json", "blobs"} == names_in(path)


def test_a_directory_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "/srv/layout")

    monkeypatch.setattr("os.mkdir", refuse)
    with pytest.raises(UsageError, match="/srv/layout: permission denied: give this user the right to it"):
        image().write(OciLayout(tmp_path / "x"), "v1")


def test_nothing_is_written_through_a_link_out_of_the_layout(layout, path, tmp_path):
    image().write(layout, "v1")
    (path / "blobs/sha256").rename(tmp_path / "elsewhere")
    (path / "blobs/sha256").symlink_to(tmp_path / "elsewhere")
    before = blobs_of(path)
    for write in (lambda: image("two").write(layout, "v2"), lambda: layout.delete("v1")):
        with pytest.raises(UsageError, match="blobs/sha256 leads out of the layout"):
            write()
    assert before == blobs_of(path)


def test_many_writers_at_once_lose_nothing(layout, path):
    def write(number):
        image(f"stage {number}").write(OciLayout(path), f"v{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert {f"v{number}" for number in range(40)} == set(layout.tags())
    assert 40 == len(entries_in(path))


def test_writers_that_make_a_layout_at_once_make_one(tmp_path):
    for attempt in range(10):
        path, start = tmp_path / str(attempt), threading.Barrier(4)

        def write(number, path=path, start=start):
            start.wait()
            image(f"stage {number}").write(OciLayout(path), f"v{number}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert {"v0", "v1", "v2", "v3"} == set(OciLayout(path).tags())
        assert {"oci-layout", "index.json", "blobs"} == names_in(path)


def test_a_deletion_waits_for_writers_and_they_for_it(layout, path, monkeypatch):
    monkeypatch.setattr(directory, "_LOCK_SECONDS", 0.2)
    image().write(layout, "v1")
    with layout.writing(), layout.writing(), pytest.raises(LockTimeoutError, match=r"is in use by others"):
        OciLayout(path).delete("v1")
    with directory.LayoutDirectory(path).exclusive(), pytest.raises(LockTimeoutError), layout.writing():
        pass
    layout.delete("v1")
    assert [] == list(layout.tags())


def test_a_lease_that_ends_stops_a_wait(layout, path):
    class Ended:
        checks = 0

        def check(self):
            self.checks += 1
            if self.checks > 2:
                raise ItemCancelledError("over")

        def require(self, seconds): ...

    image().write(layout, "v1")
    alone = directory.LayoutDirectory(path).exclusive()
    with alone, under_lease(Ended()), pytest.raises(ItemCancelledError), layout.writing():
        pass


def test_what_a_crash_left_goes_when_a_writer_is_alone(layout, path):
    image().write(layout, "v1")
    (path / ".stagefleet-0123").write_bytes(b"x")
    with layout.writing():
        assert ".stagefleet-0123" not in names_in(path)
        (path / ".stagefleet-4567").write_bytes(b"x")
        with layout.writing():
            assert ".stagefleet-4567" in names_in(path)  # it may be the other writer's
    layout.delete("v1")
    assert ".stagefleet-4567" not in names_in(path)


def test_tags_that_wait_for_the_index_are_written_at_once(layout, path, monkeypatch):
    """Each rewrite is one of all entries: with ten thousand of them it is what a copy waits for."""
    image().write(layout, "first")
    rewrites, start, rewrite = [], threading.Barrier(8), LayoutDirectory.rewrite_index

    def count(*arguments):
        time.sleep(0.1)
        rewrites.append(arguments)
        rewrite(*arguments)

    monkeypatch.setattr(LayoutDirectory, "rewrite_index", count)

    def write(number):
        start.wait()
        image(f"stage {number}").write(OciLayout(path), f"v{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert {"first", *(f"v{number}" for number in range(8))} == set(layout.tags())
    assert len(rewrites) < 8


def test_a_change_that_fails_fails_alone():
    changes, made, start = IndexChanges(), [], threading.Barrier(3)

    def change(taken):
        time.sleep(0.05)
        if "bad" in taken:
            raise OSError(errno.ENOSPC, "full")
        made.extend(taken)

    def make(tag):
        start.wait()
        changes.make(tag, "", change)

    with ThreadPoolExecutor(3) as pool:
        done = {tag: pool.submit(make, tag) for tag in ("one", "bad", "two")}
    with pytest.raises(OSError, match="full"):
        done["bad"].result()
    failed = {tag for tag, future in done.items() if future.exception() is not None}
    assert {"one", "two"} - failed == set(made)
    changes.make("three", "", change)
    assert "three" in made
    assert "bad" not in made
