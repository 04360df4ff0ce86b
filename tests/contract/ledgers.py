"""The two ledgers behind one handle: their broker can be looked into, and their clock be moved."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from stagefleet.redis_client import connect_redis
from stagefleet.runs.ledger import Claim, Ledger
from stagefleet.runs.messages import QUEUES, host_queue, queue_key, queue_of, start_run_message
from stagefleet.runs.models import Callback, ItemState, Outcome, RunSpec, Submission, WorkerInfo
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import RunSettings
from stagefleet.testing import MemoryLedger, Message
from tests.contract.rollback import restore_memory, restore_redis, snapshot_memory, snapshot_redis

LEASE_SECONDS = 30
REPUBLISH_SECONDS = 10
RETENTION_SECONDS = 1000
SETTINGS = RunSettings(
    lease_seconds=LEASE_SECONDS, republish_seconds=REPUBLISH_SECONDS, retention_seconds=RETENTION_SECONDS
)


COORDINATION, REQUEST = -1, -2
"""Indexes of messages that are for no item."""


def request_under(key: str) -> str:
    """The message that asks for a run under a key."""
    return start_run_message("task", {"operation": "copy", "idempotency_key": key})


class Broker(Protocol):
    """What differs between the implementations."""

    ledger: Ledger

    def advance(self, seconds: float) -> None: ...
    def note_sweeps(self, seconds: float) -> None: ...
    def messages(self) -> list[Message]: ...
    def pop(self) -> Message | None: ...
    def push(self, message: Message) -> None: ...
    def drop(self) -> None: ...
    def snapshot(self) -> Any: ...
    def restore(self, snapshot: Any) -> None: ...
    def close(self) -> None: ...


HOST_QUEUES = (host_queue("one"), host_queue("two"))


class MemoryBroker:
    def __init__(self) -> None:
        self.now = time.time()
        self._memory_ledger = MemoryLedger(SETTINGS, clock=lambda: self.now)
        self.ledger: Ledger = self._memory_ledger
        self._queue = self._memory_ledger.broker

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def note_sweeps(self, seconds: float) -> None:
        runs = self._memory_ledger._runs
        runs.swept_at = None if runs.swept_at is None else runs.swept_at + seconds
        for record in runs.records.values():
            record.swept_at = None if record.swept_at is None else record.swept_at + seconds

    def messages(self) -> list[Message]:
        return list(self._queue)

    def pop(self) -> Message | None:
        try:
            return self._queue.popleft()
        except IndexError:
            return None

    def push(self, message: Message) -> None:
        self._queue.append(message)

    def drop(self) -> None:
        self._queue.clear()

    def snapshot(self) -> Any:
        return snapshot_memory(self._memory_ledger)

    def restore(self, snapshot: Any) -> None:
        restore_memory(self._memory_ledger, snapshot)

    def close(self) -> None:
        self.drop()


class RedisBroker:
    """Celery's queues, which kombu fills on the left and takes from on the right."""

    def __init__(self, url: str) -> None:
        self.prefix = f"t{secrets.token_hex(4)}:"
        self.client: Any = connect_redis(url)
        self._redis_ledger = RedisLedger(self.client, prefix=self.prefix, settings=SETTINGS)
        self.ledger: Ledger = self._redis_ledger
        self._queues = [
            queue_key(self.prefix, queue) for queue in (*dict.fromkeys(QUEUES.values()), *HOST_QUEUES)
        ]

    def advance(self, seconds: float) -> None:
        self._redis_ledger.scripts.clock_offset_ms += round(seconds * 1000)

    def note_sweeps(self, seconds: float) -> None:
        milliseconds = round(seconds * 1000)
        if self.client.exists(f"{self.prefix}swept"):
            self.client.incrby(f"{self.prefix}swept", milliseconds)
        for run in self.client.zrange(f"{self.prefix}live", 0, -1):
            key = f"{self.prefix}run:{run.decode()}"
            if self.client.hexists(key, "swept_ms"):
                self.client.hincrby(key, "swept_ms", milliseconds)

    def messages(self) -> list[Message]:
        raws = [raw for queue in self._queues for raw in reversed(self.client.lrange(queue, 0, -1))]
        return [self._read(raw) for raw in raws]

    def pop(self) -> Message | None:
        for queue in self._queues:
            raw = self.client.rpop(queue)
            if raw is not None:
                return self._read(raw)
        return None

    def push(self, message: Message) -> None:
        if message.index == REQUEST:
            spec = self.ledger.spec(message.run_id)
            assert spec is not None
            self.client.lpush(queue_key(self.prefix, "coordinate"), request_under(spec.key or ""))
            return
        if message.index < 0:
            body = json.dumps([[], {"run": message.run_id}, {}])
            self.client.lpush(queue_key(self.prefix, "coordinate"), json.dumps({"body": body}))
            return
        spec = self.ledger.spec(message.run_id)
        assert spec is not None
        body = json.dumps([[], {"run": message.run_id, "index": message.index}, {}])
        self.client.lpush(queue_key(self.prefix, queue_of(spec.operation)), json.dumps({"body": body}))

    def drop(self) -> None:
        self.client.delete(*self._queues)

    def snapshot(self) -> Any:
        return snapshot_redis(self.client, self.prefix)

    def restore(self, snapshot: Any) -> None:
        restore_redis(self.client, self.prefix, snapshot)

    def close(self) -> None:
        keys = list(self.client.scan_iter(f"{self.prefix}*", count=1000))
        if keys:
            self.client.delete(*keys)
        self.client.close()

    def _read(self, raw: bytes) -> Message:
        arguments = json.loads(json.loads(raw)["body"])[1]
        if "run" not in arguments:
            return Message(self.ledger.run_under(arguments["idempotency_key"]) or "?", REQUEST)
        return Message(arguments["run"], int(arguments.get("index", -1)))


