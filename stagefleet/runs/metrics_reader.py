"""Reader of a fleet's metrics, by a few scripts: counters, workers, and the live runs.

Counters are fields of one hash, `KIND LABEL...`: the scripts that record an outcome, reap an item or end a
run add to them, and heartbeats bring what workers count themselves. They are in the ledger, so that a
failover loses of them what it loses of the runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Self

from stagefleet import redis_client
from stagefleet.operations.catalog import OPERATIONS
from stagefleet.runs.messages import QUEUES
from stagefleet.runs.metrics import OTHER, Samples
from stagefleet.runs.models import ItemState, RunState
from stagefleet.runs.redis_ledger import worker_of
from stagefleet.runs.snapshots import DURATION_LABELS

if TYPE_CHECKING:
    import redis

    from stagefleet.settings import Settings

MOST_RUNS = 200
"""Live runs that a scrape looks at; where there are more, their figures are in proportion to these."""
RUNS_A_CALL = 50
"""Runs that one call of the script looks at: Redis serves nobody else for less than a millisecond."""
_MOST_HOSTS = 100
_WORKER_NAME = re.compile(r"worker-[0-9]+@(.+)-[0-9a-f]+-[0-9a-f]{6}")
_LIVE_STATES = ("submitting", "running", "paused", "cancelling")
_FINAL_STATES = tuple(str(state) for state in RunState if state.is_final)
_ITEM_STATES = tuple(str(state) for state in ItemState if state is not ItemState.PLANNED)
WAITS = ("lock", "registry", OTHER)


class FleetMetrics:
    """Reader of a fleet's metrics. Thread-safe."""

    def __init__(self, client: redis.Redis, *, prefix: str) -> None:
        self._client = client
        self._scripts = redis_client.RedisScripts(client, "stagefleet.runs", prefix=prefix)

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> Self:
        """Create the reader for a URL; it connects at the first call."""
        return cls(redis_client.connect_redis(redis_url), prefix=settings.key_prefix)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def read(self) -> str:
        """Read all metrics, as text; the number of Redis commands is bounded, whatever the number of runs.

        Raises as `redis_client.map_redis_errors`.
        """
        now_ms, counters, workers, swept_ms, live, coordinations, oldest_ms = self._scripts.call("metrics")
        rows = [
            row
            for first in _first_ranks(int(live))
            for row in self._scripts.call("live_runs", first, first + RUNS_A_CALL - 1)
        ]
        now_ms, samples = int(now_ms), Samples()
        samples.add("up", 1)
        _add_counters(samples, _pairs(counters))
        _add_workers(samples, _pairs(workers), now_ms)
        for name, since_ms in (("last_sweep_seconds", swept_ms), ("oldest_run_seconds", oldest_ms)):
            samples.add(name, _seconds_since(since_ms, now_ms))
        samples.add("coordinations", int(coordinations))
        share = int(live) / max(1, len(rows)) if int(live) > MOST_RUNS else 1
        _add_runs(samples, rows, now_ms, share=share)
        samples.add("wanted_slots", min(1, int(coordinations)), "coordinate")
        return samples.text()


