from __future__ import annotations

import threading

import pytest

from stagefleet.client.describing import describe_all
from stagefleet.errors import BrokenStageError, ForbiddenError, StageNotFoundError
from stagefleet.names import StageId

IDS = [StageId(f"{number:056x}") for number in range(40)]


def test_descriptions_come_in_the_order_of_asking():
    first_may_go = threading.Event()

    def describe(stage_id):
        if stage_id is IDS[0]:
            first_may_go.wait(5)
        if stage_id is IDS[3]:
            first_may_go.set()
        return stage_id

    assert IDS == list(describe_all(describe, IDS, parallel=4, on_left_out=lambda *_: None))


def test_what_is_gone_or_broken_is_left_out_and_said():
    left_out = []

    def describe(stage_id):
        if stage_id is IDS[1]:
            raise StageNotFoundError("gone")
        if stage_id is IDS[2]:
            raise BrokenStageError("broken")
        return stage_id

    found = list(
        describe_all(
            describe, IDS[:4], parallel=2, on_left_out=lambda *args: left_out.append((args[0], str(args[1])))
        )
    )
    assert [IDS[0], IDS[3]] == found
    assert [(IDS[1], "gone"), (IDS[2], "broken")] == left_out


def test_any_other_error_ends_it():
    def describe(stage_id):
        if stage_id is IDS[1]:
            raise ForbiddenError("no")
        return stage_id

    descriptions = describe_all(describe, IDS, parallel=1, on_left_out=lambda *_: None)
    assert IDS[0] == next(descriptions)
    with pytest.raises(ForbiddenError):
        next(descriptions)


def test_ids_are_read_only_a_little_ahead():
    read = []

    def ids():
        for stage_id in IDS:
            read.append(stage_id)
            yield stage_id

    descriptions = describe_all(lambda stage_id: stage_id, ids(), parallel=2, on_left_out=lambda *_: None)
    next(descriptions)
    assert 8 == len(read)
    descriptions.close()


def test_a_fleet_describes_all_or_those_named(fleet, make_stage, notices):
    assert 5 == len(list(fleet.describe_stages("src.test/app")))
    named = list(fleet.describe_stages("src.test/app", [make_stage(2), make_stage(77)]))
    assert [make_stage(2)] == [str(description.stage_id) for description in named]
    assert "is left out" in notices[0]


def test_only_what_is_not_known_is_described_and_the_order_stays():
    described = []

    def describe(stage_id):
        described.append(stage_id)
        return stage_id

    def find(stage_ids):
        return [stage_id if n % 2 else None for n, stage_id in enumerate(stage_ids)]

    assert IDS == list(describe_all(describe, IDS, parallel=3, on_left_out=lambda *_: None, find=find))
    assert IDS[::2] == sorted(described)
