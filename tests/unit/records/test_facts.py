from __future__ import annotations

import pytest

from stagefleet.errors import BrokenRecordError, InvalidNameError
from stagefleet.names import StageId
from stagefleet.records.ids import RecordKind
from stagefleet.records.models import (
    RECORDS,
    ClientId,
    CustomTag,
    ImageMetadata,
    ImportMetadata,
    Labels,
    LastCleanup,
    LockServer,
    ManagedImage,
    RejectedStage,
)

STAGE = StageId("ab" * 28, 1_700_000_000_000)
COMMIT = "c0" * 20

SAMPLES = [
    ManagedImage("web/app"),
    ImageMetadata.of_image("web/app", COMMIT, STAGE),
    ImportMetadata("0f" * 32, str(STAGE), "checksum"),
    CustomTag("v1.2", STAGE),
    RejectedStage(StageId("ab" * 28)),
    ClientId("client-1", 1_700_000_000_000),
    LastCleanup(1_700_000_000_000),
    LockServer("https://locks.example", 1_700_000_000_000),
]


def test_every_kind_has_a_class():
    assert set(RecordKind) == set(RECORDS) == {sample.kind for sample in SAMPLES}


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: str(record.kind))
def test_a_record_reads_back_from_its_name_and_labels(record):
    assert record == RECORDS[record.kind].read(record.id.name, Labels(record.id.tag, record.labels))


@pytest.mark.parametrize(
    ("record", "labels"),
    [
        (SAMPLES[0], {}),
        (SAMPLES[1], {}),
        (
            SAMPLES[2],
            {"import-source-id": "0f" * 32, "source-stage-id": str(STAGE), "checksum": "checksum"},
        ),
        (SAMPLES[3], {"stage-id": str(STAGE), "tag": "v1.2"}),
        (SAMPLES[4], {}),
        (SAMPLES[5], {}),
        (SAMPLES[6], {"lastcleanuptimestamp": "1700000000000"}),
        (SAMPLES[7], {"syncserver": "https://locks.example", "syncservertimestamp": "1700000000000"}),
    ],
    ids=lambda value: str(getattr(value, "kind", "labels")),
)
def test_labels_are_those_of_the_table(record, labels):
    assert labels == record.labels


@pytest.mark.parametrize("record", [s for s in SAMPLES if s.labels], ids=lambda record: str(record.kind))
def test_each_label_that_is_missing_is_named(record):
    for label in record.labels:
        rest = {name: value for name, value in record.labels.items() if name != label}
        with pytest.raises(BrokenRecordError, match=f"{record.id.tag} lacks the label {label}: left alone"):
            RECORDS[record.kind].read(record.id.name, Labels(record.id.tag, rest))


@pytest.mark.parametrize("text", ["", "-1", "1e3", "²", "9" * 30, "9" * 5000])
def test_a_time_that_is_none_is_a_broken_record(text):
    with pytest.raises(BrokenRecordError, match="cleanup has"):
        LastCleanup.read("cleanup", Labels("cleanup", {"lastcleanuptimestamp": text}))


@pytest.mark.parametrize(
    "labels",
    [
        {"tag": "v2", "stage-id": str(STAGE)},
        {"tag": str(STAGE), "stage-id": str(STAGE)},
        {"tag": "v1", "stage-id": "x"},
    ],
)
def test_a_custom_tag_record_that_contradicts_its_tag_is_broken(labels):
    with pytest.raises(BrokenRecordError):
        CustomTag.read("v1", Labels("custom-tag-meta-v1", labels))


@pytest.mark.parametrize("tag", ["", "a b", str(STAGE), STAGE.rejected_tag, "cleanup", "managed-image-x"])
def test_the_tag_of_a_stage_or_a_record_can_be_no_custom_tag(tag):
    with pytest.raises(InvalidNameError, match="can be no custom tag"):
        CustomTag(tag, STAGE)


def test_an_imports_id_and_its_source_id_are_one_and_the_same():
    """I4: werf deletes by the source id; a record under another tag would never be cleaned up."""
    record = ImportMetadata("0f" * 32, str(STAGE), "sum")
    assert "0f" * 32 == record.source_id == record.labels["import-source-id"] == record.id.name
    with pytest.raises(TypeError):
        ImportMetadata("0f" * 32, "another", str(STAGE), "sum")  # type: ignore[call-arg]  # that is the point


def test_an_import_that_an_older_release_wrote_with_two_is_read_as_it_is():
    """I4: both ids are shown, the record is known by its tag."""
    labels = {"import-source-id": "s1", "source-stage-id": str(STAGE), "checksum": "sum"}
    record = ImportMetadata.read("0f" * 32, Labels("import-metadata-" + "0f" * 32, labels))
    assert ("0f" * 32, "s1") == (record.id.name, record.as_json()["source_id"])
    assert labels == record.labels


@pytest.mark.parametrize(
    ("moment_ms", "timestamp_ms"),
    [(1_795_890_924_702, 3_591_781_848_702), (1_000, 2_000), (1_999, 2_999), (0, 0)],
)
def test_a_client_id_has_the_time_that_werf_would_write(moment_ms, timestamp_ms):
    """I3: whole seconds and milliseconds added up; the smallest of a repository counts for werf."""
    assert f"client-id-me-{timestamp_ms}" == ClientId.chosen_at("me", moment_ms).id.tag


def test_json_has_kind_id_and_tag_and_the_facts():
    assert {
        "kind": "custom-tag",
        "id": "latest",
        "tag": "custom-tag-meta-latest",
        "name": "latest",
        "stage_id": str(STAGE),
    } == CustomTag("latest", STAGE).as_json()
