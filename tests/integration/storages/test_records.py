"""Records in a real registry, read back with plain requests; nothing else goes with what is deleted."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagefleet.attempt import NOT_THERE, ItemResult
from stagefleet.credentials import DockerConfig
from stagefleet.errors import (
    BrokenRecordError,
    CustomTagError,
    DeletionDisabledError,
    ForbiddenError,
    StageNotFoundError,
)
from stagefleet.manifests import Manifest
from stagefleet.names import Repository, StageId
from stagefleet.records.ids import RecordId, RecordKind, image_hash
from stagefleet.records.image import make_placeholder
from stagefleet.records.models import (
    ClientId,
    CustomTag,
    ImageMetadata,
    ImportMetadata,
    LastCleanup,
    LockServer,
    ManagedImage,
    RejectedStage,
)
from stagefleet.storages.base import WriteResult
from tests.integration.storages.test_delete import Death, DyingClient
from tests.services import ImageMaker
from tests.services.images import push_image
from tests.stage_tasks import RecordTasks, make_storages

PATH = "team/app"
PROJECT = "project"
STAGE = StageId("ab" * 28, 1_700_000_000_000)
COMMIT = "c0" * 20
DIFF_ID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

RECORDS = {
    "managed-image-web__slash__app": (ManagedImage("web/app"), {}),
    f"meta-{image_hash('web/app')}_{COMMIT}_{STAGE}": (ImageMetadata.of_image("web/app", COMMIT, STAGE), {}),
    "import-metadata-" + "0f" * 32: (
        ImportMetadata("0f" * 32, str(STAGE), "sum"),
        {"import-source-id": "0f" * 32, "source-stage-id": str(STAGE), "checksum": "sum"},
    ),
    "custom-tag-meta-latest": (CustomTag("latest", STAGE), {"stage-id": str(STAGE), "tag": "latest"}),
    f"{STAGE}-rejected": (RejectedStage(STAGE), {}),
    "client-id-me-1700000000000": (ClientId("me", 1_700_000_000_000), {}),
    "cleanup": (LastCleanup(1_700_000_000_000), {"lastcleanuptimestamp": "1700000000000"}),
    "sync-server": (
        LockServer("https://locks.example", 5),
        {"syncserver": "https://locks.example", "syncservertimestamp": "5"},
    ),
}


@pytest.fixture
def records(client):
    return RecordTasks(make_storages(client))


@pytest.fixture
def repository(registry):
    return Repository(registry.host, PATH)


@pytest.fixture
def maker(registry):
    with ImageMaker(registry) as maker:
        yield maker


def delete(records, repository, record_id, *to_delete):
    named = [record_id.tag, *to_delete]
    return records.delete(repository, record_id, run_id="r", to_delete=lambda: named)


def delete_custom_tag(records, repository, tag):
    record_id = RecordId.of(RecordKind.CUSTOM_TAG, tag)
    return records.delete_custom_tag(repository, record_id, run_id="r", to_delete=lambda: [tag])


@pytest.mark.parametrize(
    ("tag", "record", "labels"), [(tag, *rest) for tag, rest in RECORDS.items()], ids=RECORDS
)
def test_the_registry_holds_each_record_as_the_model_says(records, repository, maker, tag, record, labels):
    assert WriteResult.WRITTEN == records.write(repository, PROJECT, record)
    assert [tag] == maker.tags(PATH)
    manifest = json.loads(maker.manifest(PATH, tag))
    assert "application/vnd.docker.distribution.manifest.v2+json" == manifest["mediaType"]
    (layer,) = manifest["layers"]
    assert "application/vnd.docker.image.rootfs.diff.tar.gzip" == layer["mediaType"]
    archive = gzip.decompress(maker.blob(PATH, layer["digest"]))
    assert bytes(1024) == archive
    assert DIFF_ID == f"sha256:{hashlib.sha256(archive).hexdigest()}"
    assert "application/vnd.docker.container.image.v1+json" == manifest["config"]["mediaType"]
    config = json.loads(maker.blob(PATH, manifest["config"]["digest"]))
    assert {"werf": PROJECT, **labels} == config["config"]["Labels"]
    assert {"type": "layers", "diff_ids": [DIFF_ID]} == config["rootfs"]
    assert [{}] == config["history"]
    found = records.read(repository, record.id)
    assert (record, PROJECT) == (found.record, found.project)


def test_import_metadata_of_an_older_release_is_read_and_deleted(records, repository, maker):
    """I4: an id and another source id: it goes by its tag, where werf never finds it."""
    record_id = RecordId.of(RecordKind.IMPORT_METADATA, "aa" * 32)
    labels = {"werf": PROJECT, "import-source-id": "s1", "source-stage-id": str(STAGE), "checksum": "sum"}
    maker.push_image(PATH, record_id.tag, labels=labels)
    assert "s1" == records.read(repository, record_id).as_json()["source_id"]
    delete(records, repository, record_id)
    assert [] == maker.tags(PATH)


def test_the_tag_list_tells_records_from_stages_and_from_what_is_nobodys(records, repository, maker):
    for record, _ in RECORDS.values():
        records.write(repository, PROJECT, record)
    foreign = ["latest", "managed-image--x", "meta-release", "client-id-x"]
    for tag in [str(STAGE), *foreign]:
        push_image(repository.host, PATH, tag)
    unknown: list[str] = []
    assert {record.id for record, _ in RECORDS.values()} == set(
        records.ids(repository, on_unknown=unknown.append)
    )
    assert set(foreign) == set(unknown)
    assert [RecordId.of(RecordKind.LAST_CLEANUP, "")] == list(
        records.ids(repository, RecordKind.LAST_CLEANUP)
    )


def test_a_repository_that_does_not_exist_has_no_records(records, repository):
    assert [] == list(records.ids(repository))
    assert records.read(repository, RecordId.of(RecordKind.LAST_CLEANUP, "")) is None


@pytest.mark.parametrize(
    "record", [entry[0] for entry in RECORDS.values()][:3], ids=lambda record: str(record.kind)
)
def test_what_is_there_is_written_again_only_by_force(records, repository, maker, record):
    records.write(repository, PROJECT, record)
    before = maker.digest(PATH, record.id.tag)
    assert WriteResult.PRESENT == records.write(repository, PROJECT, record)
    assert before == maker.digest(PATH, record.id.tag)
    assert WriteResult.WRITTEN == records.write(repository, PROJECT, record, force=True)
    assert before != maker.digest(PATH, record.id.tag)


def test_a_time_is_always_written(records, repository):
    for moment in (1, 2):
        assert WriteResult.WRITTEN == records.write(repository, PROJECT, LastCleanup(moment))
    assert 2 == records.read(repository, RecordId.of(RecordKind.LAST_CLEANUP, "")).record.timestamp_ms


class TestDeletion:
    @pytest.mark.parametrize("record", [entry[0] for entry in RECORDS.values()], ids=lambda r: str(r.kind))
    def test_a_record_goes_alone_and_twice_is_the_same(self, records, repository, maker, record):
        for other, _ in RECORDS.values():
            records.write(repository, PROJECT, other)
        before = set(maker.tags(PATH))
        assert ItemResult() == delete(records, repository, record.id)
        assert before - {record.id.tag} == set(maker.tags(PATH))
        assert NOT_THERE == delete(records, repository, record.id)

    def test_many_go_at_once(self, records, repository, maker):
        ids = [ManagedImage(f"image {number}").id for number in range(24)]
        for record_id in ids:
            records.write(repository, PROJECT, ManagedImage(record_id.name))
        tags = [record_id.tag for record_id in ids[:20]]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda record_id: delete(records, repository, record_id, *tags), ids[:20]))
        assert {record_id.tag for record_id in ids[20:]} == set(maker.tags(PATH))

    def test_a_tag_that_shares_the_records_digest_stays(self, records, repository, maker):
        records.write(repository, PROJECT, ManagedImage("a"))
        raw = maker.manifest(PATH, "managed-image-a")
        maker.push_manifest(PATH, "mine", raw, json.loads(raw)["mediaType"])
        delete(records, repository, ManagedImage("a").id)
        assert ["mine"] == maker.tags(PATH)
        assert raw == maker.manifest(PATH, "mine")

    @pytest.mark.parametrize(
        "labels", [{}, {"werf": PROJECT, "tag": "latest"}, {"stage-id": str(STAGE), "tag": "latest"}]
    )
    def test_what_lacks_a_label_is_reported_and_left_alone(self, records, repository, maker, labels):
        push_image(repository.host, PATH, "custom-tag-meta-latest", labels=labels)
        push_image(repository.host, PATH, "latest")
        with pytest.raises(BrokenRecordError, match="left alone"):
            delete(records, repository, CustomTag("latest", STAGE).id)
        with pytest.raises(BrokenRecordError, match="lacks the label"):
            delete_custom_tag(records, repository, "latest")
        assert ["custom-tag-meta-latest", "latest"] == maker.tags(PATH)

    def test_a_placeholder_that_a_crash_left_is_no_record_and_goes_with_the_next_attempt(
        self, records, repository, maker, client
    ):
        record = ManagedImage("a")
        client.put_manifest(repository.tagged(record.id.tag), Manifest.of(make_placeholder()))
        assert records.read(repository, record.id) is None
        delete(records, repository, record.id)
        assert [] == maker.tags(PATH)

    def test_deletion_that_is_off_is_said(self, records, make_registry):
        registry = make_registry(delete=False)
        repository = Repository(registry.host, PATH)
        records.write(repository, PROJECT, ManagedImage("a"))
        with pytest.raises(DeletionDisabledError):
            delete(records, repository, ManagedImage("a").id)

    def test_where_tags_can_be_deleted_a_record_is_one_delete(self, records, tag_registry):
        repository = Repository(tag_registry.host, PATH)
        for name in ("a", "b"):
            records.write(repository, PROJECT, ManagedImage(name))
        delete(records, repository, ManagedImage("a").id)
        assert [ManagedImage("b").id] == list(records.ids(repository))


class TestImageMetadata:
    def remove(self, records, repository, image):
        return records.delete_image_metadata(repository, image, f"{COMMIT}_{STAGE}", run_id="r")

    @pytest.mark.parametrize("name", ["web/app", ""])
    def test_it_goes_by_the_images_name_and_by_its_hash(self, records, repository, maker, name):
        for image in (name, image_hash(name)):
            records.write(repository, PROJECT, ImageMetadata.of_image(name, COMMIT, STAGE))
            self.remove(records, repository, image)
            assert [] == maker.tags(PATH)

    def test_the_name_is_tried_before_the_hash(self, records, repository):
        """An image may be called as another's hash is written."""
        name = image_hash("web/app")
        by_name = ImageMetadata.of_image(name, COMMIT, STAGE)
        by_hash = ImageMetadata.of_image("web/app", COMMIT, STAGE)
        for record in (by_name, by_hash):
            records.write(repository, PROJECT, record)
        self.remove(records, repository, name)
        assert [by_hash.id] == list(records.ids(repository))


