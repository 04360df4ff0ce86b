"""What is remembered of the tags of a repository: little, however many there are, and found again if lost."""

from __future__ import annotations

import pytest

from stagefleet.attempt import Attempt
from stagefleet.deletion.checks import RunItems
from stagefleet.deletion.reference_scan import ReferenceScan
from stagefleet.deletion.tag_tables import KeptScans
from stagefleet.errors import RedisUnreachableError
from stagefleet.manifests import Descriptor
from stagefleet.names import Digest, Repository, StageId
from stagefleet.redis_client import connect_redis
from stagefleet.shared_state.implementations import MemorySharedState, RedisSharedState
from tests.stage_tasks import make_storages

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REPOSITORY = Repository("a.example", "team/app")


def digest(number):
    return Digest("sha256", f"{number:064x}")


def stage_tag(number):
    return str(StageId(f"{number * 0x9E3779B97F4A7C15 % 2**224:056x}", 1700000000000 + number))


class ManyTags:
    """A registry of so many stages, each of a digest of its own, and one foreign tag."""

    def __init__(self, count):
        self.count = count
        self.heads = 0

    def tags(self, repository):
        yield from (stage_tag(number) for number in range(self.count))
        yield "release"

    def head_manifest(self, reference):
        self.heads += 1
        named = StageId.from_tag(reference.tag)
        number = self.count if named is None else named.created_ms
        return Descriptor(OCI_MANIFEST, digest(number), 2)


def scan_of(client, shared_state, memory=None, run="r"):
    items = RunItems(
        lambda: ((number, stage_tag(number)) for number in range(client.count)),
        lambda item: (item,),
        lambda indexes: [None] * len(indexes),
        own=0,
    )
    registries = make_storages(client, shared_state).registries
    return ReferenceScan(registries, REPOSITORY, Attempt(run, to_delete=items), memory)


@pytest.fixture
def redis(redis_server):
    client = connect_redis(redis_server.url)
    client.flushall()
    yield client
    client.close()


def test_a_reference_scan_costs_some_bytes_a_tag(redis):
    """R22: a reference scan of 20,000 stages costs under 90 bytes each in Redis, and 8 in a process that
    keeps it."""
    count = 20_000
    client, memory = ManyTags(count), KeptScans()
    scan = scan_of(client, RedisSharedState(redis, prefix="test:"), memory)
    assert {stage_tag(7)} == scan.find(digest(1700000000000 + 7)).tags
    assert {stage_tag(7): 7} == scan.to_delete([stage_tag(7), "release"])
    assert 90 > redis.memory_usage("test:book:r", samples=0) / count
    (known,) = memory.known.values()
    assert 8 * count == sum(map(len, known.parts))


def test_another_process_asks_for_little(redis):
    """R22: a process that only asks reads a part of what was found out, not all of it."""
    client = ManyTags(3_000)
    scan_of(client, RedisSharedState(redis, prefix="test:")).find(digest(0))
    heads, other = client.heads, RedisSharedState(redis, prefix="test:")
    before = redis.info("stats")["total_net_output_bytes"]
    for number in range(20):
        assert {stage_tag(number)} == scan_of(client, other).find(digest(1700000000000 + number)).tags
    read = redis.info("stats")["total_net_output_bytes"] - before
    assert (True, heads) == (read / 20 < 40_000, client.heads)


@pytest.fixture
def small(redis):
    client, shared_state = ManyTags(50), RedisSharedState(redis, prefix="test:")
    return client, shared_state, scan_of(client, shared_state)


def test_what_redis_has_lost_in_part_is_found_out_anew(redis, small):
    """R22: a part that Redis has dropped leads to another look at the tags, and to no wrong answer."""
    client, _, scan = small
    scan.find(digest(0))
    lost = [field for field in redis.hkeys("test:book:r") if field.startswith(b"part:")]
    redis.hdel("test:book:r", *lost)
    assert {stage_tag(3)} == scan.find(digest(1700000000003)).tags
    assert 2 * client.count < client.heads


def test_a_redis_that_keeps_nothing_ends_the_attempt(small, monkeypatch):
    """R22: where Redis forgets again and again the item fails, to be tried again, and does not loop."""
    _, shared_state, scan = small
    monkeypatch.setattr(shared_state, "put_parts", lambda page, parts: None)
    with pytest.raises(RedisUnreachableError, match="forgets"):
        scan.find(digest(0))


def test_shared_state_in_memory_answers_the_same():
    client = ManyTags(50)
    scan = scan_of(client, MemorySharedState())
    assert {stage_tag(3)} == scan.find(digest(1700000000003)).tags
    assert {"release"} == scan.find(digest(50)).tags
