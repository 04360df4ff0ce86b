"""A fleet in one thread, on a ledger that forgets: clients, workers, a reaper and coordinators take turns.

A client's call that would block lets the others go on instead. Every call that writes is a step; a plan says
after which steps the ledger forgets, and how much.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from operator import attrgetter
from typing import Any, ClassVar

from stagefleet.errors import RunNotFoundError, StagefleetError
from stagefleet.fleet.fleet import Fleet as ClientFleet
from stagefleet.leases import Lease
from stagefleet.locks import MemoryLocks
from stagefleet.names import StorageAddress
from stagefleet.operations.base import Operation, Plan
from stagefleet.runs.detached_coordinator import DetachedCoordinator
from stagefleet.runs.ledger import Claim, RenewalResult
from stagefleet.runs.models import ItemState, Outcome, Run, RunState, WorkerInfo
from stagefleet.runs.webhook import WebhookCall
from stagefleet.setting_types import WebhookSettings
from stagefleet.settings import Settings
from stagefleet.testing import MemoryLastUsed
from tests.contract.ledgers import REQUEST, SETTINGS, LedgerHarness

__all__ = ["Fleet", "ForgetfulLedger", "Operation"]

WRITES = frozenset(
    {
        *("open", "append", "start", "fail", "claim", "renew", "finish", "hand_back", "note_pause", "sweep"),
        *("coordinate", "acknowledge", "cancel"),
        *("callbacks.claim", "callbacks.renew", "callbacks.release", "callbacks.pause", "callbacks.finish"),
        "heartbeats.beat",
    }
)
MOST_STEPS = 3000


class WorkerKilledError(BaseException):
    """The process of a client is gone, in the middle of a step."""


class _Part:
    def __init__(self, ledger: ForgetfulLedger, name: str) -> None:
        self._ledger = ledger
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return self._ledger.method(f"{self._name}.{name}")


class ForgetfulLedger:
    """A ledger whose writes are counted, and some of them forgotten.

    Args:
        harness: The ledger, and what can be done with it.
        forgets: By step (a write, from 1), how many steps back the ledger stands after it.
    """

    def __init__(self, harness: LedgerHarness, forgets: Mapping[int, int]) -> None:
        self.steps: list[str] = []
        self.rollbacks = 0
        self.before_write: Callable[[], None] = lambda: None
        self.while_blocked: Callable[[], None] = lambda: None
        self._harness = harness
        self._forgets = forgets
        self._wanted = {max(0, step - depth) for step, depth in forgets.items()}
        self._kept: dict[int, Any] = {0: harness.snapshot()}

    def __getattr__(self, name: str) -> Any:
        if name in {"callbacks", "heartbeats"}:
            return _Part(self, name)
        return self.method(name)

    def method(self, name: str) -> Any:
        """A method of the ledger, or of a part of it."""
        method = attrgetter(name)(self._harness.ledger)
        if name not in WRITES:
            return method

        def write(*arguments: Any, **options: Any) -> Any:
            self.before_write()
            if len(self.steps) in self._wanted:
                self._kept[len(self.steps)] = self._harness.snapshot()
            try:
                return method(*arguments, **options)
            finally:
                self.steps.append(name)
                depth = self._forgets.get(len(self.steps))
                if depth is not None:
                    self._forget(len(self.steps) - depth)

        return write

    def _forget(self, step: int) -> None:
        """Stand where the ledger stood after a step, or before, if what followed was forgotten already."""
        self.rollbacks += 1
        stands = max(kept for kept in self._kept if kept <= max(0, step))
        self._harness.forget_since(self._kept[stands])
        self._kept = {kept: snapshot for kept, snapshot in self._kept.items() if kept <= stands}

    def outcomes(self, run_id: str, after: str, *, limit: int, block_seconds: float) -> list[Outcome] | None:
        """Let the others go on for a while where the real one would block."""
        if block_seconds:
            self.while_blocked()
        return self._harness.ledger.outcomes(run_id, after, limit=limit, block_seconds=0)


class Work(Operation):
    """What a client asks for.

    Attributes:
        items: The items.
        skipped: Those that need no task.
        fails: By item, how many attempts at it fail.
    """

    name: ClassVar[str] = "copy_stage"

    items: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    fails: Mapping[str, int] = {}

    @property
    def options(self) -> dict[str, Any]:
        return {}

    @property
    def addresses(self) -> tuple[StorageAddress, ...]:
        return ()

    def plan(self, _items: object, _storages: object) -> Plan:
        return Plan(self.items, self.skipped)


class _Connections:
    """What a client's fleet stands on."""

    starts_worker = False
    no_worker_advice = no_host_advice = ""
    open = side_by_side = None  # no plan opens a storage

    def __init__(self, ledger: ForgetfulLedger) -> None:
        self.settings = Settings(runs=SETTINGS)
        self.ledger = ledger
        self.storages = self
        self.locks, self.last_used = MemoryLocks(), MemoryLastUsed()

    def describe_remaining_tags(self, _repositories: object) -> list[str]:
        return []

    def begin_start(self) -> None:
        """Nothing has to be started."""

    def check(self) -> None:
        """Nothing was started."""


