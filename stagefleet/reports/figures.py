"""Figures of a run from its outcomes, read once and in bounded memory: a run may have a million of them."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stagefleet.reports.advice import advice_for
from stagefleet.runs.documents import outcome_facts, registry_of
from stagefleet.runs.messages import Subject, subject_of
from stagefleet.runs.models import ItemState, Outcome, Run

BARS = 120
"""Bars of a time line, over the whole of the run."""
OTHERS = "others"
"""Name of the rest where there are too many error types, hosts or registries to keep apart."""
_KEPT_GROUPS = 30
_KEPT_EXAMPLES = 20  # of the failures of one type
_KEPT_SLOWEST = 20
_KEPT_NOTES = 20
_STEPS_A_DOUBLING = 8  # of durations: neighbours differ by 9 %


@dataclass(slots=True)
class FailureGroup:
    """The failures with one type of error: their number, and the first of them."""

    type: str
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count a failure."""
        self.count += 1
        if len(self.examples) < _KEPT_EXAMPLES:
            self.examples.append(outcome_facts(outcome))

    def as_json(self) -> dict[str, Any]:
        """Return the group, with advice."""
        advice = advice_for(self.type)
        return {"type": self.type, "count": self.count, "advice": advice, "examples": self.examples}


@dataclass(slots=True)
class HostFigures:
    """The outcomes of one host or registry: counted by state, in all and for each bar of its time line."""

    name: str
    states: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    seconds: float = 0.0
    bars: list[Counter[str]] = field(default_factory=lambda: [Counter() for _ in range(BARS)])

    def add(self, outcome: Outcome, bar: int | None) -> None:
        """Count an outcome, in a bar if its time is known."""
        self.states[outcome.state] += 1
        self.bytes += outcome.bytes
        self.seconds += outcome.seconds
        if bar is not None:
            self.bars[bar][outcome.state] += 1

    def as_json(self) -> dict[str, Any]:
        """Return the counts; the time line holds a list of numbers for each state that occurs."""
        lines = {state: [bar[state] for bar in self.bars] for state in sorted(self.states)}
        return {
            "name": self.name,
            **{state: self.states[state] for state in _STATES},
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "time_line": {state: counts for state, counts in lines.items() if any(counts)},
        }


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