def _first_ranks(live: int) -> list[int]:
    """Return where each call begins, by age: all runs are read, or parts from the oldest to the newest.

    >>> _first_ranks(0), _first_ranks(60), _first_ranks(10_000)
    ([], [0, 50], [0, 3316, 6633, 9950])
    """
    if live <= MOST_RUNS:
        return list(range(0, live, RUNS_A_CALL))
    calls = MOST_RUNS // RUNS_A_CALL
    return [part * (live - RUNS_A_CALL) // (calls - 1) for part in range(calls)]


def unreachable_metrics() -> str:
    """Return the metrics of a fleet whose Redis does not answer: `stagefleet_up 0`."""
    samples = Samples()
    samples.add("up", 0)
    return samples.text()


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    texts = [part.decode(errors="replace") for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _seconds_since(since_ms: Any, now_ms: int) -> float:
    """Return the time since a moment, 0 if there is none or it is of a clock that was set back."""
    since = int(float(since_ms))
    return max(0, now_ms - since) / 1000 if since else 0


def _operation(name: str) -> str:
    return name if name in OPERATIONS else OTHER


# Counters.


class _CounterReader:
    """Reader of the counters' fields: a method for each kind, with its labels; a folded field lacks some."""

    def __init__(self, samples: Samples) -> None:
        self._add = samples.add
        self._durations: dict[str, Counter[str]] = {name: Counter() for name in (*OPERATIONS, OTHER)}
        self._attempt_ms: Counter[str] = Counter()

    def items(
        self, number: int, operation: str, state: str = OTHER, error: str = OTHER, bound: str = "-"
    ) -> None:
        self._add("items_total", number, _operation(operation), state)
        if state == ItemState.FAILED:
            self._add("failed_items_total", number, _operation(operation), error)
        self._add_attempts(number, operation, bound)

    def retries(self, number: int, operation: str, error: str = OTHER, bound: str = "+Inf") -> None:
        self._add("retries_total", number, _operation(operation), error)
        self._add_attempts(number, operation, bound)

    def reaped(self, number: int, operation: str) -> None:
        self._add("reaped_total", number, _operation(operation))
        self._add("attempts_total", number, _operation(operation))

    def bytes(self, number: int, operation: str) -> None:
        self._add("sent_bytes_total", number, _operation(operation))

    def runs(self, number: int, operation: str, state: str = OTHER) -> None:
        self._add("runs_total", number, _operation(operation), state)

    def attempt_ms(self, number: int, operation: str) -> None:
        self._attempt_ms[_operation(operation)] += number

    def lost_leases(self, number: int, _: str) -> None:
        self._add("lost_leases_total", number)

    def refusals(self, number: int, registry: str, reason: str = OTHER) -> None:
        self._add("registry_refusals_total", number, registry, reason)

    def registry_attempts(self, number: int, registry: str, end: str = OTHER) -> None:
        self._add("registry_attempts_total", number, registry, end)

    def waits(self, number: int, reason: str) -> None:
        self._add("waits_total", number, reason)

    def wait_ms(self, number: int, reason: str) -> None:
        self._add("wait_seconds_total", number / 1000, reason)

    def _add_attempts(self, number: int, operation: str, bound: str) -> None:
        if bound in DURATION_LABELS:
            self._add("attempts_total", number, _operation(operation))
            self._durations[_operation(operation)][bound] += number

    def add_durations(self) -> None:
        """Add the histogram of the fields that have been read."""
        for operation, found in self._durations.items():
            total = 0
            for bound in DURATION_LABELS:
                total += found[bound]
                self._add("attempt_duration_seconds_bucket", total, operation, bound)
            self._add("attempt_duration_seconds_sum", self._attempt_ms[operation] / 1000, operation)
            self._add("attempt_duration_seconds_count", total, operation)


_KINDS: Mapping[str, Callable[..., None]] = {
    name: reader
    for name, reader in vars(_CounterReader).items()
    if name[0] != "_" and name != "add_durations"
}


def _add_counters(samples: Samples, counters: Mapping[str, str]) -> None:
    """Add all counters; those of closed labels begin at 0, as a rate needs a first value."""
    reader = _CounterReader(samples)
    for operation in (*OPERATIONS, OTHER):
        for state in _ITEM_STATES:
            reader.items(0, operation, state)
        for state in _FINAL_STATES:
            reader.runs(0, operation, state)
        for kind in (reader.bytes, reader.reaped):
            kind(0, operation)
    for reason in WAITS:
        reader.waits(0, reason)
        reader.wait_ms(0, reason)
    reader.lost_leases(0, "")
    for field, number in counters.items():
        kind_name, *labels = field.split(" ")
        read = _KINDS.get(kind_name)
        if read is None or not 0 < len(labels) < len(signature(read).parameters) - 1:
            continue  # of another release
        read(reader, int(number), *labels)
    reader.add_durations()


# Gauges.


def _add_workers(samples: Samples, workers: Mapping[str, str], now_ms: int) -> None:
    """Add the live workers; one whose heartbeat is of an unknown form is left out."""
    places: Counter[tuple[str, str]] = Counter()
    slots: Counter[str] = Counter(dict.fromkeys(QUEUES.values(), 0))
    for name, entry in sorted(workers.items()):
        worker = worker_of(name.encode(), entry.encode(), now_ms)
        if worker is None:
            continue
        found = _WORKER_NAME.fullmatch(name)
        place = found[1] if found else OTHER, worker.version.release
        places[place if place in places or len(places) < _MOST_HOSTS else (OTHER, OTHER)] += 1
        for queue in {queue if queue in QUEUES.values() else OTHER for queue in worker.queues}:
            slots[queue] += worker.slots
    for (host, version), number in places.items():
        samples.add("workers", number, host, version)
    for queue, number in slots.items():
        samples.add("slots", number, queue)


def _add_runs(samples: Samples, rows: Iterable[Sequence[Any]], now_ms: int, *, share: float) -> None:
    """Add the live runs that were looked at, each for `share` runs."""
    for operation in OPERATIONS:
        samples.add("wanted_slots", 0, operation)
    for state in _LIVE_STATES:
        samples.add("live_runs", 0, state)
    samples.add("pending_callbacks", 0)
    oldest: dict[str, float] = {}
    for row in rows:
        run = _LiveRun.read(row)
        if run is None:
            continue
        samples.add("live_runs", share, run.state)
        samples.add("pending_callbacks", share * run.unacknowledged)
        samples.add("wanted_slots", share * run.wanted_slots, run.operation)
        for state, number in (("pending", run.pending), ("claimed", run.claimed), ("waiting", run.waiting)):
            samples.add("items", share * number, run.operation, state)
        age = _seconds_since(run.published_ms, now_ms)
        oldest[run.operation] = max(age, oldest.get(run.operation, 0))
    for operation in OPERATIONS:
        samples.add("oldest_unclaimed_seconds", oldest.get(operation, 0), operation)


@dataclass(frozen=True, slots=True)
class _LiveRun:
    """Figures of a live run, from `lua/live_runs.lua`; `pending` items are neither claimed nor waiting."""

    state: str
    operation: str
    open: int
    window: int
    unacknowledged: int
    claimed: int
    waiting: int
    published_ms: float

    @classmethod
    def read(cls, row: Sequence[Any]) -> Self | None:
        """Read a row; None for a run that has just ended, or is damaged."""
        try:
            state, paused, operation = (bytes(part).decode() for part in row[:3])
            total, *ended, window, unacknowledged, leased, waiting, behind, published_ms = map(float, row[3:])
        except (ValueError, TypeError):
            return None
        if state not in _LIVE_STATES:
            return None
        return cls(
            "paused" if paused and state != "cancelling" else state,
            _operation(operation),
            open=int(max(0, total - sum(ended))),
            window=int(window),
            unacknowledged=int(unacknowledged),
            claimed=int(leased),
            waiting=int(waiting + behind),
            published_ms=published_ms,
        )

    @property
    def pending(self) -> int:
        """Items that nobody has claimed, and that do not wait for a retry or for another item."""
        return max(0, self.open - self.claimed - self.waiting)

    @property
    def wanted_slots(self) -> int:
        """Slots that the run can use; one at least, as somebody has to plan, sweep or end it."""
        return 0 if self.state == "paused" else max(1, min(self.open, self.window))
