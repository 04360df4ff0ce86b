"""Ids for stages that are about to be built."""

from __future__ import annotations

import time

from stagefleet.projects.lookup import new_created_ms


def test_the_current_time_is_taken_where_it_is_free():
    before = time.time_ns() // 1_000_000
    assert before <= new_created_ms(set()) <= time.time_ns() // 1_000_000


def test_a_time_that_is_taken_is_passed_over_with_all_that_follow_it():
    assert 12 == new_created_ms({10, 11, 13}, 10)


def test_as_many_stages_as_one_likes_may_be_made_in_one_millisecond():
    taken: set[int] = set()
    for _ in range(100):
        taken.add(new_created_ms(taken, 1000))
    assert set(range(1000, 1100)) == taken
