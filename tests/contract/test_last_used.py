"""What `LastUsed` promises."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from stagefleet.errors import RedisUnreachableError
from stagefleet.redis_client import connect_redis
from stagefleet.settings import Settings, SharedStateSettings
from stagefleet.shared_state.best_effort import LastUsed, RedisLastUsed, UsedImage
from stagefleet.testing import MemoryLastUsed

BOUND = 20
SETTINGS = SharedStateSettings(used_images=BOUND, lifetime_seconds=600)


class LedgerHarness(NamedTuple):
    """Records, and what moves their clock on by seconds."""

    records: LastUsed
    advance: Callable[[float], None]

    def images(self, host: str) -> list[str]:
        return [used.image for used in self.records.used_images(host)]


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(params=["memory", "redis"])
def harness(request: pytest.FixtureRequest) -> Iterator[LedgerHarness]:
    if request.param == "memory":
        clock = Clock()
        yield LedgerHarness(MemoryLastUsed(SETTINGS, clock=lambda: clock.now), clock.advance)
        return
    client: Any = connect_redis(request.getfixturevalue("redis_server").url)
    records = RedisLastUsed(client, prefix=f"t{secrets.token_hex(4)}:", settings=SETTINGS)

    def advance(seconds: float) -> None:
        records.scripts.clock_offset_ms += round(seconds * 1000)

    yield LedgerHarness(records, advance)
    records.close()


def test_the_longest_unused_image_comes_first(harness):
    for image in ("app:1", "app:2", "app:1"):
        harness.records.note("here", image)
        harness.advance(1)

    first, second = harness.records.used_images("here")

    assert ("app:2", "app:1") == (first.image, second.image)
    assert 1000 == pytest.approx(second.last_used_ms - first.last_used_ms, abs=500)
    assert time.time() == pytest.approx(first.last_used_ms / 1000, abs=60)


def test_one_host_knows_nothing_of_another(harness):
    harness.records.note("here", "app:1")
    harness.records.note("there", "日本:2")

    assert (["app:1"], ["日本:2"], []) == tuple(map(harness.images, ("here", "there", "nowhere")))


def test_a_removed_image_is_forgotten(harness):
    for image in ("app:1", "app:2"):
        harness.records.note("here", image)
    harness.records.forget("here", "app:1")
    harness.records.forget("here", "app:3")
    harness.records.forget("nowhere", "app:1")

    assert ["app:2"] == harness.images("here")


def test_the_records_of_a_host_are_bounded_and_the_longest_unused_go(harness):
    for number in range(3 * BOUND):
        harness.records.note("here", f"app:{number}")
        harness.records.note("here", "base:1")
        harness.advance(1)

    expected = [*(f"app:{number}" for number in range(2 * BOUND + 1, 3 * BOUND - 1))]
    assert {*expected, f"app:{3 * BOUND - 1}", "base:1"} == set(harness.images("here"))
    assert expected == harness.images("here")[:-2]


def test_a_host_that_nobody_uses_is_forgotten_by_and_by(redis_server):
    client: Any = redis_server.client()
    records = RedisLastUsed(client, prefix="t:", settings=SETTINGS)
    records.note("here", "app:1")

    assert SETTINGS.lifetime_seconds == pytest.approx(client.pttl("t:last-used:here") / 1000, abs=60)


def test_records_out_of_reach_fail_no_use_and_are_warned_of_once(make_redis, caplog):
    server = make_redis()
    records = RedisLastUsed.connect(server.url, Settings())
    records.note("here", "app:1")
    server.kill()
    caplog.clear()
    records.note("here", "app:2")
    records.forget("here", "app:1")

    (warning,) = caplog.records
    assert ("last_used_out_of_reach", "WARNING") == (warning.facts["event"], warning.levelname)
    with pytest.raises(RedisUnreachableError):
        records.used_images("here")
    records.close()


def test_records_of_another_kind_fail_no_use(redis_server, caplog):
    client: Any = redis_server.client()
    client.set("stagefleet:last-used:here", "a string")
    records = RedisLastUsed.connect(redis_server.url, Settings())
    caplog.clear()
    records.note("here", "app:1")
    assert "WRONGTYPE" in caplog.records[0].facts["error"]

    client.delete("stagefleet:last-used:here")
    records.note("here", "app:1")
    assert ["app:1"] == [used.image for used in records.used_images("here")]
    records.close()


def test_a_used_image_is_a_value():
    assert UsedImage("app:1", 17) == UsedImage("app:1", 17)
    assert 1 == len({UsedImage("app:1", 17), UsedImage("app:1", 17)})
