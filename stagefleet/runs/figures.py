"""Runs, outcomes and figures of a run as JSON, for pages that people watch, the HTTP API and reports.

Times are in seconds since 1970.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from stagefleet.bounds import cut
from stagefleet.errors import LedgerRewoundError
from stagefleet.names import HOST_PREFIXES
from stagefleet.runs.messages import subject_of
from stagefleet.runs.models import ItemState, Outcome, Run, Wait

# Rows: one run, one outcome.

_MESSAGE_BYTES = 500


def run_row(run: Run) -> dict[str, Any]:
    """Return a run: what it does, how far it is, and what it waits for."""
    subject = subject_of(run.spec)
    tried = run.succeeded + run.failed
    rate = tried / run.seconds if run.seconds > 0 else 0.0
    left = max(0, run.total - run.done)
    return {
        **run.summary(),
        "done": run.done,
        "operation": run.spec.operation,
        "source": subject.source,
        "destination": subject.destination,
        "project": subject.project,
        "registries": {
            role: host
            for role, address in (("source", subject.source), ("destination", subject.destination))
            if (host := registry_of(address))
        },
        "claimed": run.claimed,
        "published": run.published,
        "waiting": run.waiting,
        "parallel": run.spec.parallel,
        "bytes": run.bytes,
        "rate_per_second": round(rate, 3),
        "seconds_left": round(left / rate, 1) if rate and not run.state.is_final else None,
        "key": run.spec.key,
        "parent": run.spec.parent,
        "next": None if run.spec.next is None else run.spec.next.run_id,
        "created_at": run.created_at,
        "finished_at": run.finished_at,
        "now_at": run.now_at,
        "waits": [_wait_row(wait) for wait in run.waits],
        "error": None if run.error is None else run.error.model_dump(),
        "version": str(run.version),
    }


def _wait_row(wait: Wait) -> dict[str, Any]:
    return {
        "kind": str(wait.kind),
        "host": wait.reason.host,
        "reason": wait.reason.text,
        "until": wait.until,
        "count": wait.count,
    }


def outcome_row(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome with its position and time, without its result, with the start of a long message."""
    error = outcome.error
    return {
        "position": outcome.position,
        "at": outcome.recorded_at,
        "item": outcome.item,
        "host": outcome.host,
        "state": str(outcome.state),
        "error": None
        if error is None
        else {"type": error.type, "message": cut(error.message, _MESSAGE_BYTES)},
        "seconds": round(outcome.seconds, 3),
        "bytes": outcome.bytes,
        "attempts": outcome.attempts,
    }


def instant(seconds: float) -> str:
    """Format a time in seconds since 1970 as RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def registry_of(address: str) -> str:
    """Return the registry of a storage's address as text; "" for a storage that lies on a host.

    >>> registry_of("registry.test:5000/app/stages"), registry_of("docker-daemon:app")
    ('registry.test:5000', '')
    """
    return "" if address.startswith(HOST_PREFIXES) else address.partition("/")[0]


# Figures, from all outcomes of a run.
#
# A run may have a million. They are read once, in order, and memory is bounded: kept are counts, the first
# failures, the slowest items, the latest outcomes, and time lines of a hundred bars.

BARS = 120
"""The most bars of a time line."""
KEPT_FAILURES = 200
KEPT_LATEST = 50
KEPT_SLOWEST = 20
OTHERS = "others"
"""Name of the rest where there are too many error types or hosts to keep apart."""
_KEPT_GROUPS = 30
_KEPT_EXAMPLES = 20  # of the failures of one type
_KEPT_NOTES = 20
_SHORTEST_BAR_SECONDS = 0.125
_STEPS_A_DOUBLING = 8  # of durations: neighbours differ by 9 %
_OUTCOMES_A_READ = 1000
_STATES = tuple(state for state in ItemState if state is not ItemState.PLANNED)

ReadOutcomes = Callable[[str, int], Sequence[Outcome] | None]
"""Reads outcomes after a position, at most so many; None at the end of the run's."""
_Group = TypeVar("_Group")