class TestForbidden:
    @pytest.fixture
    def reader(self, records, monkeypatch, client):
        def refuse(*_, **__):
            raise ForbiddenError("denied", method="PUT", status=403)

        monkeypatch.setattr(client, "put_manifest", refuse)
        return records

    @pytest.mark.parametrize("tag", [tag for tag in RECORDS if tag.startswith(("meta-", "import-"))])
    def test_metadata_is_a_warning(self, reader, repository, caplog, tag):
        with caplog.at_level(logging.WARNING):
            assert WriteResult.FORBIDDEN == reader.write(repository, PROJECT, RECORDS[tag][0])
        assert "is not written: denied" in caplog.text

    @pytest.mark.parametrize("tag", [tag for tag in RECORDS if not tag.startswith(("meta-", "import-"))])
    def test_any_other_record_is_an_error(self, reader, repository, tag):
        with pytest.raises(ForbiddenError):
            reader.write(repository, PROJECT, RECORDS[tag][0])


class TestCustomTag:
    def test_it_is_given_checked_and_taken_and_the_stage_stays(self, records, repository, maker):
        stage = push_image(repository.host, PATH, str(STAGE))
        custom = CustomTag("v1.2", STAGE)
        records.add_custom_tag(repository, PROJECT, custom)
        assert stage.digest == maker.digest(PATH, "v1.2")
        records.check_custom_tag(repository, "v1.2", STAGE)
        assert custom == records.read(repository, custom.id).record
        assert ItemResult() == delete_custom_tag(records, repository, "v1.2")
        assert [str(STAGE)] == maker.tags(PATH)
        assert stage.manifest == maker.manifest(PATH, str(STAGE))
        assert NOT_THERE == delete_custom_tag(records, repository, "v1.2")

    def test_the_slug_of_the_tag_takes_it_too(self, records, repository, maker):
        push_image(repository.host, PATH, str(STAGE))
        records.add_custom_tag(repository, PROJECT, CustomTag("V1", STAGE))
        delete_custom_tag(records, repository, CustomTag("V1", STAGE).id.name)
        assert [str(STAGE)] == maker.tags(PATH)

    def test_a_tag_without_record_is_nobodys(self, records, repository, maker):
        push_image(repository.host, PATH, "latest")
        delete_custom_tag(records, repository, "latest")
        assert ["latest"] == maker.tags(PATH)

    def test_no_tag_is_given_to_what_is_missing_or_rejected(self, records, repository, maker):
        with pytest.raises(StageNotFoundError):
            records.add_custom_tag(repository, PROJECT, CustomTag("v1", STAGE))
        push_image(repository.host, PATH, str(STAGE))
        records.write(repository, PROJECT, RejectedStage(STAGE))
        with pytest.raises(StageNotFoundError):
            records.add_custom_tag(repository, PROJECT, CustomTag("v1", STAGE))
        assert {str(STAGE), STAGE.rejected_tag} == set(maker.tags(PATH))

    def test_a_tag_that_moved_or_is_missing_is_found_out(self, records, repository):
        push_image(repository.host, PATH, str(STAGE))
        with pytest.raises(CustomTagError, match="has no tag v1"):
            records.check_custom_tag(repository, "v1", STAGE)
        push_image(repository.host, PATH, "v1", layers=[b"other"])
        with pytest.raises(CustomTagError, match="but another image"):
            records.check_custom_tag(repository, "v1", STAGE)

    @pytest.mark.parametrize(
        ("failing", "words"),
        [
            ("v1", "the tag v1 cannot be deleted: "),
            ("custom-tag-meta-v1", "its record custom-tag-meta-v1 cannot be: "),
        ],
    )
    def test_an_error_says_which_of_the_two_failed_and_the_rest_is_done_later(
        self, records, tag_registry, client, monkeypatch, failing, words
    ):
        repository = Repository(tag_registry.host, PATH)
        push_image(tag_registry.host, PATH, str(STAGE))
        records.add_custom_tag(repository, PROJECT, CustomTag("v1", STAGE))
        delete_manifest = client.delete_manifest

        def refuse(reference, **options):
            if reference.tag == failing:
                raise ForbiddenError("denied", method="DELETE", status=403)
            delete_manifest(reference, **options)

        monkeypatch.setattr(client, "delete_manifest", refuse)
        with pytest.raises(ForbiddenError, match=words):
            delete_custom_tag(records, repository, "v1")
        monkeypatch.undo()
        delete_custom_tag(records, repository, "v1")
        assert [str(STAGE)] == sorted(client.tags(repository))


