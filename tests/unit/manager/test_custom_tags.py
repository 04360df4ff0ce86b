"""Custom tags of a project with a final storage: the tag there, the record in the primary storage."""

from __future__ import annotations

from typing import cast

import pytest

from stagefleet.errors import CustomTagError, ForbiddenError, StageNotFoundError
from stagefleet.manager import StageManager
from stagefleet.manager.produced import Produced
from stagefleet.records import CustomTag
from stagefleet.registry.leash import UNLEASHED
from tasks.base import Job
from tasks.records import delete_stage_custom_tag, rm_image_metadata


@pytest.fixture
def custom(world):
    """The tag `v1` of a stage that both storages have, in the final one with another manifest."""
    for repository in (world.source, world.destination):
        layers = (str(repository).encode(),)
        world.registries.push(repository, str(world.stage(1)), layers=layers)
    return CustomTag("v1", world.stage(1))


@pytest.fixture
def add(world, custom):
    add = world.manager.records.add_custom_tag
    return lambda: add(world.source, "app", custom, final=world.destination)


@pytest.fixture
def delete(world, custom):
    def delete(**options):
        options = {"final": world.destination, "run": "r", "asked": lambda: [custom.id.tag], **options}
        return world.manager.records.delete_custom_tag(world.source, custom.id, **options)

    return delete


def test_the_tag_is_set_in_the_final_storage_and_the_record_in_the_primary(world, custom, add):
    """I1: as the build tool has it."""
    add()
    shelf = world.registries.shelf(world.destination)
    assert shelf.tags[str(custom.stage_id)] == shelf.tags["v1"]
    assert {str(custom.stage_id), custom.id.tag} == world.tags(world.source)
    world.manager.records.check_custom_tag(world.source, "v1", custom.stage_id, final=world.destination)


def test_a_stage_that_was_not_published_gets_no_tag(world, custom, add):
    """I1: and no record either."""
    del world.registries.shelf(world.destination).tags[str(custom.stage_id)]
    with pytest.raises(StageNotFoundError, match=r"b\.example.*publish it first"):
        add()
    assert custom.id.tag not in world.tags(world.source)


def test_a_check_looks_into_the_final_storage(world, custom, add):
    """I1: a tag in the primary one is not it; the advice for a repository alone names the way."""
    add()
    world.registries.push(world.source, "v1", layers=(str(world.source).encode(),))
    del world.registries.shelf(world.destination).tags["v1"]
    check = world.manager.records.check_custom_tag
    with pytest.raises(CustomTagError, match=r"b\.example/team/app has no tag v1: add it again$"):
        check(world.source, "v1", custom.stage_id, final=world.destination)
    with pytest.raises(CustomTagError, match="project whose final storage has it"):
        check(world.source, "v2", custom.stage_id)


@pytest.mark.parametrize("deletes_by", ["digest", "tag", "siblings"])
def test_the_tag_goes_there_and_the_record_here_and_nothing_else(world, custom, add, delete, deletes_by):
    """I1: neither the final stage, nor a foreign tag of its digest, nor a tag of that name here."""
    world.registries.deletes = deletes_by
    add()
    shelf = world.registries.shelf(world.destination)
    shelf.tags["mine"] = shelf.tags["v1"]
    world.registries.push(world.source, "v1", layers=(b"theirs",))
    assert Produced() == delete()
    assert {str(custom.stage_id), "mine"} == world.tags(world.destination)
    assert {str(custom.stage_id), "v1"} == world.tags(world.source)
    assert Produced() == delete()


def test_the_error_says_which_of_the_two_failed(world, custom, add, delete, monkeypatch):
    """I1: the tag in the final storage, or the record in the primary one."""
    add()
    call = world.registries.delete_manifest

    def refuse(where):
        def delete_manifest(reference, **options):
            if reference.repository == where and "probe" not in reference.identifier:
                raise ForbiddenError("denied", status=403)
            call(reference, **options)

        return delete_manifest

    monkeypatch.setattr(world.registries, "delete_manifest", refuse(world.destination))
    with pytest.raises(ForbiddenError, match=r"the tag b\.example/team/app:v1 cannot be deleted"):
        delete()
    assert custom.id.tag in world.tags(world.source)
    monkeypatch.setattr(world.registries, "delete_manifest", refuse(world.source))
    with pytest.raises(ForbiddenError, match="the tag is deleted, but its record custom-tag-meta-v1 cannot"):
        delete()
    assert "v1" not in world.tags(world.destination)


# What counts as asked for


class Told:
    """Takes down what is told to be asked for."""

    def __init__(self):
        self.records = self
        self.told = None

    def note(self, _place, *, asked, **options):
        self.told, self.options = list(asked()), options
        return Produced()

    delete_custom_tag = delete_image_metadata = note


@pytest.fixture
def told():
    """What a task tells the manager of a run's items."""

    def told(task, options, *items):
        manager = Told()
        options = {"repository": "a.example/app", **options}
        job = Job(run="r", item=items[0], options=options, leash=UNLEASHED, asked=lambda: iter(items))
        task(cast("StageManager", manager), job)
        return manager

    return told


def test_a_tag_counts_as_asked_for_only_where_a_record_says_that_it_is_ours(told):
    """R50: what an item names may be the slug of another tag, or a tag that nobody gave."""
    found = told(delete_stage_custom_tag, {}, "v1", "a-54dcf7ce")
    assert ["custom-tag-meta-v1", "custom-tag-meta-a-54dcf7ce"] == found.told


def test_a_task_is_told_where_the_tags_are(told):
    """I1: the option of the run."""
    found = told(delete_stage_custom_tag, {"final": "b.example/app"}, "v1")
    assert "b.example/app" == str(found.options["final"])


def test_metadata_counts_as_asked_for_only_where_one_can_be_meant(world, told):
    """R50: a name that is the hash of another image stands for two records."""
    item = f"{'c0' * 20}_{world.stage(1)}"
    (tag,) = told(rm_image_metadata, {"image": "web"}, item).told
    assert tag.endswith(f"_{item}")
    assert [] == told(rm_image_metadata, {"image": "abcd1234"}, item).told
