"""What `DescriptionCache` promises."""

from datetime import UTC, datetime

import pytest
import structlog

from stagefleet.names import StageId
from stagefleet.settings import CacheSettings, Settings
from stagefleet.stages import ImageInfo, StageDescription
from stagefleet.storages.descriptions import MemoryDescriptions, RedisDescriptions

ENTRIES = 50
STORAGE = "registry.example.com/app/stages"


def description_of(number):
    stage_id = StageId("a" * 56, 1_700_000_000_000 + number)
    info = ImageInfo(
        name=f"{STORAGE}:{stage_id}",
        repository=STORAGE,
        tag=str(stage_id),
        repo_digest=f"{STORAGE}@sha256:{number:064x}",
        image_id=f"sha256:{number:064x}",
        labels={"werf": "project", "日本": "ß"},
        env=("A=1",),
        size=number,
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    return StageDescription(stage_id=stage_id, info=info)


@pytest.fixture(params=["memory", "redis"])
def cache(request):
    settings = CacheSettings(entries=ENTRIES)
    if request.param == "memory":
        yield MemoryDescriptions(settings)
        return
    url = request.getfixturevalue("redis_server").url
    cache = RedisDescriptions.connect(url, Settings(caches=settings))
    yield cache
    cache.close()


def test_what_was_remembered_is_found_as_it_was(cache):
    known = [description_of(number) for number in range(3)]
    cache.remember(STORAGE, known)

    asked = [known[2].stage_id, description_of(9).stage_id, known[0].stage_id]

    assert [known[2], None, known[0]] == cache.find(STORAGE, asked)


def test_one_storage_knows_nothing_of_another(cache):
    cache.remember(STORAGE, [description_of(1)])

    assert [None] == cache.find("elsewhere.example.com/app", [description_of(1).stage_id])


def test_what_was_forgotten_is_not_found(cache):
    cache.remember(STORAGE, [description_of(1), description_of(2)])
    cache.forget(STORAGE, [description_of(1).stage_id])

    assert [None, description_of(2)] == cache.find(
        STORAGE, [description_of(1).stage_id, description_of(2).stage_id]
    )


def test_nothing_asked_is_nothing_found(cache):
    cache.remember(STORAGE, [])
    cache.forget(STORAGE, [])

    assert [] == cache.find(STORAGE, [])


def test_the_cache_is_bounded(cache):
    everything = [description_of(number) for number in range(3 * ENTRIES)]
    for entry in everything:
        cache.remember(STORAGE, [entry])

    found = cache.find(STORAGE, [entry.stage_id for entry in everything])

    assert ENTRIES == sum(entry is not None for entry in found)


def test_a_redis_out_of_reach_is_an_empty_cache(make_redis):
    server = make_redis()
    cache = RedisDescriptions.connect(server.url, Settings())
    cache.remember(STORAGE, [description_of(1)])
    server.kill()

    with structlog.testing.capture_logs() as logs:
        cache.remember(STORAGE, [description_of(2)])
        cache.forget(STORAGE, [description_of(2).stage_id])
        assert [None] == cache.find(STORAGE, [description_of(1).stage_id])
    assert ["descriptions_out_of_reach"] == [log["event"] for log in logs]
    cache.close()


def test_an_entry_of_another_version_is_asked_anew(redis_server):
    cache = RedisDescriptions.connect(redis_server.url, Settings())
    stage_id = description_of(1).stage_id
    for data in (b"{}", b"x\x9cnonsense", b"{"):
        redis_server.client().hset(f"stagefleet:descriptions:{STORAGE}", str(stage_id), data)
        assert [None] == cache.find(STORAGE, [stage_id])
    cache.close()
