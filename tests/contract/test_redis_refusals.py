"""Scripts that Redis ends in their middle: no item is lost by it, and no run succeeds without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis

from stagefleet.errors import StagefleetError
from stagefleet.runs.models import Callback, ItemState, Outcome, RunSpec, RunState
from stagefleet.runs.redis_ledger import RedisLedger
from tests.contract.ledgers import LEASE_SECONDS, SETTINGS, LedgerHarness, RedisBroker, outcome_of

# Every command by which the scripts change something.
COMMANDS = [
    *("hset", "hsetnx", "hincrby", "hdel", "zadd", "zrem", "zincrby", "xadd", "lpush"),
    *("set", "del", "unlink", "pexpire"),
]


@pytest.fixture
def harness(redis_server: Any) -> Iterator[LedgerHarness]:
    made = LedgerHarness(RedisBroker(redis_server.url))
    made.staff(4)
    yield made
    made.close()


@pytest.fixture
def make_limited(redis_server: Any, harness: LedgerHarness) -> Iterator[Callable[[str], RedisLedger]]:
    """Makes ledgers whose login may not use a command."""
    admin = redis_server.client()
    clients = []

    def make(command: str) -> RedisLedger:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", f"-{command}")
        client = redis.Redis(port=redis_server.port, username="limited", password="pw", protocol=2)
        clients.append(client)
        assert isinstance(harness.broker, RedisBroker)
        return RedisLedger(client, prefix=harness.broker.prefix, settings=SETTINGS)

    yield make
    for client in clients:
        client.close()
    admin.execute_command("ACL", "DELUSER", "limited")


class Step:
    """The steps of a run's life, each done by a ledger that may be refused something."""

    def __init__(self, harness: LedgerHarness, ledger: RedisLedger) -> None:
        self.harness, self.ledger = harness, ledger
        self.spec = RunSpec(operation="copy_stage", parallel=2, max_attempts=3, callback=Callback.CLIENT)
        self.submission = harness.ledger.open(self.spec)

    def submit(self) -> None:
        self.harness.ledger.append(self.submission, ["a", "b", "c"])
        self.harness.ledger.start(self.submission)

    def start(self) -> None:
        self.harness.ledger.append(self.submission, ["a", "b", "c"])
        self.ledger.start(self.submission)

    def claim(self) -> None:
        self.submit()
        self.ledger.claim(self.submission.run_id, 0, "host:1")

    def finish(self) -> None:
        self.submit()
        claim = self.harness.take()
        self.ledger.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED, bytes=7))

    def fail(self) -> None:
        self.submit()
        claim = self.harness.take()
        self.ledger.finish(claim, outcome_of(claim, ItemState.FAILED))

    def fail_for_now(self) -> None:
        self.submit()
        claim = self.harness.take()
        self.ledger.finish(claim, outcome_of(claim, ItemState.FAILED), retry_after_seconds=0)

    def hand_back(self) -> None:
        self.submit()
        self.ledger.hand_back(self.harness.take())

    def acknowledge(self) -> None:
        self.submit()
        self.harness.succeed(self.harness.take())
        epoch = self.harness.ledger.coordinate(self.submission.run_id)
        self.ledger.acknowledge(
            self.submission.run_id, epoch, self.harness.outcomes(self.submission.run_id) or []
        )

    def cancel(self) -> None:
        self.submit()
        self.harness.take()
        self.ledger.cancel(self.submission.run_id)

    def sweep(self) -> None:
        self.submit()
        self.harness.take()
        self.harness.advance(LEASE_SECONDS + 1)
        self.harness.ledger.acknowledge(
            self.submission.run_id, self.harness.ledger.coordinate(self.submission.run_id), []
        )
        self.ledger.scripts.clock_offset_ms = (LEASE_SECONDS + 1) * 1000
        self.ledger.sweep()

    def go_on(self) -> None:
        """What the fleet does when nothing is refused any more."""
        ledger, run_id = self.harness.ledger, self.submission.run_id
        with suppress(StagefleetError):
            ledger.start(self.submission)
        for _ in range(4 * self.spec.max_attempts):
            if ledger.run(run_id).state.is_final:
                return
            self.harness.advance(LEASE_SECONDS + 1)
            epoch = ledger.coordinate(run_id)
            ledger.sweep()
            self.harness.work_off()
            ledger.acknowledge(
                run_id, epoch, self.harness.outcomes(run_id, ledger.acknowledged(run_id)) or []
            )


STEPS = [name for name in vars(Step) if not name.startswith("_") and name not in {"submit", "go_on"}]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_ends_with_every_item_or_says_that_it_lost_some(
    harness: LedgerHarness, make_limited: Callable[[str], RedisLedger], command: str
):
    """R20: whichever command of whichever script is refused, the run ends, and is no false success."""
    for name in STEPS:
        step = Step(harness, make_limited(command))
        with suppress(redis.ResponseError, StagefleetError):
            getattr(step, name)()
        step.go_on()

        run = harness.ledger.run(step.submission.run_id)
        assert run.state.is_final, (name, run)
        told = {outcome.item for outcome in harness.outcomes(run.id) or []}
        if run.state is RunState.SUCCEEDED:
            assert (3, 3, {"a", "b", "c"}) == (run.total, run.succeeded, told), name
        else:
            assert run.error or run.failed or run.state is RunState.CANCELLED, (name, run)
        assert run.total == run.done or run.error is not None, (name, run)
