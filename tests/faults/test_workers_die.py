"""Workers that are killed or frozen at the worst moments."""

import os
import signal
from collections import Counter

from stagefleet.runs.models import RunSpec
from tests.integration.workers.conftest import eventually

# One item at once: so that a death takes nothing with it but the item it is about.


def test_killed_between_pop_and_claim(workers, fleet, check):
    workers.arm("claim")
    workers.begin()
    outcomes = check(fleet.submit(20, parallel=1), 20)
    eventually(lambda: workers.deaths == 2, "each death is noticed")
    assert {1} == {outcome.attempts for outcome in outcomes}, "a lost message is no attempt"


def test_killed_after_the_effect_and_before_the_finish(workers, fleet, check):
    workers.arm("finish")
    workers.begin()
    outcomes = check(fleet.submit(20, parallel=1), 20)
    expected = {f"item-{number}": 2 if number in {3, 13} else 1 for number in range(20)}
    assert expected == {outcome.item: outcome.attempts for outcome in outcomes}
    assert expected == Counter(workers.effects)


def test_frozen_beyond_the_lease(workers, fleet, check):
    workers.begin()
    run = fleet.submit(12, parallel=8, seconds=1)
    eventually(lambda: fleet.ledger.run(run).claimed == 8, "all places are taken")
    frozen = workers.pids[0]
    os.kill(frozen, signal.SIGSTOP)
    outcomes = check(run, 12)
    assert 2 == max(outcome.attempts for outcome in outcomes)
    stands = fleet.ledger.run(run)
    os.kill(frozen, signal.SIGCONT)
    eventually(lambda: len(workers.said("stale_finish")) == 4, "all that it held is stale")
    assert (stands.succeeded, stands.state) == (fleet.ledger.run(run).succeeded, fleet.ledger.run(run).state)
    assert frozen in workers.pids


def test_a_poison_item_fails_alone(workers, fleet):
    workers.begin()
    items = [f"item-{number}" for number in range(20)]
    submission = fleet.ledger.open(RunSpec(operation="wait", parallel=1, max_attempts=3))
    fleet.ledger.append(submission, [*items[:10], "poison", *items[10:]])
    fleet.ledger.start(submission)
    finished, outcomes = fleet.follow(submission.run_id)
    assert ("failed", 20, 1) == (finished.state, finished.succeeded, finished.failed)
    (poison,) = (outcome for outcome in outcomes if outcome.item == "poison")
    assert poison.error is not None
    assert ("WorkerLostError", 3) == (poison.error.type, poison.attempts)
    eventually(lambda: workers.deaths == 3, "each death is noticed")
