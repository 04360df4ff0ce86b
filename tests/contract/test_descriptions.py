"""What `DescriptionStore` promises."""

import secrets
from datetime import UTC, datetime

import pytest

from stagefleet.errors import RedisUnreachableError
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.names import StageId
from stagefleet.settings import Settings, SharedStateSettings
from stagefleet.shared_state.remembered_stages import MemoryDescriptions, RedisDescriptions

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
def cache(request, cache_clock):
    settings = SharedStateSettings(entries=ENTRIES)
    if request.param == "memory":
        yield MemoryDescriptions(settings, clock=lambda: cache_clock[0])
        return
    url = request.getfixturevalue("redis_server").url
    cache = RedisDescriptions.connect(url, Settings(caches=settings))
    yield cache
    cache.close()


@pytest.fixture
def cache_clock():
    """The time that a cache in memory sees, in seconds."""
    return [1000.0]


@pytest.fixture
def wait(cache, cache_clock):
    """Lets time pass for the cache."""

    def pass_by(seconds):
        cache_clock[0] += seconds
        if isinstance(cache, RedisDescriptions):
            cache.scripts.clock_offset_ms += round(seconds * 1000)

    return pass_by


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


def test_a_redis_out_of_reach_is_an_empty_cache(make_redis, caplog):
    server = make_redis()
    cache = RedisDescriptions.connect(server.url, Settings())
    cache.remember(STORAGE, [description_of(1)])
    server.kill()

    caplog.clear()
    cache.remember(STORAGE, [description_of(2)])
    assert [None] == cache.find(STORAGE, [description_of(1).stage_id])
    assert ["descriptions_out_of_reach"] == [log.facts["event"] for log in caplog.records]
    cache.close()


def test_a_change_that_cannot_be_told_is_an_error(make_redis):
    """R31: whoever made it tries again; or the old description would stand there for weeks."""
    server = make_redis()
    cache = RedisDescriptions.connect(server.url, Settings())
    server.kill()
    with pytest.raises(RedisUnreachableError):
        cache.forget(STORAGE, [description_of(1).stage_id])
    with pytest.raises(RedisUnreachableError):
        cache.replace(STORAGE, description_of(1))
    cache.close()


def changed(number):
    """The stage of that number after somebody put something else under its name."""
    known = description_of(number)
    return known.model_copy(update={"info": known.info.model_copy(update={"image_id": "sha256:other"})})


def test_what_was_put_there_is_known_and_nothing_that_was_seen_before(cache):
    """R31: a look at a registry that began before the change may end after it."""
    before, after = description_of(1), changed(1)
    cache.remember(STORAGE, [before])
    cache.replace(STORAGE, after)
    cache.remember(STORAGE, [before, description_of(2)])
    assert [after, description_of(2)] == cache.find(STORAGE, [before.stage_id, description_of(2).stage_id])


def test_what_is_gone_stays_unknown_for_as_long_as_a_look_may_take(cache, wait):
    """R31: also where somebody saw it a moment before it went."""
    gone = description_of(1)
    cache.forget(STORAGE, [gone.stage_id])
    cache.remember(STORAGE, [gone])
    assert [None] == cache.find(STORAGE, [gone.stage_id])
    wait(121)
    cache.remember(STORAGE, [gone])
    assert [gone] == cache.find(STORAGE, [gone.stage_id])


def test_a_change_in_one_storage_is_none_in_another(cache):
    cache.forget("elsewhere.example.com/app", [description_of(1).stage_id])
    cache.remember(STORAGE, [description_of(1)])
    assert [description_of(1)] == cache.find(STORAGE, [description_of(1).stage_id])


def test_a_description_of_megabytes_is_cut(cache):
    """R18: whoever remembers it, and whoever replaces it."""
    labels = {f"junk-{number}": "x" * 1000 for number in range(6000)} | {"werf": "app"}
    large = [
        known.model_copy(update={"info": known.info.model_copy(update={"labels": labels})})
        for known in (description_of(1), description_of(2))
    ]
    cache.remember(STORAGE, large[:1])
    cache.replace(STORAGE, large[1])
    for found in cache.find(STORAGE, [known.stage_id for known in large]):
        assert len(found.info.model_dump_json()) <= 16 * 1024
        assert (True, "app") == (found.info.truncated, found.info.labels["werf"])


def test_what_redis_keeps_of_a_description_is_bounded(redis_server):
    """R18: also of what does not compress."""
    cache = RedisDescriptions.connect(redis_server.url, Settings())
    known = description_of(1)
    labels = {secrets.token_hex(500): "" for _ in range(2000)}
    cache.replace(
        STORAGE, known.model_copy(update={"info": known.info.model_copy(update={"labels": labels})})
    )
    client = redis_server.client()
    (entry,) = client.hvals(f"stagefleet:descriptions:{STORAGE}")
    assert len(entry) <= 16 * 1024
    assert client.pttl(f"stagefleet:described-changes:{STORAGE}") > 0
    cache.close()


def test_an_entry_of_another_version_is_asked_anew(redis_server):
    cache = RedisDescriptions.connect(redis_server.url, Settings())
    stage_id = description_of(1).stage_id
    for data in (b"{}", b"x\x9cnonsense", b"{"):
        redis_server.client().hset(f"stagefleet:descriptions:{STORAGE}", str(stage_id), data)
        assert [None] == cache.find(STORAGE, [stage_id])
    cache.close()
