"""Look-ups beside those of a project: in any storage, from lists known before, of what is not built yet."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from stagefleet import Fleet, Settings
from stagefleet.names import Repository, StageId
from stagefleet.project_addresses import Project
from tests.integration.storages.pushing import DIGEST, OTHER, ids, lists, push, stage


@pytest.fixture
def roles(registry):
    primary, final, cache, secondary = (
        Repository(registry.host, f"app/{name}") for name in ("primary", "final", "cache", "secondary")
    )
    return Project("app", primary, final, (cache,), (secondary,))


@pytest.fixture
def fleet():
    with Fleet.embedded(settings=Settings()) as fleet:
        yield fleet


@pytest.fixture
def elsewhere(stage_tasks, roles):
    """The look-up of the secondary storage; the project's caches know its stages too."""
    return stage_tasks.project(Project("app", roles.secondaries[0], caches=roles.caches)).lookup


class TestInAnyStorage:
    def test_a_digest_is_looked_up_there_and_nowhere_else(self, elsewhere, roles):
        push(roles.primary, stage(1))
        push(roles.secondaries[0], stage(2), stage(3), stage(4, OTHER))
        push(roles.caches[0], stage(3))
        found = elsewhere.by_digest(DIGEST)

        assert [stage(2), stage(3)] == ids(found)
        assert {str(roles.secondaries[0])} == {description.info.repository for description in found}

    def test_its_last_known_list_answers_until_it_gives_nothing(self, elsewhere, roles, registry):
        secondary = roles.secondaries[0]
        push(secondary, stage(1))
        assert [stage(1)] == ids(elsewhere.by_digest_as_known(DIGEST))
        before = lists(registry, secondary)
        push(secondary, stage(2), stage(3, OTHER))

        assert [stage(1)] == ids(elsewhere.by_digest_as_known(DIGEST))
        assert before == lists(registry, secondary)
        assert [stage(3, OTHER)] == ids(elsewhere.by_digest_as_known(OTHER))
        assert before + 1 == lists(registry, secondary)


class TestNewStages:
    def test_an_id_is_none_of_those_that_are_there(self, stage_tasks, roles):
        lookup = stage_tasks.project(replace(roles, caches=())).lookup
        built = lookup.new_stage_id(DIGEST)
        ahead = [StageId(DIGEST, built.created_ms + number) for number in range(60_000)]
        push(roles.primary, *islice(ahead, 2))
        listed = set(lookup.stage_ids())

        assert set(ahead[:2]) == listed
        assert lookup.new_stage_id(DIGEST) not in listed
        following = lookup.new_stage_id(DIGEST, known=ahead)  # a clock that is a minute behind
        assert ahead[-1].created_ms + 1 == following.created_ms

    def test_stages_of_other_digests_do_not_count(self, stage_tasks, roles):
        lookup = stage_tasks.project(roles).lookup
        now_ms = lookup.new_stage_id(DIGEST).created_ms
        taken = [StageId(OTHER, now_ms + number) for number in range(60_000)]

        assert taken[-1].created_ms > lookup.new_stage_id(DIGEST, known=taken).created_ms


class TestDescriptions:
    def test_all_of_the_primary_are_described_from_the_list_of_now(self, fleet, roles):
        push(roles.primary, stage(1), stage(2))
        assert [stage(1), stage(2)] == ids(fleet.project(roles).describe_stages())
        push(roles.primary, stage(3))
        assert [stage(1), stage(2), stage(3)] == ids(fleet.project(roles).describe_stages())

    def test_those_of_the_last_known_list_ask_for_no_list(self, fleet, roles, registry):
        push(roles.primary, stage(1))
        lookup = fleet.project(roles).lookup
        list(fleet.project(roles).describe_stages(iter(lookup.stage_ids())))  # looks for rejections, once
        before = lists(registry, roles.primary)
        push(roles.primary, stage(2))
        described = list(fleet.project(roles).describe_stages(iter(lookup.last_stage_ids())))

        assert [stage(1)] == ids(described)
        assert before == lists(registry, roles.primary)

    def test_those_of_the_final_storage_have_its_names(self, fleet, roles):
        push(roles.primary, stage(1), stage(2))
        push(roles.final, stage(2))
        (described,) = fleet.describe_stages(roles.final_repository)

        assert f"{roles.final}:{stage(2)}" == described.info.name