class LedgerHarness:
    """A ledger, its broker and clock, and the few words that tests say most."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.ledger = broker.ledger

    def advance(self, seconds: float) -> None:
        """Let time pass in which the reaper finds nothing to mend."""
        self.broker.advance(seconds)
        self.broker.note_sweeps(seconds)

    def let_pass_unswept(self, seconds: float) -> None:
        """Let time pass in which nobody sweeps, as while Redis is away."""
        self.broker.advance(seconds)

    def messages(self) -> list[Message]:
        """What waits in the broker, the oldest first."""
        return self.broker.messages()

    def indexes(self) -> list[int]:
        return [message.index for message in self.messages()]

    def pop_message(self) -> Message | None:
        return self.broker.pop()

    def push_message(self, message: Message) -> None:
        self.broker.push(message)

    def drop_messages(self) -> None:
        self.broker.drop()

    def snapshot(self) -> Any:
        """All that the ledger knows now, to be brought back as a Redis that has forgotten the rest."""
        return self.broker.snapshot()

    def forget_since(self, snapshot: Any) -> None:
        """Restore a snapshot; it takes a millisecond at least, as failovers do: outcomes bear the time."""
        until = time.time_ns() // 1_000_000 + 1
        self.broker.restore(snapshot)
        while time.time_ns() // 1_000_000 <= until:
            time.sleep(0)

    def staff(self, slots: int, *queues: str, name: str = "host:1", seconds: float = 1e6) -> None:
        """Let a worker listen."""
        self.ledger.heartbeats.beat(WorkerInfo(name, slots, queues or ("copy",)), seconds=seconds)

    def spec(self, **fields: Any) -> RunSpec:
        return RunSpec(**{"operation": "copy_stage", **fields})

    def open(self, **fields: Any) -> Submission:
        return self.ledger.open(self.spec(**fields))

    def open_on_request(self, key: str = "k", *, enqueue: bool = False, **fields: Any) -> Submission:
        """A run that a task has opened for somebody who asked for it."""
        return self.ledger.open(self.spec(key=key, **fields), request=request_under(key), enqueue=enqueue)

    def submit(self, items: Sequence[str], decided: Sequence[Outcome] = (), **fields: Any) -> str:
        """A started run; its id."""
        submission = self.open(**fields)
        self.ledger.append(submission, items, decided)
        self.ledger.start(submission)
        return submission.run_id

    def watch(self, items: Sequence[str], decided: Sequence[Outcome] = (), **fields: Any) -> tuple[str, int]:
        """A started run with a callback in this process; its id and the coordinator's epoch."""
        run_id = self.submit(items, decided, callback=Callback.CLIENT, **fields)
        return run_id, self.ledger.coordinate(run_id)

    def take(self, worker: str = "host:1") -> Claim:
        """The claim that the oldest message gives."""
        message = self.pop_message()
        assert message is not None
        claim = self.ledger.claim(message.run_id, message.index, worker)
        assert claim is not None
        return claim

    def succeed(self, claim: Claim) -> bool:
        return bool(self.ledger.finish(claim, outcome_of(claim, ItemState.SUCCEEDED)))

    def fail(self, claim: Claim, *, retry_after_seconds: float | None = None) -> bool:
        outcome = outcome_of(claim, ItemState.FAILED)
        return bool(self.ledger.finish(claim, outcome, retry_after_seconds=retry_after_seconds))

    def pause(self, run_id: str) -> bool:
        return self.ledger.set_paused(run_id, paused=True)

    def resume(self, run_id: str) -> bool:
        return self.ledger.set_paused(run_id, paused=False)

    def work_off(self) -> int:
        """Deliver every message and let each claim succeed; returns how many did."""
        done = 0
        while (message := self.pop_message()) is not None:
            claim = self.ledger.claim(message.run_id, message.index, "host:1")
            done += claim is not None and self.succeed(claim)
        return done

    def outcomes(self, run_id: str, after: str = "", limit: int = 1000) -> list[Outcome] | None:
        return self.ledger.outcomes(run_id, after, limit=limit, block_seconds=0)

    def close(self) -> None:
        self.broker.close()


TwinMaker = Callable[[], LedgerHarness]


def outcome_of(claim: Claim, state: ItemState) -> Outcome:
    return Outcome(item=claim.item, state=state)


def skip_of(item: str) -> Outcome:
    return Outcome(item=item, state=ItemState.SKIPPED)
