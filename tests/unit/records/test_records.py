from __future__ import annotations

import gzip
import hashlib
import json
from datetime import UTC, datetime

import pytest

from stagefleet.names import StageId
from stagefleet.records.ids import is_record_tag
from stagefleet.records.image import (
    DELETION_LABEL,
    DIFF_ID,
    LAYER,
    RecordImage,
    is_placeholder,
    make_placeholder,
    make_rejection,
    rejected_stage,
)

DIGEST = "ab" * 28


def test_the_layer_is_the_gzip_of_an_empty_archive_with_the_known_diff_id():
    archive = gzip.decompress(LAYER)
    assert bytes(1024) == archive
    assert DIFF_ID == "sha256:" + hashlib.sha256(archive).hexdigest()


def test_a_record_image_is_a_docker_image_with_labels_and_no_content():
    record = RecordImage.of("app", {"tag": "v1"}, created=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC))
    config = json.loads(record.config)
    assert {"werf": "app", "tag": "v1"} == config["config"]["Labels"]
    assert "2024-05-06T07:08:09Z" == config["created"]
    assert [{}] == config["history"]
    assert {"type": "layers", "diff_ids": [DIFF_ID]} == config["rootfs"]


def test_a_record_manifest_names_its_blobs_by_digest_and_size():
    record = RecordImage.of("app", {})
    manifest = record.manifest
    named = [manifest["config"], *manifest["layers"]]
    contents = {str(digest): content for digest, content in record.blobs.items()}
    assert {entry["digest"] for entry in named} == set(contents)
    assert all(len(contents[entry["digest"]]) == entry["size"] for entry in named)
    assert all("sha256:" + hashlib.sha256(content).hexdigest() == name for name, content in contents.items())
    assert ["application/vnd.docker.image.rootfs.diff.tar.gzip"] == [
        layer["mediaType"] for layer in manifest["layers"]
    ]


@pytest.mark.parametrize("stage_id", [StageId(DIGEST, 1700000000000), StageId(DIGEST)])
def test_the_tag_of_a_rejection_reads_back(stage_id):
    assert stage_id == rejected_stage(stage_id.rejected_tag)
    assert is_record_tag(stage_id.rejected_tag)


@pytest.mark.parametrize(
    "tag",
    [
        f"{DIGEST}-1",
        f"{DIGEST}-rejected",
        f"{DIGEST}-01-rejected",
        "-rejected",
        f"{DIGEST}-0-rejected-rejected",
    ],
)
def test_any_other_tag_rejects_nothing(tag):
    assert rejected_stage(tag) is None


@pytest.mark.parametrize("tag", ["latest", "meta-release", "import-metadata-mine", f"{DIGEST}-1", "cleanup"])
def test_a_tag_that_only_looks_like_a_record_is_none(tag):
    assert not is_record_tag(tag)


def test_image_and_import_metadata_are_records():
    assert is_record_tag(f"meta-2f02f_{'0' * 40}_{DIGEST}-1700000000000")
    assert is_record_tag(f"import-metadata-{'0' * 56}")


def test_a_rejection_for_a_deletion_says_so_and_is_like_no_other():
    first, second = (make_rejection("app", while_deleting=True) for _ in range(2))
    assert DELETION_LABEL in json.loads(first.config)["config"]["Labels"]
    assert first.config != second.config
    assert DELETION_LABEL not in json.loads(make_rejection("app").config)["config"]["Labels"]


def test_a_placeholder_is_an_empty_index_like_no_other():
    first, second = make_placeholder(), make_placeholder()
    assert [] == first["manifests"]
    assert first != second
    assert is_placeholder(first["annotations"])
    assert not is_placeholder({"org.opencontainers.image.title": "x"})
