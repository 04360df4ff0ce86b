from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stagefleet.names import StageId
from stagefleet.shared_state.tag_lists import StageIdList, pack_id

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
