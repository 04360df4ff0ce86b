"""Custom tags of a project with a final storage: the tag there, the record in the primary storage."""

from __future__ import annotations

from typing import cast

import pytest

from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.errors import CustomTagError, ForbiddenError, StageNotFoundError
from stagefleet.images import ImageInfo
from stagefleet.records.models import CustomTag
from stagefleet.storages.base import StoredRecord
from stagefleet.storages.storages import Storages
from tasks.records import delete_stage_custom_tag, rm_image_metadata


@pytest.fixture
def custom(fakes):
    """The tag `v1` of a stage that both storages have, in the final one with another manifest."""
    for repository in (fakes.source, fakes.destination):
        layers = (str(repository).encode(),)
        fakes.registries.push(repository, str(fakes.stage(1)), layers=layers)
    return CustomTag("v1", fakes.stage(1))


@pytest.fixture
def add(fakes, custom):
    add = fakes.stage_tasks.records.add_custom_tag
    return lambda: add(fakes.source, "app", custom, final=fakes.destination)


@pytest.fixture
def delete(fakes, custom):
    def delete(**options):
        options = {"final": fakes.destination, "run_id": "r", "to_delete": lambda: [custom.id.tag], **options}
        return fakes.stage_tasks.records.delete_custom_tag(fakes.source, custom.id, **options)

    return delete


def test_the_tag_is_set_in_the_final_storage_and_the_record_in_the_primary(fakes, custom, add):
    """I1: as the build tool has it."""
    add()
    stored = fakes.registries.stored(fakes.destination)
    assert stored.tags[str(custom.stage_id)] == stored.tags["v1"]
    assert {str(custom.stage_id), custom.id.tag} == fakes.tags(fakes.source)
    fakes.stage_tasks.records.check_custom_tag(fakes.source, "v1", custom.stage_id, final=fakes.destination)


def test_a_stage_that_was_not_published_gets_no_tag(fakes, custom, add):
    """I1: and no record either."""
    del fakes.registries.stored(fakes.destination).tags[str(custom.stage_id)]
    with pytest.raises(StageNotFoundError, match=r"b\.example.*publish it first"):
        add()
    assert custom.id.tag not in fakes.tags(fakes.source)


def test_a_check_looks_into_the_final_storage(fakes, custom, add):
    """I1: a tag in the primary one is not it; the advice for a repository alone names the way."""
    add()
    fakes.registries.push(fakes.source, "v1", layers=(str(fakes.source).encode(),))
    del fakes.registries.stored(fakes.destination).tags["v1"]
    check = fakes.stage_tasks.records.check_custom_tag
    with pytest.raises(CustomTagError, match=r"b\.example/team/app has no tag v1: add it again$"):
        check(fakes.source, "v1", custom.stage_id, final=fakes.destination)
    with pytest.raises(CustomTagError, match="project whose final storage has it"):
        check(fakes.source, "v2", custom.stage_id)


@pytest.mark.parametrize("deletes_by", ["digest", "tag", "siblings"])
def test_the_tag_goes_there_and_the_record_here_and_nothing_else(fakes, custom, add, delete, deletes_by):
    """I1: neither the final stage, nor a foreign tag of its digest, nor a tag of that name here."""
    fakes.registries.deletes = deletes_by
    add()
    stored = fakes.registries.stored(fakes.destination)
    stored.tags["mine"] = stored.tags["v1"]
    fakes.registries.push(fakes.source, "v1", layers=(b"theirs",))
    assert ItemResult() == delete()
    assert {str(custom.stage_id), "mine"} == fakes.tags(fakes.destination)
    assert {str(custom.stage_id), "v1"} == fakes.tags(fakes.source)
    assert NOT_THERE == delete()


def test_the_error_says_which_of_the_two_failed(fakes, custom, add, delete, monkeypatch):
    """I1: the tag in the final storage, or the record in the primary one."""
    add()
    call = fakes.registries.delete_manifest

    def refuse(where):
        def delete_manifest(reference, **options):
            if reference.repository == where and "probe" not in reference.identifier:
                raise ForbiddenError("denied", status=403)
            call(reference, **options)

        return delete_manifest

    monkeypatch.setattr(fakes.registries, "delete_manifest", refuse(fakes.destination))
    with pytest.raises(ForbiddenError, match=r"the tag b\.example/team/app:v1 cannot be deleted"):
        delete()
    assert custom.id.tag in fakes.tags(fakes.source)
    monkeypatch.setattr(fakes.registries, "delete_manifest", refuse(fakes.source))
    with pytest.raises(ForbiddenError, match="the tag is deleted, but its record custom-tag-meta-v1 cannot"):
        delete()
    assert "v1" not in fakes.tags(fakes.destination)


# What counts as asked for


class Told:
    """Takes down which tags are told to be deleted, and where."""

    def __init__(self, record):
        self.records = self
        self.record = record
        self.told = {}

    def open(self, address):
        self.address = str(address)
        return self

    def read(self, _record_id):
        return None if self.record is None else StoredRecord(self.record, "app", ImageInfo.model_construct())

    def delete_tag(self, tag, attempt, *, check):
        self.told[self.address] = list(attempt.to_delete())
        return ItemResult()

    def delete(self, _record_id, attempt):
        self.told[self.address] = list(attempt.to_delete())
        return ItemResult()


@pytest.fixture
def told():
    """What a task tells the storages of a run's items."""

    def told(task, options, *items, record=None):
        storages = Told(record)
        options = {"repository": "a.example/app", **options}
        attempt = Attempt("r", items[0], options, to_delete=lambda: iter(items))
        task(cast("Storages", storages), attempt)
        return storages.told

    return told


def test_a_tag_counts_as_asked_for_only_where_a_record_says_that_it_is_ours(told):
    """R50: what an item names may be the slug of another tag, or a tag that nobody gave."""
    found = told(delete_stage_custom_tag, {}, "v1", "a-54dcf7ce")
    assert {"a.example/app": ["custom-tag-meta-v1", "custom-tag-meta-a-54dcf7ce"]} == found


def test_a_task_is_told_where_the_tags_are(fakes, told):
    """I1: the option of the run; there the record's tags say nothing of what goes."""
    custom = CustomTag("v1", fakes.stage(1))
    found = told(delete_stage_custom_tag, {"final": "b.example/app"}, "v1", record=custom)
    assert {"b.example/app": [], "a.example/app": ["custom-tag-meta-v1"]} == found


def test_metadata_counts_as_asked_for_only_where_one_can_be_meant(fakes, told):
    """R50: a name that is the hash of another image stands for two records."""
    item = f"{'c0' * 20}_{fakes.stage(1)}"
    ((tag,),) = told(rm_image_metadata, {"image": "web"}, item).values()
    assert tag.endswith(f"_{item}")
    assert {"a.example/app": []} == told(rm_image_metadata, {"image": "abcd1234"}, item)
