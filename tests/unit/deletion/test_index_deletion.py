"""An index goes with those of its members that nothing else uses."""

from __future__ import annotations

import pytest

from stagefleet.names import StageId


@pytest.fixture
def stored(fakes):
    return fakes.registries.stored(fakes.source)


@pytest.fixture
def push_member(fakes):
    def push(number, tag=None):
        return fakes.registries.push(fakes.source, tag, layers=(f"own {number}".encode(),))

    return push


@pytest.fixture
def push_index(fakes):
    """Pushes a multi-platform stage."""

    def push(number, members):
        index = StageId(fakes.stage(number).digest)
        fakes.registries.push_index(fakes.source, str(index), members)
        return index

    return push


def test_the_members_of_an_index_go_with_it(fakes, stored, push_member, push_index):
    members = [push_member(1), push_member(2)]
    fakes.delete(push_index(9, members))
    assert {} == stored.manifests


def test_the_members_of_an_inner_index_go_too(fakes, stored, push_member, push_index):
    inner = fakes.registries.push_index(fakes.source, None, [push_member(1)])
    fakes.delete(push_index(9, [inner]))
    assert {} == stored.manifests


@pytest.mark.parametrize("kind", ["stage", "foreign"])
def test_a_member_that_has_a_tag_stays(fakes, stored, push_member, push_index, kind):
    tag = str(fakes.stage(1)) if kind == "stage" else "release"
    tagged, own = push_member(1, tag), push_member(2)
    fakes.delete(push_index(9, [tagged, own]))
    assert ({tag: tagged}, {tagged}) == (stored.tags, set(stored.manifests))


def test_a_member_of_an_index_that_stays_stays(fakes, stored, push_member, push_index):
    shared, own = push_member(1), push_member(2)
    kept = push_index(8, [shared])
    fakes.delete(push_index(9, [shared, own]))
    assert {str(kept)} == fakes.tags(fakes.source)
    assert {shared, stored.tags[str(kept)]} == set(stored.manifests)


def test_a_member_of_two_indexes_stays_until_the_second_goes(fakes, stored, push_member, push_index):
    shared = push_member(1)
    first, second = push_index(8, [shared]), push_index(9, [shared, push_member(2)])
    fakes.delete(first, [first, second])
    assert shared in stored.manifests
    fakes.delete(second, [first, second])
    assert {} == stored.manifests


def test_an_index_that_another_tag_keeps_keeps_its_members(fakes, stored, push_member, push_index):
    member = push_member(1)
    index = push_index(9, [member])
    digest = stored.tags[str(index)]
    fakes.registries.push_index(fakes.source, "release", [member])
    fakes.delete(index)
    assert ({"release": digest}, {digest, member}) == (stored.tags, set(stored.manifests))


def test_a_foreign_tag_that_is_asked_for_too_is_no_obstacle(fakes, stored):
    stage_id = fakes.stage(1)
    for tag in (str(stage_id), "release"):
        fakes.registries.push(fakes.source, tag)
    fakes.delete(stage_id, [str(stage_id), "release"])
    assert ({}, []) == (
        stored.tags,
        [write for write in fakes.registries.writes if write[1] == str(stage_id)],
    )