@dataclass(slots=True)
class FailureGroup:
    """The failures with one type of error: their number, and the first of them."""

    type: str
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class OutcomeCounts:
    """Counts of outcomes that have a host or a registry in common, in all and over time."""

    name: str
    states: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    seconds: float = 0.0
    bars: dict[str, list[int]] = field(default_factory=dict)

    def add(self, outcome: Outcome, bar: int | None) -> None:
        """Count an outcome, in a bar if its time is known."""
        self.states[outcome.state] += 1
        self.bytes += outcome.bytes
        self.seconds += outcome.seconds
        if bar is not None:
            line = self.bars.setdefault(outcome.state, [])
            line += [0] * (bar + 1 - len(line))
            line[bar] += 1

    def widen(self) -> None:
        """Make one bar of two."""
        for state, line in self.bars.items():
            self.bars[state] = [sum(line[place : place + 2]) for place in range(0, len(line), 2)]

    def as_json(self) -> dict[str, Any]:
        """Return the counts in all."""
        counts = {str(state): self.states[state] for state in _STATES}
        return {"name": self.name, **counts, "bytes": self.bytes, "seconds": round(self.seconds, 3)}

    def time_line(self, bars: int) -> dict[str, list[int]]:
        """Return a list of so many numbers for each state that occurs."""
        return {str(state): line + [0] * (bars - len(line)) for state, line in sorted(self.bars.items())}


class Durations:
    """The distribution of durations, from counts of steps that differ by 9 %."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.longest = max(self.longest, seconds)
        self._counts[math.ceil(math.log2(max(seconds, 0.001)) * _STEPS_A_DOUBLING)] += 1

    def below(self, share: float) -> float:
        """Return the duration that a share of all, as 0.5 for the median, does not exceed; 0 for none."""
        left = share * self._counts.total()
        for step in sorted(self._counts):
            left -= self._counts[step]
            if left <= 0:
                return min(float(2 ** (step / _STEPS_A_DOUBLING)), self.longest)
        return 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the median, what nine of ten do not exceed, and the longest, in seconds."""
        found = {"median": self.below(0.5), "nine_of_ten": self.below(0.9), "longest": self.longest}
        return {name: round(seconds, 3) for name, seconds in found.items()}


