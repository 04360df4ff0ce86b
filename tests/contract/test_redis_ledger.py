"""What only the ledger on Redis promises: memory, expiry, lost answers, and several clients at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stagefleet.errors import RunNotFoundError
from stagefleet.runs.model import ItemState, Outcome, RunState
from stagefleet.runs.redis_ledger import RedisLedger
from tests.contract.twins import SETTINGS, RedisBroker, Twin, outcome_of

MOST_BYTES_AN_ITEM = 1024
STAGES = [f"{number:056x}-{1_700_000_000_000 + number}" for number in range(2000)]


@pytest.fixture
def broker(redis_server: Any) -> Iterator[RedisBroker]:
    made = RedisBroker(redis_server.url)
    yield made
    made.close()


@pytest.fixture
def twin(broker: RedisBroker) -> Twin:
    return Twin(broker)


def memory_of(broker: RedisBroker) -> int:
    """Bytes that all keys of the ledger take."""
    keys = list(broker.client.scan_iter(f"{broker.prefix}*", count=1000))
    return sum(broker.client.memory_usage(key, samples=0) for key in keys)


def described(item: str) -> Outcome:
    """An outcome as a copied stage has it."""
    name = f"registry.example:5000/group/app:{item}"
    result = {
        "stage_id": item,
        "digest": item[:56],
        "created_ms": int(item[57:]),
        "name": name,
        "repo_digest": f"registry.example:5000/group/app@sha256:{item[:56]:0>64}",
        "image_id": f"sha256:{item[:56][::-1]:0>64}",
        "parent_id": "",
        "labels": {"werf": "app", "werf-stage-content-digest": item[:56]},
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "size": 16_777_216,
        "created_at": "2026-01-02T03:04:05+00:00",
    }
    return Outcome(item=item, state=ItemState.SUCCEEDED, result=result, seconds=0.25, bytes=1_048_576)


def test_a_run_takes_less_than_a_kibibyte_an_item_at_any_time(twin: Twin, broker: RedisBroker):
    twin.staff(8)
    submission = twin.open(parallel=32)
    for first in range(0, len(STAGES), 500):
        twin.ledger.append(submission, STAGES[first : first + 500])
    twin.ledger.start(submission)
    sizes = [memory_of(broker)]
    for number in range(len(STAGES)):
        claim = twin.take()
        twin.ledger.finish(claim, described(claim.item))
        if number % 500 == 0:
            sizes.append(memory_of(broker))
    sizes.append(memory_of(broker))

    assert RunState.SUCCEEDED is twin.ledger.run(submission.run).state
    assert max(sizes) < MOST_BYTES_AN_ITEM * len(STAGES)


def test_a_finished_run_leaves_its_outcomes_and_itself_and_both_expire(twin: Twin, broker: RedisBroker):
    run = twin.submit([f"i{number}" for number in range(20)], parallel=4)
    twin.fail(twin.take(), retry_after_seconds=0)
    twin.ledger.sweep()
    twin.work_off()

    assert RunState.SUCCEEDED is twin.ledger.run(run).state
    left = sorted(broker.client.scan_iter(f"{broker.prefix}run:*"))
    assert [f"{broker.prefix}run:{run}".encode(), f"{broker.prefix}run:{run}:outcomes".encode()] == left
    assert all(broker.client.pttl(key) > 0 for key in left)


def test_what_a_run_left_is_not_nothing_because_it_expires_meanwhile(twin: Twin, broker: RedisBroker):
    """R47: items that are gone with their run are no items that succeeded."""
    run = twin.submit([f"i{number}" for number in range(2500)])
    twin.ledger.cancel(run)
    left = twin.ledger.leftovers(run)
    assert ["i0", "i1"] == [next(left), next(left)]

    broker.client.delete(*broker.client.scan_iter(f"{broker.prefix}run:{run}*"))

    with pytest.raises(RunNotFoundError):
        list(left)


def test_scripts_that_the_server_forgot_are_sent_again(twin: Twin, broker: RedisBroker):
    run = twin.submit(["a"])
    broker.client.script_flush()
    twin.work_off()

    assert RunState.SUCCEEDED is twin.ledger.run(run).state


def test_another_client_sees_the_same_and_is_fenced_the_same(twin: Twin, broker: RedisBroker):
    other = RedisLedger(broker.client, prefix=broker.prefix, settings=SETTINGS)
    run = twin.submit(["a"])
    claim = other.claim(run, 0, "host:2")
    assert claim is not None

    assert None is twin.ledger.claim(run, 0, "host:1")
    assert twin.succeed(claim)
    assert not other.finish(claim, outcome_of(claim, ItemState.FAILED))
    assert twin.ledger.run(run).succeeded == other.run(run).succeeded == 1


def test_ledgers_with_another_prefix_are_strangers(twin: Twin, broker: RedisBroker):
    stranger = RedisLedger(broker.client, prefix=f"{broker.prefix}other:", settings=SETTINGS)
    twin.submit(["a"], key="k", fingerprint="f")

    assert [] == list(stranger.runs())
    assert [] == stranger.workers()
    assert 0 == stranger.sweep()


@pytest.mark.parametrize("script", ["append", "claim"])
def test_a_step_whose_answer_was_lost_can_be_repeated(twin: Twin, broker: RedisBroker, script: str):
    """The client sends a command again when its connection breaks: it may have been carried out already."""
    ledger = twin.ledger
    assert isinstance(ledger, RedisLedger)
    once = ledger._scripts[script]

    def twice(**arguments: Any) -> Any:
        once(**arguments)
        return once(**arguments)

    ledger._scripts[script] = twice  # type: ignore[assignment]  # all that is called of a script
    run = twin.submit(["a", "b"], parallel=1)
    claim = twin.take()

    assert (2, 1) == ((found := ledger.run(run)).total, found.claimed)
    assert twin.succeed(claim)
    assert 1 == ledger.run(run).succeeded
