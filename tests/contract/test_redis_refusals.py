"""Scripts that Redis ends in their middle: no item is lost by it, and no run succeeds without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis

from stagefleet.errors import StagefleetError
from stagefleet.runs.model import Callback, ItemState, Order, Outcome, RunState
from stagefleet.runs.redis_ledger import RedisLedger
from tests.contract.twins import LEASE_SECONDS, SETTINGS, RedisBroker, Twin, outcome_of

# Every command by which the scripts change something.
COMMANDS = [
    *("hset", "hsetnx", "hincrby", "hdel", "zadd", "zrem", "zincrby", "xadd", "lpush"),
    *("set", "del", "unlink", "pexpire"),
]


@pytest.fixture
def twin(redis_server: Any) -> Iterator[Twin]:
    made = Twin(RedisBroker(redis_server.url))
    made.staff(4)
    yield made
    made.close()


@pytest.fixture
def make_limited(redis_server: Any, twin: Twin) -> Iterator[Callable[[str], RedisLedger]]:
    """Makes ledgers whose login may not use a command."""
    admin = redis_server.client()
    clients = []

    def make(command: str) -> RedisLedger:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", f"-{command}")
        client = redis.Redis(port=redis_server.port, username="limited", password="pw", protocol=2)
        clients.append(client)
        assert isinstance(twin.broker, RedisBroker)
        return RedisLedger(client, prefix=twin.broker.prefix, settings=SETTINGS)

    yield make
    for client in clients:
        client.close()
    admin.execute_command("ACL", "DELUSER", "limited")


class Step:
    """The steps of a run's life, each done by a ledger that may be refused something."""

    def __init__(self, twin: Twin, ledger: RedisLedger) -> None:
        self.twin, self.ledger = twin, ledger
        self.order = Order(operation="copy_stage", parallel=2, max_attempts=3, callback=Callback.CLIENT)
        self.submission = twin.ledger.open(self.order)

    def submit(self) -> None:
        self.twin.ledger.append(self.submission, ["a", "b", "c"])
        self.twin.ledger.start(self.submission)

    def start(self) -> None:
        self.twin.ledger.append(self.submission, ["a", "b", "c"])
        self.ledger.start(self.submission)

    def claim(self) -> None:
        self.submit()
        self.ledger.claim(self.submission.run, 0, "host:1")

    def finish(self) -> None:
        self.submit()
        claim = self.twin.take()
        self.ledger.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED, bytes=7))

    def fail(self) -> None:
        self.submit()
        claim = self.twin.take()
        self.ledger.finish(claim, outcome_of(claim, ItemState.FAILED))

    def fail_for_now(self) -> None:
        self.submit()
        claim = self.twin.take()
        self.ledger.finish(claim, outcome_of(claim, ItemState.FAILED), retry_after_seconds=0)

    def hand_back(self) -> None:
        self.submit()
        self.ledger.hand_back(self.twin.take())

    def acknowledge(self) -> None:
        self.submit()
        self.twin.succeed(self.twin.take())
        epoch = self.twin.ledger.coordinate(self.submission.run)
        self.ledger.acknowledge(self.submission.run, epoch, self.twin.outcomes(self.submission.run) or [])

    def cancel(self) -> None:
        self.submit()
        self.twin.take()
        self.ledger.cancel(self.submission.run)

    def sweep(self) -> None:
        self.submit()
        self.twin.take()
        self.twin.advance(LEASE_SECONDS + 1)
        self.twin.ledger.acknowledge(
            self.submission.run, self.twin.ledger.coordinate(self.submission.run), []
        )
        self.ledger.clock_offset_ms = (LEASE_SECONDS + 1) * 1000
        self.ledger.sweep()

    def go_on(self) -> None:
        """What the fleet does when nothing is refused any more."""
        ledger, run = self.twin.ledger, self.submission.run
        with suppress(StagefleetError):
            ledger.start(self.submission)
        for _ in range(4 * self.order.max_attempts):
            if ledger.run(run).state.is_final:
                return
            self.twin.advance(LEASE_SECONDS + 1)
            epoch = ledger.coordinate(run)
            ledger.sweep()
            self.twin.work_off()
            ledger.acknowledge(run, epoch, self.twin.outcomes(run, ledger.acknowledged(run)) or [])


STEPS = [name for name in vars(Step) if not name.startswith("_") and name not in {"submit", "go_on"}]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_ends_with_every_item_or_says_that_it_lost_some(
    twin: Twin, make_limited: Callable[[str], RedisLedger], command: str
):
    """R20: whichever command of whichever script is refused, the run ends, and is no false success."""
    for name in STEPS:
        step = Step(twin, make_limited(command))
        with suppress(redis.ResponseError, StagefleetError):
            getattr(step, name)()
        step.go_on()

        run = twin.ledger.run(step.submission.run)
        assert run.state.is_final, (name, run)
        told = {outcome.item for outcome in twin.outcomes(run.id) or []}
        if run.state is RunState.SUCCEEDED:
            assert (3, 3, {"a", "b", "c"}) == (run.total, run.succeeded, told), name
        else:
            assert run.error or run.failed or run.state is RunState.CANCELLED, (name, run)
        assert run.total == run.done or run.error is not None, (name, run)