class RunFigures:
    """Figures of one run, from the outcomes read so far; not thread-safe.

    Attributes:
        begins_at: Start of the time lines, which is that of the run, in seconds since 1970.
        position: Position of the last outcome read.
        has_all: True once all outcomes that there are have been read.
        has_ended: True once there will be no more of them.
        bar_seconds: Width of a bar of all time lines; it doubles when there would be too many.
        bars: Number of bars, up to the last outcome.
        attempts: Number of attempts; `retried` items had more than one.
    """

    def __init__(self, run: Run) -> None:
        self.begins_at = run.created_at
        subject = subject_of(run.spec)
        ends = map(registry_of, (subject.destination, subject.source))
        self._own_registries = tuple(name for name in ends if name)
        self.has_all = self.has_ended = False
        self._clear()

    def _clear(self) -> None:
        self.position = ""
        self.bar_seconds = _SHORTEST_BAR_SECONDS
        self.bars = self.attempts = self.retried = 0
        self.all = OutcomeCounts("")
        self.durations = Durations()
        self.notes: Counter[str] = Counter()
        self._hosts: dict[str, OutcomeCounts] = {}
        self._registries: dict[str, OutcomeCounts] = {}
        self._groups: dict[str, FailureGroup] = {}
        self._first_failures: list[dict[str, Any]] = []
        self._latest: deque[Outcome] = deque(maxlen=KEPT_LATEST)
        self._slowest: list[tuple[float, int, dict[str, Any]]] = []

    @property
    def read(self) -> int:
        """Number of outcomes that the figures are made of."""
        return self.all.states.total()

    @property
    def failures(self) -> list[FailureGroup]:
        """The failures by type, the most frequent first."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, group.type))

    @property
    def hosts(self) -> list[OutcomeCounts]:
        """The counts of hosts with a Docker Engine or an OCI layout, by name."""
        return [self._hosts[name] for name in sorted(self._hosts)]

    @property
    def registries(self) -> list[OutcomeCounts]:
        """The counts of registries, by name; each outcome belongs to one of them.

        That is the one that the message of a failure names, else the one that is written to.
        """
        return [self._registries[name] for name in sorted(self._registries)]

    @property
    def slowest(self) -> list[dict[str, Any]]:
        """The items that took longest, the slowest first."""
        return [row for *_, row in sorted(self._slowest, key=lambda entry: (-entry[0], entry[1]))]

    def read_on(self, read_outcomes: ReadOutcomes, *, seconds: float) -> None:
        """Read on from the last position for about some seconds, or to the last outcome that there is.

        If the ledger has lost what was read, as after a failover, start again from its first outcome.
        """
        stop_at = time.monotonic() + seconds
        self.has_all = self.has_ended
        while not self.has_all:
            try:
                outcomes = read_outcomes(self.position, _OUTCOMES_A_READ)
            except LedgerRewoundError:
                self._clear()
                outcomes = ()
            else:
                self.has_ended = outcomes is None
                self.has_all = not outcomes or len(outcomes) < _OUTCOMES_A_READ
            for outcome in outcomes or ():
                self.add(outcome)
            if time.monotonic() >= stop_at:
                return

    def add(self, outcome: Outcome) -> None:
        """Count an outcome, the next one after the position."""
        self.position = outcome.position
        self.attempts += outcome.attempts
        self.retried += outcome.attempts > 1
        self._latest.append(outcome)
        bar = self._bar_of(outcome)
        self.all.add(outcome, bar)
        if outcome.host:
            _group_of(self._hosts, outcome.host, OutcomeCounts).add(outcome, bar)
        if registry := self._registry_of(outcome):
            _group_of(self._registries, registry, OutcomeCounts).add(outcome, bar)
        if outcome.state is ItemState.FAILED:
            self._note_failure(outcome)
        if outcome.attempts:
            self.durations.add(outcome.seconds)
            self._note_slow(outcome)
        self._note(outcome.result or {})

    def _bar_of(self, outcome: Outcome) -> int | None:
        """Return the bar of an outcome; make bars wider until it is one of `BARS`."""
        if outcome.recorded_at is None:
            return None
        after = max(0.0, outcome.recorded_at - self.begins_at)  # a clock may be set back
        while (bar := int(after / self.bar_seconds)) >= BARS:
            self.bar_seconds *= 2
            self.bars = (self.bars + 1) // 2
            for counts in (self.all, *self._hosts.values(), *self._registries.values()):
                counts.widen()
        self.bars = max(self.bars, bar + 1)
        return bar

    def _registry_of(self, outcome: Outcome) -> str:
        message = "" if outcome.error is None else outcome.error.message
        named = next((name for name in self._own_registries if name in message), "")
        return named or next(iter(self._own_registries), "")

    def _note_failure(self, outcome: Outcome) -> None:
        row = outcome_row(outcome)
        group = _group_of(self._groups, outcome.error.type if outcome.error else "unknown", FailureGroup)
        group.count += 1
        if len(group.examples) < _KEPT_EXAMPLES:
            group.examples.append(row)
        if len(self._first_failures) < KEPT_FAILURES:
            self._first_failures.append(row)

    def _note_slow(self, outcome: Outcome) -> None:
        if len(self._slowest) < KEPT_SLOWEST or outcome.seconds > self._slowest[0][0]:
            heapq.heappush(self._slowest, (outcome.seconds, self.read, outcome_row(outcome)))
            if len(self._slowest) > KEPT_SLOWEST:
                heapq.heappop(self._slowest)

    def _note(self, result: Mapping[str, Any]) -> None:
        """Count the notes of a result, and the reason of an item that was skipped."""
        notes = result.get("notes")
        for note in [*(notes if isinstance(notes, list) else ()), result.get("reason")]:
            if isinstance(note, str) and (note in self.notes or len(self.notes) < _KEPT_NOTES):
                self.notes[note] += 1

    def as_json(self) -> dict[str, Any]:
        """Return the figures that a page shows of a run under way."""
        return {
            "position": self.position,
            "read": self.read,
            "has_all": self.has_all,
            "failures": self._first_failures,
            "error_types": {group.type: group.count for group in self.failures},
            "latest": [outcome_row(outcome) for outcome in reversed(self._latest)],
            "slowest": self.slowest,
            "all": self.all.as_json(),
            "hosts": [counts.as_json() for counts in self.hosts],
            "registries": [counts.as_json() for counts in self.registries],
            "durations": self.durations.as_json(),
            "begins_at": self.begins_at,
            "bar_seconds": self.bar_seconds,
            "bars": self.bars,
            "time_line": self.all.time_line(self.bars),
        }


def _group_of(groups: dict[str, _Group], name: str, make: Callable[[str], _Group]) -> _Group:
    """Return the group of a name; a new one is among others where there are too many."""
    name = name if name in groups or len(groups) < _KEPT_GROUPS else OTHERS
    if name not in groups:
        groups[name] = make(name)
    return groups[name]
