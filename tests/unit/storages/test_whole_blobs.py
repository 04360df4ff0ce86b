"""What registries make of a whole blob in one POST, and what the fleet remembers of that."""

from __future__ import annotations

import pytest

from stagefleet.errors import ForbiddenError
from stagefleet.names import StageId


@pytest.fixture
def near(course):
    """The registries answer at once."""
    course.rounds.quiet_seconds = 0
    return course


def stage_of(number):
    return StageId(f"{number:056x}", 1700000000000 + number)


def copy_stages(course, numbers):
    """Copy stages with a layer of their own each; returns the requests of the last one."""
    for number in numbers:
        course.push(str(stage_of(number)), f"layer {number}".encode() * 100)
        course.rounds.requests = [[]]
        course.copy(stage_of(number))
    return course.rounds.total


def test_a_login_that_may_not_push_says_nothing_of_the_registry(near):
    near.destination.takes_whole_blobs = True
    near.destination.on_request = lambda request: (403, {}, b"") if "POST" in request else None
    near.push(str(stage_of(0)), b"layer")
    with pytest.raises(ForbiddenError):
        near.copy(stage_of(0))
    near.destination.on_request = lambda _: None
    copy_stages(near, range(1, 7))
    assert 6 == copy_stages(near, [7])


def test_content_that_a_registry_kept_of_a_post_it_did_not_take_is_sent_anew(near):
    near.destination.keeps_content = True
    copy_stages(near, range(2))
    assert 8 == copy_stages(near, [2])


def test_a_registry_that_takes_small_blobs_alone_is_not_sent_larger_ones_in_vain(near):
    near.destination.takes_whole_blobs = True
    near.destination.most_whole_bytes = 500
    copy_stages(near, range(9))
    assert 7 == copy_stages(near, [9])
