"""What `KnownRejections` promises."""

import pytest

from stagefleet.names import StageId
from stagefleet.settings import Settings, SharedStateSettings
from stagefleet.shared_state.remembered_stages import MemoryRejections, RedisRejections

ENTRIES = 50
STORAGE = "registry.example.com/app/stages"


def stage(number):
    return StageId(f"{number:056x}", 1_700_000_000_000 + number)


@pytest.fixture(params=["memory", "redis"])
def known(request):
    settings = SharedStateSettings(entries=ENTRIES)
    if request.param == "memory":
        yield MemoryRejections(settings)
        return
    url = request.getfixturevalue("redis_server").url
    known = RedisRejections.connect(url, Settings(caches=settings))
    yield known
    known.close()


def test_what_was_remembered_is_found_of_its_storage_alone(known):
    """R12: looked at once for the whole fleet."""
    known.remember(STORAGE, [stage(1), StageId("f" * 56)])
    assert {stage(1), StageId("f" * 56)} == known.find(STORAGE, [stage(1), stage(2), StageId("f" * 56)])
    assert set() == known.find("elsewhere.example.com/app", [stage(1)])


def test_what_was_forgotten_is_looked_at_anew(known):
    """R12: a rejection that is withdrawn may be written anew as a deletion's."""
    known.remember(STORAGE, [stage(1), stage(2)])
    known.forget(STORAGE, stage(1))
    known.forget(STORAGE, stage(3))
    assert {stage(2)} == known.find(STORAGE, [stage(1), stage(2)])


def test_nothing_asked_is_nothing_found(known):
    """R12: no request for nothing."""
    known.remember(STORAGE, [])
    assert set() == known.find(STORAGE, [])


def test_it_is_bounded(known):
    """R12: what is dropped is looked at again."""
    for number in range(3 * ENTRIES):
        known.remember(STORAGE, [stage(number)])
    assert ENTRIES >= len(known.find(STORAGE, [stage(number) for number in range(3 * ENTRIES)])) > 0


def test_a_redis_that_is_away_knows_nothing(make_redis):
    """R12: each is looked at then."""
    server = make_redis()
    known = RedisRejections.connect(server.url, Settings())
    known.remember(STORAGE, [stage(1)])
    server.stop()
    assert set() == known.find(STORAGE, [stage(1)])
    known.forget(STORAGE, stage(1))
    known.close()