class ReportFigures:
    """Figures of a run: what was done, how fast, what failed and why.

    Attributes:
        read: Number of outcomes that they are made of.
        begins_at: Start of the time lines, which is that of the run, in seconds since 1970.
        bar_seconds: Width of a bar.
    """

    def __init__(self, run: Run, outcomes: Iterable[Outcome]) -> None:
        self.run = run
        self.subject: Subject = subject_of(run.spec)
        self.begins_at = run.created_at
        self.bar_seconds = max(run.seconds, 0.001) / BARS
        self.read = self.attempts = self.retried = self.bytes = 0
        self.states: Counter[str] = Counter()
        self.durations = Durations()
        self.notes: Counter[str] = Counter()
        self._failures: dict[str, FailureGroup] = {}
        self._hosts: dict[str, HostFigures] = {}
        self._registries: dict[str, HostFigures] = {}
        self._slowest: list[tuple[float, int, dict[str, Any]]] = []
        ends = (self.subject.destination, self.subject.source)
        self._own_registries = [name for name in map(registry_of, ends) if name]
        for outcome in outcomes:
            self._add(outcome)

    @property
    def is_finished(self) -> bool:
        """True if the run has ended: the figures stay as they are."""
        return self.run.state.is_final

    @property
    def left(self) -> int:
        """Number of items without an outcome: to do, or of a cancelled run, which never started them."""
        return max(0, self.run.total - self.read)

    @property
    def failures(self) -> list[FailureGroup]:
        """The failures by type, the most frequent first."""
        return sorted(self._failures.values(), key=lambda group: (-group.count, group.type))

    @property
    def hosts(self) -> list[HostFigures]:
        """The time lines of the hosts with a Docker Engine or an OCI layout, by name."""
        return [self._hosts[name] for name in sorted(self._hosts)]

    @property
    def registries(self) -> list[HostFigures]:
        """The time lines of the registries, by name."""
        return [self._registries[name] for name in sorted(self._registries)]

    @property
    def slowest(self) -> list[dict[str, Any]]:
        """The items that took longest, the slowest first."""
        return [row for *_, row in sorted(self._slowest, key=lambda entry: -entry[0])]

    def as_json(self) -> dict[str, Any]:
        """Return all figures as one document."""
        run, seconds = self.run, max(self.run.seconds, 0.001)
        return {
            **run.summary(),
            "is_finished": self.is_finished,
            "left": self.left,
            **self.subject.facts,
            "parallel": run.spec.parallel,
            "key": run.spec.key,
            "parent": run.spec.parent,
            "version": str(run.version),
            "created_at": instant(run.created_at),
            "finished_at": None if run.finished_at is None else instant(run.finished_at),
            "error": None if run.error is None else run.error.model_dump() | _advice(run.error.type),
            "bytes": self.bytes,
            "bytes_per_second": round(self.bytes / seconds),
            "items_per_second": round(self.read / seconds, 3),
            "attempts": self.attempts,
            "retried": self.retried,
            "durations": self.durations.as_json(),
            "bar_seconds": round(self.bar_seconds, 3),
            "failures": [group.as_json() for group in self.failures],
            "hosts": [line.as_json() for line in self.hosts],
            "registries": [line.as_json() for line in self.registries],
            "slowest": self.slowest,
            "notes": dict(self.notes.most_common()),
        }

    def _add(self, outcome: Outcome) -> None:
        self.read += 1
        self.states[outcome.state] += 1
        self.bytes += outcome.bytes
        self.attempts += outcome.attempts
        self.retried += outcome.attempts > 1
        if outcome.attempts:
            self.durations.add(outcome.seconds)
            self._note_slow(outcome)
        bar = self._bar_of(outcome)
        if outcome.host:
            _line_of(self._hosts, outcome.host).add(outcome, bar)
        if registry := self._registry_of(outcome):
            _line_of(self._registries, registry).add(outcome, bar)
        if outcome.state is ItemState.FAILED:
            name = "unknown" if outcome.error is None else outcome.error.type
            name = _bounded_name(self._failures, name)
            self._failures.setdefault(name, FailureGroup(name)).add(outcome)
        self._note(outcome.result or {})

    def _bar_of(self, outcome: Outcome) -> int | None:
        at = outcome.recorded_at
        if at is None:
            return None
        return min(max(0, int((at - self.begins_at) / self.bar_seconds)), BARS - 1)

    def _registry_of(self, outcome: Outcome) -> str:
        """Return the registry that an outcome tells of: of a failure, the one that its message names."""
        message = "" if outcome.error is None else outcome.error.message
        named = next((name for name in self._own_registries if name in message), "")
        return named or next(iter(self._own_registries), "")

    def _note_slow(self, outcome: Outcome) -> None:
        if len(self._slowest) < _KEPT_SLOWEST or outcome.seconds > self._slowest[0][0]:
            heapq.heappush(self._slowest, (outcome.seconds, self.read, outcome_facts(outcome)))
            if len(self._slowest) > _KEPT_SLOWEST:
                heapq.heappop(self._slowest)

    def _note(self, result: dict[str, Any]) -> None:
        """Count the notes of a result, and the reason of an item that was skipped."""
        notes = result.get("notes")
        for note in [*(notes if isinstance(notes, list) else ()), result.get("reason")]:
            if isinstance(note, str) and (note in self.notes or len(self.notes) < _KEPT_NOTES):
                self.notes[note] += 1


_STATES = tuple(state for state in ItemState if state is not ItemState.PLANNED)


def instant(seconds: float) -> str:
    """Format a time in seconds since 1970 as RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _bounded_name(groups: dict[str, Any], name: str) -> str:
    return name if name in groups or len(groups) < _KEPT_GROUPS else OTHERS


def _line_of(lines: dict[str, HostFigures], name: str) -> HostFigures:
    name = _bounded_name(lines, name)
    if name not in lines:
        lines[name] = HostFigures(name)
    return lines[name]


def _advice(error_type: str) -> dict[str, str]:
    return {"advice": advice_for(error_type)}