class TestRejectedStage:
    def remove(self, records, repository):
        to_delete = [str(STAGE)]
        return records.delete_rejected_stage(repository, STAGE, run_id="r", to_delete=lambda: to_delete)

    @pytest.mark.parametrize("pushed", [True, False])
    def test_image_and_record_go(self, records, repository, maker, pushed):
        push_image(repository.host, PATH, "latest")
        if pushed:
            push_image(repository.host, PATH, str(STAGE))
        records.write(repository, PROJECT, RejectedStage(STAGE))
        assert ItemResult() == self.remove(records, repository)
        assert ["latest"] == maker.tags(PATH)
        assert NOT_THERE == self.remove(records, repository)

    def test_a_stage_that_is_not_rejected_stays(self, records, repository, maker):
        push_image(repository.host, PATH, str(STAGE))
        with pytest.raises(StageNotFoundError, match="not rejected: it stays"):
            self.remove(records, repository)
        assert [str(STAGE)] == maker.tags(PATH)

    def test_the_fleet_knows_at_once_what_is_rejected(self, stage_tasks, repository):
        push_image(repository.host, PATH, str(STAGE))
        stage_tasks.describe_stage(repository, STAGE)
        stage_tasks.records.write(repository, PROJECT, RejectedStage(STAGE))
        with pytest.raises(StageNotFoundError, match="rejected"):
            stage_tasks.describe_stage(repository, STAGE)
        delete(stage_tasks.records, repository, RejectedStage(STAGE).id)
        assert STAGE == stage_tasks.describe_stage(repository, STAGE).stage_id


@pytest.mark.parametrize("writes", range(1, 6))
def test_a_worker_that_dies_after_any_write_leaves_a_custom_tag_that_the_next_finishes(
    records, repository, maker, tmp_path, writes
):
    stage = push_image(repository.host, PATH, str(STAGE))
    records.add_custom_tag(repository, PROJECT, CustomTag("v1", STAGE))
    with DyingClient(DockerConfig(tmp_path / "none.json"), writes) as dying, contextlib.suppress(Death):
        delete_custom_tag(RecordTasks(make_storages(dying)), repository, "v1")
    assert stage.digest == maker.digest(PATH, str(STAGE))
    delete_custom_tag(records, repository, "v1")
    assert {str(STAGE)} == {tag for tag in maker.tags(PATH) if not tag.startswith("stagefleet-probe-")}
