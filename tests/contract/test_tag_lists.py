"""What `TagLists` promises."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stagefleet.names import StageId
from stagefleet.redis_client import connect_redis
from stagefleet.settings import Settings, SharedStateSettings
from stagefleet.shared_state.best_effort import MemoryTagLists, RedisTagLists, TagLists
from stagefleet.stage_lists import StageIdList
from tests.services.processes import wait_until

STORAGE, ELSEWHERE = "registry.example.com/app/stages", "elsewhere.example.com:5000/app"
STAGES, LISTS = 300, 3
DIGEST = "a" * 56


def stage(number, digest=None):
    return StageId(digest or hashlib.sha224(str(number).encode()).hexdigest(), 1_700_000_000_000 + number)


def listed(*stage_ids):
    return StageIdList(stage_ids)


@pytest.fixture(params=["memory", "redis"])
def make_lists(request: pytest.FixtureRequest) -> Iterator[Callable[..., TagLists]]:
    made: list[MemoryTagLists | RedisTagLists] = []

    def make(**settings: Any) -> TagLists:
        chosen = SharedStateSettings(**{"lists": LISTS, "listed_stages": STAGES, **settings})
        if request.param == "memory":
            made.append(MemoryTagLists(chosen))
        else:
            client = connect_redis(request.getfixturevalue("redis_server").url)
            made.append(RedisTagLists(client, prefix=f"t{secrets.token_hex(4)}:", settings=chosen))
        return made[-1]

    yield make
    for lists in made:
        lists.close()


@pytest.fixture
def lists(make_lists):
    return make_lists()


def test_what_was_remembered_is_known_as_it_was(lists):
    everything = [stage(number) for number in range(STAGES - 1)]
    everything.append(StageId(DIGEST))  # multi-platform
    lists.remember(STORAGE, listed(*everything))

    assert sorted(everything) == list(lists.last_known(STORAGE))


def test_nothing_is_known_of_a_storage_that_nobody_listed(lists):
    lists.add(STORAGE, stage(1))
    lists.forget(STORAGE, stage(1))
    lists.remember(ELSEWHERE, listed(stage(1)))

    assert None is lists.last_known(STORAGE)
    assert [] == lists.find(STORAGE, stage(1).digest)


def test_a_storage_without_stages_is_known(lists):
    lists.remember(STORAGE, listed())

    assert [] == list(lists.last_known(STORAGE))
    assert [] == lists.find(STORAGE, DIGEST)


def test_those_of_a_digest_are_found_the_oldest_first(lists):
    wanted = [stage(number, DIGEST) for number in (1, 2, 3)]
    others = [stage(number, DIGEST[:-1] + end) for number, end in ((1, "b"), (2, "9"))]  # stored together
    lists.remember(STORAGE, listed(wanted[2], *others, wanted[0]))
    lists.add(STORAGE, wanted[1])

    assert wanted == lists.find(STORAGE, DIGEST)
    assert [] == lists.find(STORAGE, "b" * 56)


def test_the_next_list_takes_the_place_of_the_last(lists):
    lists.remember(STORAGE, listed(stage(1), stage(2)))
    lists.add(STORAGE, stage(3))
    lists.remember(STORAGE, listed(stage(2)))

    assert [stage(2)] == list(lists.last_known(STORAGE))


def test_what_comes_and_goes_meanwhile_is_brought_up_to_date(lists):
    lists.remember(STORAGE, listed(stage(1), stage(2)))
    for stage_id in (stage(3), stage(3), stage(1)):
        lists.add(STORAGE, stage_id)
    for stage_id in (stage(1), stage(1), stage(9)):
        lists.forget(STORAGE, stage_id)
    assert sorted([stage(2), stage(3)]) == list(lists.last_known(STORAGE))

    lists.add(STORAGE, stage(1))
    lists.forget(STORAGE, stage(3))
    assert sorted([stage(1), stage(2)]) == list(lists.last_known(STORAGE))
    assert ([stage(1)], []) == (
        lists.find(STORAGE, stage(1).digest),
        lists.find(STORAGE, stage(3).digest),
    )


def test_a_list_that_is_too_long_is_not_kept(lists):
    lists.remember(STORAGE, listed(stage(1)))
    lists.remember(STORAGE, listed(*(stage(number) for number in range(STAGES + 1))))
    assert None is lists.last_known(STORAGE)


def test_a_list_that_grows_too_long_is_dropped(lists):
    lists.remember(STORAGE, listed(*(stage(number) for number in range(STAGES - 1))))
    lists.add(STORAGE, stage(STAGES))
    lists.add(STORAGE, stage(STAGES))
    assert STAGES == len(lists.last_known(STORAGE))

    lists.forget(STORAGE, stage(STAGES))
    lists.add(STORAGE, stage(STAGES + 1))
    assert STAGES == len(lists.last_known(STORAGE))

    lists.add(STORAGE, stage(STAGES + 2))
    assert None is lists.last_known(STORAGE)


def test_of_too_many_storages_the_one_not_listed_for_longest_is_forgotten(lists):
    names = [f"registry.example.com/app/{number}" for number in range(LISTS)]
    for name in (*names, names[0], "registry.example.com/one/more"):
        lists.remember(name, listed(stage(1)))

    known = [lists.last_known(name) is not None for name in (*names, "registry.example.com/one/more")]
    assert [True, False, True, True] == known


def test_a_list_is_not_known_for_ever(make_lists):
    lists = make_lists(list_lifetime_seconds=0.01)
    lists.remember(STORAGE, listed(stage(1)))

    wait_until(lambda: lists.last_known(STORAGE) is None, "the list is too old")
    assert [] == lists.find(STORAGE, stage(1).digest)


def test_a_redis_out_of_reach_knows_no_list(make_redis, caplog):
    server = make_redis()
    lists = RedisTagLists.connect(server.url, Settings())
    lists.remember(STORAGE, listed(stage(1)))
    server.kill()

    caplog.clear()
    lists.remember(STORAGE, listed(stage(2)))
    lists.add(STORAGE, stage(3))
    lists.forget(STORAGE, stage(1))
    assert None is lists.last_known(STORAGE)
    assert [] == lists.find(STORAGE, stage(1).digest)
    assert ["tag_lists_out_of_reach"] == [log.facts["event"] for log in caplog.records]
    lists.close()


def test_a_list_of_another_version_is_not_known(redis_server):
    lists = RedisTagLists.connect(redis_server.url, Settings())
    lists.remember(STORAGE, listed(stage(1, DIGEST)))
    redis_server.client().hset(f"stagefleet:tag-list:{STORAGE}", b"\xaa", b"nonsense")

    assert None is lists.last_known(STORAGE)
    assert [] == lists.find(STORAGE, DIGEST)
    lists.close()


def test_a_stage_takes_forty_bytes(redis_server):
    lists = RedisTagLists.connect(redis_server.url, Settings())
    stages = 50_000
    lists.remember(STORAGE, listed(*(stage(number) for number in range(stages))))

    client: Any = redis_server.client()
    assert 45 > client.memory_usage(f"stagefleet:tag-list:{STORAGE}", samples=0) / stages
    lists.close()