class _Receiver:
    """Takes webhooks."""

    def __init__(self) -> None:
        self.called: Counter[str] = Counter()
        self.ends = 0

    def call(self, call: WebhookCall, _lease: Lease) -> None:
        if call.kind == "stagefleet.run":
            self.ends += 1
        else:
            self.called[call.data["outcome"]["item"]] += 1


class Fleet:
    """Everybody who has to do with the ledger.

    Args:
        harness: The ledger.
        forgets: As of `ForgetfulLedger`.
        chance: Decides who has a turn.
        work: What is asked for.
    """

    def __init__(
        self, harness: LedgerHarness, forgets: Mapping[int, int], chance: random.Random, work: Work
    ) -> None:
        self.harness = harness
        self.ledger: Any = ForgetfulLedger(harness, forgets)
        self.ledger.before_write = self._maybe_step
        self.ledger.while_blocked = lambda: self.take_steps(4)
        self.work = work
        self.client = ClientFleet(_Connections(self.ledger), on_notice=lambda _: None)  # type: ignore[arg-type]  # what of it is asked
        self.receiver = _Receiver()
        self.executed: Counter[str] = Counter()
        self.steps_taken = 0
        self._chance = chance
        self._in_step = False
        self._request: dict[str, Any] = {}
        self._steps_left = math.inf
        self._claims: list[Claim] = []
        self._coordinator = DetachedCoordinator(
            self.ledger, self.receiver.call, self._publish, WebhookSettings(), clock=lambda: 0.0
        )
        self._beat()

    def run(self, **arguments: Any) -> Run:
        """Do the work as a client does."""
        defaults = {"parallel": 3, "idempotency_key": None, "detach": False}
        on_outcome = arguments.pop("on_outcome", None)
        return self.client.for_each(self.work, None, on_outcome, **(defaults | arguments))

    def request(self, steps: int, **arguments: Any) -> Run:
        """Do the work as a worker that was asked for it, and is killed after some steps."""
        self._request, self._steps_left = arguments, steps
        try:
            return self.run(**arguments)
        finally:
            self._steps_left = math.inf

    def wait(self) -> None:
        """Let others go on, or at least time."""
        if self._in_step:
            self.harness.advance(1)
        self.take_steps(4)

    def settle(self) -> list[Run]:
        """Let everybody go on until no run does; gives the runs."""
        while any(not run.state.is_final for run in self.runs()) or self.harness.messages() or self._claims:
            if not self._request and all(
                run.state is RunState.SUBMITTING and run.spec.key for run in self.runs()
            ):
                break  # it waits for the same call again
            self.take_steps(10)
        return self.runs()

    def runs(self) -> list[Run]:
        return list(self.harness.ledger.runs())

    def take_steps(self, count: int) -> None:
        """Let others go on."""
        if self._in_step:
            return
        self._in_step = True
        try:
            for _ in range(count):
                self.steps_taken += 1
                assert self.steps_taken < MOST_STEPS, f"this never ends: {self.runs()}"
                self._step()
        finally:
            self._in_step = False

    def _maybe_step(self) -> None:
        if not self._in_step:
            self._steps_left -= 1
            if self._steps_left < 0:
                raise WorkerKilledError
        if self._chance.random() < 0.1:
            self.take_steps(1)

    def _step(self) -> None:
        self._chance.choice(
            [
                self._deliver,
                self._deliver,
                self._finish,
                self._finish,
                self._renew,
                self._sweep,
                self._pass_time,
            ]
        )()

    def _beat(self) -> None:
        self.ledger.heartbeats.beat(WorkerInfo("host:1", 2, ("copy", "coordinate")), seconds=15)

    def _pass_time(self) -> None:
        self.harness.let_pass_unswept(self._chance.uniform(0.5, 4))
        self._beat()
        self.ledger.sweep()
        self._renew()

    def _sweep(self) -> None:
        self.ledger.sweep()

    def _deliver(self) -> None:
        message = self.harness.pop_message()
        if message is None:
            return
        if message.index == REQUEST:
            with suppress(StagefleetError):
                self.run(**self._request)
            return
        if message.index < 0:
            with suppress(RunNotFoundError):
                self._coordinator.coordinate(message.run_id)
            return
        claim = self.ledger.claim(message.run_id, message.index, "host:1")
        if claim is not None:
            self._claims.append(claim)
            self.executed[claim.item] += 1

    def _finish(self) -> None:
        if not self._claims:
            return
        claim = self._claims.pop(self._chance.randrange(len(self._claims)))
        if self._chance.random() < 0.1:
            self.ledger.hand_back(claim)
            self.executed[claim.item] -= 1  # it was not worked on
        elif self.work.fails.get(claim.item, 0) >= claim.attempt:
            failed = Outcome(item=claim.item, state=ItemState.FAILED)
            self.ledger.finish(claim, failed, retry_after_seconds=self._chance.choice([0, 2]))
            self.executed[claim.item] -= 1
        else:
            self.ledger.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED))

    def _renew(self) -> None:
        if self._claims:
            answers = self.ledger.renew(self._claims)
            self._claims = [
                claim
                for claim, answer in zip(self._claims, answers, strict=True)
                if answer is not RenewalResult.LOST
            ]

    def _publish(self, _target: str, _task_id: str, arguments: dict[str, Any]) -> None:
        self.receiver.called[arguments["outcome"]["item"]] += 1
