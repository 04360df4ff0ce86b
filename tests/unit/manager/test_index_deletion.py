"""An index goes with those of its members that nothing else uses."""

from __future__ import annotations

import pytest

from stagefleet.names import StageId


@pytest.fixture
def shelf(world):
    return world.registries.shelf(world.source)


@pytest.fixture
def push_member(world):
    def push(number, tag=None):
        return world.registries.push(world.source, tag, layers=(f"own {number}".encode(),))

    return push


@pytest.fixture
def push_index(world):
    """Pushes a multi-platform stage."""

    def push(number, members):
        index = StageId(world.stage(number).digest)
        world.registries.push_index(world.source, str(index), members)
        return index

    return push


def test_the_members_of_an_index_go_with_it(world, shelf, push_member, push_index):
    members = [push_member(1), push_member(2)]
    world.delete(push_index(9, members))
    assert {} == shelf.manifests


def test_the_members_of_an_inner_index_go_too(world, shelf, push_member, push_index):
    inner = world.registries.push_index(world.source, None, [push_member(1)])
    world.delete(push_index(9, [inner]))
    assert {} == shelf.manifests


@pytest.mark.parametrize("kind", ["stage", "foreign"])
def test_a_member_that_has_a_tag_stays(world, shelf, push_member, push_index, kind):
    tag = str(world.stage(1)) if kind == "stage" else "release"
    tagged, own = push_member(1, tag), push_member(2)
    world.delete(push_index(9, [tagged, own]))
    assert ({tag: tagged}, {tagged}) == (shelf.tags, set(shelf.manifests))


def test_a_member_of_an_index_that_stays_stays(world, shelf, push_member, push_index):
    shared, own = push_member(1), push_member(2)
    kept = push_index(8, [shared])
    world.delete(push_index(9, [shared, own]))
    assert {str(kept)} == world.tags(world.source)
    assert {shared, shelf.tags[str(kept)]} == set(shelf.manifests)


def test_a_member_of_two_indexes_stays_until_the_second_goes(world, shelf, push_member, push_index):
    shared = push_member(1)
    first, second = push_index(8, [shared]), push_index(9, [shared, push_member(2)])
    world.delete(first, [first, second])
    assert shared in shelf.manifests
    world.delete(second, [first, second])
    assert {} == shelf.manifests


def test_an_index_that_another_tag_keeps_keeps_its_members(world, shelf, push_member, push_index):
    member = push_member(1)
    index = push_index(9, [member])
    digest = shelf.tags[str(index)]
    world.registries.push_index(world.source, "release", [member])
    world.delete(index)
    assert ({"release": digest}, {digest, member}) == (shelf.tags, set(shelf.manifests))


def test_a_foreign_tag_that_is_asked_for_too_is_no_obstacle(world, shelf):
    stage_id = world.stage(1)
    for tag in (str(stage_id), "release"):
        world.registries.push(world.source, tag)
    world.delete(stage_id, [str(stage_id), "release"])
    assert ({}, []) == (shelf.tags, [write for write in world.registries.writes if write[1] == str(stage_id)])
