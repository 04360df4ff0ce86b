"""Layouts as they are read: what other tools wrote, and what is no layout."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from stagefleet.errors import (
    BrokenStageError,
    ContentError,
    DigestMismatchError,
    IncompatibleVersionError,
    ItemCancelledError,
    RepositoryNotFoundError,
    StageNotFoundError,
    UnsupportedManifestError,
    UsageError,
)
from stagefleet.leases import under_lease
from tests.unit.oci_layout.conftest import REF_NAME, entry, image


def test_a_stage_is_read_as_it_was_written(layout):
    stage = image().write(layout, "v1")
    assert ["v1"] == list(layout.tags())
    assert stage.manifest.digest == layout.resolve("v1").digest
    assert stage.manifest == layout.fetch_manifest(layout.resolve("v1").digest)
    for descriptor, content in stage.blobs.items():
        assert layout.has_blob(descriptor)
        seen: list[int] = []
        with layout.open_blob(descriptor, on_bytes=seen.append) as blob:
            assert len(content) == len(blob)
            assert content == b"".join(iter(lambda: blob.read(3), b""))
        assert len(content) == sum(seen)


def test_nothing_is_there(layout, path):
    for read in (layout.check, layout.tags, lambda: layout.resolve("v1")):
        with pytest.raises(RepositoryNotFoundError, match="there is no OCI image layout at"):
            read()
    path.mkdir()
    (path / ".stagefleet-0123").touch()  # a crash left it
    with pytest.raises(RepositoryNotFoundError):
        layout.check()
    layout.delete("v1")


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        ("{}", UsageError, "names no version"),
        ("[]", UsageError, "names no version"),
        ("[" * 100_000, UsageError, "names no version"),
        (
            '{"imageLayoutVersion":"2.0.0"}',
            IncompatibleVersionError,
            "version '2.0.0'; this release knows 1.0.0",
        ),
        (None, UsageError, "has no file oci-layout"),
    ],
)
def test_what_is_no_layout_of_a_known_version_is_refused(layout, path, content, error, text):
    path.mkdir()
    (path / "notes.txt").touch()
    if content is not None:
        (path / "oci-layout").write_text(content)
    with pytest.raises(error, match=text) as caught:
        layout.check()
    assert "\n" not in str(caught.value)


def test_an_index_that_cannot_be_read_is_told(layout, path):
    image().write(layout, "v1")
    (path / "index.json").write_text("{")
    with pytest.raises(ContentError, match=r"/layout: index.json cannot be read \(it is no JSON"):
        list(layout.tags())


def test_a_layout_without_its_index_is_not_taken_for_empty(layout, path):
    """OCI image specification 1.1, "Image Layout": `index.json` is required."""
    image().write(layout, "v1")
    (path / "index.json").unlink()
    for read in (lambda: list(layout.tags()), lambda: layout.resolve("v1"), lambda: layout.delete("v1")):
        with pytest.raises(ContentError, match=r"/layout has no index.json, so it is no whole layout"):
            read()


def test_a_tag_that_is_not_there(layout):
    image().write(layout, "v1")
    with pytest.raises(StageNotFoundError, match="has no v2"):
        layout.resolve("v2")


def test_of_two_entries_with_a_tag_the_first_counts_that_can_be_read(layout, path):
    one, two = image("one").write(layout, "one"), image("two").write(layout, "two")
    annotations = {REF_NAME: "registry.test/app:v1"}
    unknown = {**entry(one.descriptor, annotations=annotations), "digest": "blake3:00"}
    entries = [unknown, *(entry(found.descriptor, annotations=annotations) for found in (one, two))]
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    assert one.manifest.digest == layout.resolve("v1").digest
    assert ["v1"] * 3 == list(layout.tags())


def test_a_manifest_that_is_missing_or_altered(layout, path):
    stage = image().write(layout, "v1")
    file = path / "blobs/sha256" / stage.manifest.digest.hex
    file.write_bytes(stage.manifest.raw + b" ")
    with pytest.raises(DigestMismatchError, match="has other content"):
        layout.fetch_manifest(stage.manifest.digest)
    file.write_bytes(b"no JSON")
    with pytest.raises(DigestMismatchError, match="has other content"):
        layout.fetch_manifest(stage.manifest.digest)
    with pytest.raises(UnsupportedManifestError):
        layout.fetch_manifest(stage.manifest.config.digest)
    file.write_bytes(b" " * (4 * 1024 * 1024 + 1))
    with pytest.raises(BrokenStageError, match="at most 4194304 are read"):
        layout.fetch_manifest(stage.manifest.digest)
    file.unlink()
    with pytest.raises(BrokenStageError, match="lacks the blob"):
        layout.fetch_manifest(stage.manifest.digest)


def test_a_blob_that_is_missing_or_altered(layout, path):
    content = b"content" * 1000
    stage = image(layers=[content.decode()]).write(layout, "v1")
    (layer,) = stage.manifest.layers
    file = path / "blobs/sha256" / layer.digest.hex
    file.write_bytes(content[:-1] + b"X")
    read: list[bytes] = []
    with layout.open_blob(layer) as blob:
        with pytest.raises(DigestMismatchError, match="other content") as caught:
            read.extend(iter(lambda: blob.read(1000), b""))
        assert blob.error is caught.value
    assert len(content) > sum(len(piece) for piece in read)  # the last bytes were not given
    file.write_bytes(content[:-1])
    for look in (layout.open_blob, layout.has_blob):
        with pytest.raises(DigestMismatchError, match="has 6999 bytes of"):
            look(layer)
    file.unlink()
    assert not layout.has_blob(layer)
    with pytest.raises(BrokenStageError, match="delete the stage there, and copy it again"):
        layout.open_blob(layer)


def test_a_blob_whose_first_bytes_are_left_out_is_verified_whole(layout, path):
    content = b"content" * 1000
    stage = image(layers=[content.decode()]).write(layout, "v1")
    (layer,) = stage.manifest.layers
    with layout.open_blob(layer) as blob:
        blob.skip(6990)
        assert (10, content[6990:]) == (len(blob), b"".join(iter(lambda: blob.read(3), b"")))
    (path / "blobs/sha256" / layer.digest.hex).write_bytes(b"X" + content[1:])
    with layout.open_blob(layer) as blob:
        blob.skip(6990)
        with pytest.raises(DigestMismatchError, match="other content"):
            blob.read(10)


def test_a_blob_that_shrinks_while_it_is_read(layout, path):
    stage = image(layers=["x" * 5000]).write(layout, "v1")
    (layer,) = stage.manifest.layers
    with layout.open_blob(layer) as blob:
        blob.read(1000)
        os.truncate(path / "blobs/sha256" / layer.digest.hex, 1000)
        with pytest.raises(DigestMismatchError):
            blob.read(1000)


def test_an_empty_blob(layout):
    stage = image(layers=[""]).write(layout, "v1")
    with layout.open_blob(stage.manifest.layers[0]) as blob:
        assert b"" == blob.read()
        assert blob


def test_a_lease_that_ends_stops_a_read(layout):
    class Ended:
        def check(self):
            raise ItemCancelledError("over")

        def require(self, seconds): ...

    stage = image().write(layout, "v1")
    with (
        under_lease(Ended()),
        layout.open_blob(stage.manifest.layers[0]) as blob,
        pytest.raises(ItemCancelledError),
    ):
        blob.read()


def test_links_to_blobs_are_followed_as_some_tools_make_them(layout, path, tmp_path):
    stage = image().write(layout, "v1")
    shutil.move(path / "blobs/sha256", tmp_path / "elsewhere")
    (path / "blobs/sha256").mkdir()
    for blob in (tmp_path / "elsewhere").iterdir():
        (path / "blobs/sha256" / blob.name).symlink_to(blob)
    assert stage.manifest == layout.fetch_manifest(layout.resolve("v1").digest)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_plain_file_is_no_blob(layout, path, make):
    stage = image().write(layout, "v1")
    layer = stage.manifest.layers[0]
    (path / "blobs/sha256" / layer.digest.hex).unlink()
    make(path / "blobs/sha256" / layer.digest.hex)
    assert not layout.has_blob(layer)


def test_a_file_that_may_not_be_read(layout, path, monkeypatch):
    stage = image().write(layout, "v1")

    def refuse(name, *_, **__):
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr("stagefleet.oci_layout.files.os.open", refuse)
    for read in (
        layout.check,
        lambda: layout.fetch_manifest(stage.manifest.digest),
        lambda: layout.has_blob(stage.descriptor),
        lambda: layout.open_blob(stage.descriptor),
    ):
        with pytest.raises(UsageError, match=f"{path}/.*: permission denied: give this user the right to it"):
            read()


def test_a_reader_sees_one_index_while_others_write(layout):
    for number in range(3):
        image(str(number)).write(layout, f"v{number}")
    tags = layout.tags()
    assert "v0" == next(tags)
    for number in range(3):
        layout.delete(f"v{number}")
    assert ["v1", "v2"] == list(tags)
