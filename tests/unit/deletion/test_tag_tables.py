"""Tables of tags: found again by digest, and small however many there are."""

from __future__ import annotations

import tracemalloc

import pytest

from stagefleet.deletion import tag_tables
from stagefleet.deletion.tag_tables import (
    MOST_USERS,
    NO_ITEM,
    KnownTable,
    KnownTags,
    ToDeleteTable,
    UserTable,
)
from stagefleet.names import Digest, StageId

SALT = b"0123456789abcdef"
RECORD = f"meta-abc_{'c' * 40}_{'d' * 56}-1700000000000"
LONGEST = "import-metadata-" + "e" * 64


def digest(number):
    return Digest("sha256", f"{number:064x}")


def stage_tag(number):
    return str(StageId(f"{number * 0x9E3779B97F4A7C15 % 2**224:056x}", 1700000000000 + number))


def find(parts, number):
    return UserTable.find(parts[UserTable.part_of(digest(number), SALT, len(parts))], digest(number), SALT)


class TestTables:
    def test_a_use_of_a_kind_that_a_later_release_adds_is_a_use(self, monkeypatch):
        """R22: workers of several releases read the parts; in doubt a digest is used, and stays."""
        with monkeypatch.context() as later:
            later.setattr(tag_tables, "_TAG", 7)
            table = UserTable(SALT)
            table.add_tag(str(digest(1)), stage_tag(1))
        assert {stage_tag(1)} == find(table.take_parts(), 1).tags

    @pytest.mark.parametrize("others", [0, 5_000])
    def test_what_uses_a_digest_is_found_by_it(self, others):
        """R22: tags of a digest and indexes that have it as a member come back as they were noted."""
        table = UserTable(SALT)
        for number in range(100, 100 + others):
            table.add_tag(str(digest(number)), stage_tag(number))
        for tag in (stage_tag(1), RECORD, "d" * 56, "d" * 56 + "-0017", "x" * 128):
            table.add_tag(str(digest(1)), tag)
        table.add_member(str(digest(1)), LONGEST)
        parts = table.take_parts()
        found = find(parts, 1)
        assert {stage_tag(1), RECORD, "d" * 56, "d" * 56 + "-0017", "x" * 128} == found.tags
        assert ({LONGEST}, False) == (found.holders, found.has_more)
        assert set() == find(parts, 2).tags

    def test_of_a_digest_that_very_many_tags_share_some_are_told(self):
        """R22: the table's parts stay small also where all tags share one digest."""
        table = UserTable(SALT)
        for number in range(20_000):
            table.add_tag(str(digest(1)), stage_tag(number))
        table.add_tag(str(digest(2)), "other")
        parts = table.take_parts()
        assert (MOST_USERS, True) == (len(find(parts, 1).tags), find(parts, 1).has_more)
        assert {"other"} == find(parts, 2).tags
        assert 50_000 > max(map(len, parts))

    @pytest.mark.parametrize("others", [0, 5_000])
    def test_tags_that_were_noted_are_known_and_no_others(self, others):
        table = KnownTable(SALT)
        for number in range(others):
            table.add(stage_tag(number))
        table.add(RECORD)
        known = KnownTags(table.take_parts(), SALT)
        assert RECORD in known
        assert [number < others for number in range(4_000, 6_000)] == [
            stage_tag(number) in known for number in range(4_000, 6_000)
        ]

    @pytest.mark.parametrize("others", [0, 5_000])
    def test_tags_that_are_asked_for_are_found_with_their_item(self, others):
        table = ToDeleteTable(SALT)
        for number in range(others):
            table.add(stage_tag(number), number)
        table.add("release", None)
        parts = table.take_parts()

        def item(tag):
            return ToDeleteTable.find(parts[ToDeleteTable.part_of(tag, SALT, len(parts))], tag, SALT)

        assert (NO_ITEM, None) == (item("release"), item("v2"))
        assert [number if number < others else None for number in range(4_990, 5_010)] == [
            item(stage_tag(number)) for number in range(4_990, 5_010)
        ]


def test_the_tables_of_a_reference_scan_cost_some_bytes_a_tag_while_they_are_made():
    """R22: who makes a reference scan needs under 120 bytes for each stage at once, besides what is empty."""
    count = 4_000
    tracemalloc.start()
    users, known, to_delete = UserTable(SALT), KnownTable(SALT), ToDeleteTable(SALT)
    empty = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        tag = stage_tag(number)
        users.add_tag(str(digest(number)), tag)
        known.add(tag)
        to_delete.add(tag, number)
    parts = [table.take_parts() for table in (users, known, to_delete)]
    peak = tracemalloc.get_traced_memory()[1] - empty
    tracemalloc.stop()
    assert [46, 8, 12] == [sum(map(len, table)) / count for table in parts]
    assert 120 > peak / count
