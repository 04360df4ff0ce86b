"""Deletion from a layout: tags first, then the blobs that were theirs alone."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagefleet.errors import BrokenStageError, UsageError
from stagefleet.oci_layout.layout import OciLayout
from tests.unit.oci_layout.conftest import (
    REF_NAME,
    blobs_of,
    descriptor_of,
    digests_of,
    entry,
    image,
    index,
)


def test_blobs_that_others_use_stay(layout, path):
    one, two = image("one").write(layout, "v1"), image("two").write(layout, "v2")
    assert digests_of(one, two) == blobs_of(path)
    layout.delete("v1")
    assert ["v2"] == list(layout.tags())
    assert digests_of(two) == blobs_of(path)
    layout.delete("v2")
    assert set() == blobs_of(path)


def test_what_is_gone_already_is_no_error(layout, path):
    layout.delete("v1")
    assert not path.exists()
    stage = image().write(layout, "v1")
    layout.delete("v2")
    assert digests_of(stage) == blobs_of(path)


def test_an_image_under_two_tags_stays_until_both_are_gone(layout, path):
    stage = image().write(layout, "v1").write(layout, "v2")
    layout.delete("v1")
    assert digests_of(stage) == blobs_of(path)
    assert stage.manifest.digest == layout.resolve("v2").digest
    layout.delete("v2")
    assert set() == blobs_of(path)


def test_a_member_of_an_index_that_stays_stays(layout, path):
    member = image("member").write(layout, "member")
    whole = index(member, image("other")).write(layout, "whole")
    layout.delete("member")
    assert digests_of(whole) == blobs_of(path)
    layout.delete("whole")
    assert set() == blobs_of(path)


def test_an_index_goes_with_its_members_and_they_stay_if_they_have_a_tag(layout, path):
    member = image("member").write(layout, "member")
    index(member, image("other")).write(layout, "whole")
    layout.delete("whole")
    assert digests_of(member) == blobs_of(path)


def test_members_of_an_index_in_an_index(layout, path):
    inner = index(image("member"))
    outer = index(inner, image("other")).write(layout, "outer")
    single = image("member").write(layout, "single")
    layout.delete("single")
    assert digests_of(outer) == blobs_of(path)
    single.write(layout, "single")
    layout.delete("outer")
    assert digests_of(single) == blobs_of(path)


def test_the_subject_of_an_artifact_that_stays_stays(layout, path):
    stage = image().write(layout, "v1")
    signature = image("signature", subject=stage.descriptor).write(layout, "signature")
    layout.delete("v1")
    assert ["signature"] == list(layout.tags())
    assert digests_of(stage, signature) == blobs_of(path)
    layout.delete("signature")
    assert set() == blobs_of(path)  # nothing else had led to it any more


def test_the_subject_of_an_artifact_without_a_tag_stays(layout, path):
    stage = image().write(layout, "v1")
    signature = image("signature", subject=stage.descriptor).write(layout).name_alone(path)
    layout.delete("v1")
    assert [] == list(layout.tags())
    assert digests_of(stage, signature) == blobs_of(path)


def test_the_subject_of_an_artifact_in_the_index_of_referrers_stays(layout, path):
    """regctl names them so: OCI distribution specification 1.1, "Referrers Tag Schema"."""
    stage = image().write(layout, "v1")
    signature = image("signature", subject=stage.descriptor)
    index(signature).write(layout, f"sha256-{stage.manifest.digest.hex}")
    layout.delete("v1")
    assert digests_of(stage, signature) <= blobs_of(path)


def test_an_artifact_goes_without_a_subject_that_has_a_tag(layout, path):
    stage = image().write(layout, "v1")
    image("signature", subject=stage.descriptor).write(layout, "signature")
    layout.delete("signature")
    assert digests_of(stage) == blobs_of(path)


def test_what_nobody_names_stays(layout, path):
    """Another tool may be writing it."""
    image().write(layout, "v1")
    with layout.writing() as writer:
        writer.write_blob(descriptor_of(b"foreign"), io.BytesIO(b"foreign"))
    (path / "notes.txt").touch()
    layout.delete("v1")
    assert {str(descriptor_of(b"foreign").digest)} == blobs_of(path)
    assert (path / "notes.txt").exists()


def test_a_digest_in_a_mere_annotation_of_what_goes_stays(layout, path):
    other = descriptor_of(b"base")
    stage = image().write(layout, "v1")
    with layout.writing() as writer:
        writer.write_blob(other, io.BytesIO(b"base"))
    document = json.loads((path / "index.json").read_text())
    document["manifests"][0]["annotations"]["org.opencontainers.image.base.digest"] = str(other.digest)
    (path / "index.json").write_text(json.dumps(document))
    layout.delete("v1")
    assert {str(other.digest)} == blobs_of(path)
    assert not digests_of(stage) & blobs_of(path)


@pytest.mark.parametrize("media_type", ["application/vnd.oci.artifact.manifest.v1+json", ""])
def test_what_a_manifest_of_an_unknown_kind_refers_to_stays(layout, path, media_type):
    stage = image().write(layout, "v1")
    layer = stage.manifest.layers[0]
    raw = json.dumps({"blobs": [{"digest": str(layer.digest)}]}).encode()
    artifact = descriptor_of(raw, media_type)
    with layout.writing() as writer:
        writer.write_blob(artifact, io.BytesIO(raw))
    document = json.loads((path / "index.json").read_text())
    document["manifests"].append(entry(artifact))
    (path / "index.json").write_text(json.dumps(document))
    layout.delete("v1")
    assert {str(artifact.digest), str(layer.digest)} == blobs_of(path)


def test_entries_of_unknown_kinds_keep_what_they_name(layout, path):
    stage = image().write(layout, "v1")
    layer = stage.manifest.layers[0]
    document = json.loads((path / "index.json").read_text())
    document["manifests"].append({"mediaType": "x/y", "digest": str(layer.digest)})  # without a size
    (path / "index.json").write_text(json.dumps(document))
    layout.delete("v1")
    assert {str(layer.digest)} == blobs_of(path)


@pytest.mark.parametrize("content", [b"", b"no JSON", b"{}", b" " * 5_000_000])
def test_a_broken_stage_can_be_deleted(layout, path, content):
    stage, other = image().write(layout, "v1"), image("other").write(layout, "v2")
    (path / "blobs/sha256" / stage.manifest.digest.hex).write_bytes(content)
    layout.delete("v1")
    assert str(stage.manifest.digest) not in blobs_of(path)
    assert digests_of(other) <= blobs_of(path)
    (path / "blobs/sha256" / other.manifest.digest.hex).unlink()
    layout.delete("v2")
    assert [] == list(layout.tags())


def test_nothing_is_deleted_while_it_is_not_known_what_others_use(layout, path):
    image().write(layout, "v1")
    other = image("other").write(layout, "v2")
    (path / "blobs/sha256" / other.manifest.digest.hex).write_bytes(b" " * 5_000_000)
    before = blobs_of(path)
    with pytest.raises(BrokenStageError, match="at most 4194304 are read"):
        layout.delete("v1")
    assert ["v1", "v2"] == list(layout.tags())
    assert before == blobs_of(path)


def test_a_tag_goes_by_whatever_name_its_entry_has(layout, path):
    stage = image().write(layout, "v1")
    for name in (REF_NAME, "io.containerd.image.name"):
        entries = [entry(stage.descriptor, annotations={name: "registry.test/app:v1"})]
        (path / "index.json").write_text(json.dumps({"manifests": entries}))
        layout.delete("v1")
        assert {"manifests": []} == json.loads((path / "index.json").read_text())


def test_a_directory_that_is_no_layout_is_left_alone(layout, path):
    path.mkdir()
    (path / "notes.txt").touch()
    with pytest.raises(UsageError, match="no OCI image layout"):
        layout.delete("v1")
    assert [path / "notes.txt"] == list(path.iterdir())


def test_writers_and_deleters_at_once_leave_whole_images(layout, path):
    image("first").write(layout, "first")

    def work(number):
        one = OciLayout(path)
        image(f"stage {number}").write(one, f"v{number}")
        if number % 2:
            one.delete(f"v{number}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(30)))
    assert {"first", *(f"v{number}" for number in range(0, 30, 2))} == set(layout.tags())
    kept = [image("first"), *(image(f"stage {number}") for number in range(0, 30, 2))]
    assert digests_of(*kept) == blobs_of(path)
