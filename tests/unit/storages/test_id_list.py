from __future__ import annotations

import tracemalloc

from hypothesis import given, strategies as st

from stagefleet.names import StageId
from stagefleet.stage_lists import StageIdList, StageNames, pack_id

STAGE_IDS = st.builds(
    StageId, st.sampled_from(["00" * 28, "ab" * 28, "ff" * 28]), st.sampled_from([0, 1, 255, 256, 2**63 - 1])
)


@given(st.lists(STAGE_IDS))
def test_it_holds_each_id_once_in_order(stage_ids):
    assert sorted(set(stage_ids)) == list(StageIdList(stage_ids))
    assert len(set(stage_ids)) == len(StageIdList(stage_ids))


@given(st.lists(STAGE_IDS), STAGE_IDS)
def test_it_knows_what_it_holds(stage_ids, other):
    assert (other in stage_ids) == (other in StageIdList(stage_ids))


@given(st.lists(STAGE_IDS), st.sets(STAGE_IDS))
def test_without_leaves_out_what_is_named(stage_ids, others):
    assert sorted(set(stage_ids) - others) == list(StageIdList(stage_ids).without(others))


@given(st.lists(STAGE_IDS), STAGE_IDS)
def test_one_id_is_added_or_taken_away_wherever_it_belongs(stage_ids, other):
    listed = StageIdList(stage_ids)
    assert sorted({*stage_ids, other}) == list(listed.replacing(other, pack_id(other)))
    assert sorted({*stage_ids} - {other}) == list(listed.replacing(other, b""))


def test_other_things_are_not_in_it():
    other: object = "ab" * 28
    assert other not in StageIdList([StageId("ab" * 28)])


@given(st.lists(STAGE_IDS), st.lists(STAGE_IDS))
def test_names_are_split_by_another_list(stage_ids, others):
    lacking, common = StageNames(StageIdList(stage_ids)).split(StageIdList(others))
    assert sorted(set(stage_ids) - set(others)) == list(map(StageId.parse, lacking))
    assert sorted(set(stage_ids) & set(others)) == list(map(StageId.parse, common))
    assert (len(lacking), len(common)) == (len(list(lacking)), len(list(common)))


def test_names_are_a_sequence():
    names = StageNames(StageIdList(StageId("ab" * 28, number) for number in range(1, 5)))
    assert f"{'ab' * 28}-1" == names[0]
    assert f"{'ab' * 28}-4" == names[-1]
    assert list(names)[1:3] == list(names[1:3])
    assert names[2] in names


def test_a_plan_takes_few_bytes_a_stage():
    count, digest = 20_000, "ab" * 28
    tracemalloc.start()
    source = StageIdList(StageId(digest, number) for number in range(1, count + 1))
    destination = StageIdList(StageId(digest, 2 * number) for number in range(1, count + 1))
    planned = StageNames(source).split(destination)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [count // 2] * 2 == list(map(len, planned))
    assert most / count < 100  # two lists of 36 bytes, a position of 4, and the growth of arrays
