"""The metrics of a fleet, by name, and their text format.

No label is of a run, a stage, a repository or a process: their values are few, whatever a fleet does.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OTHER = "other"
"""The label of all that has none of its own."""
_PREFIX = "stagefleet_"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its name, type and labels as Prometheus has them, and what it tells."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()


_METRICS = (
    Metric("stagefleet_up", "gauge", "1 if Redis answers the exporter; without it there is nothing else."),
    Metric(
        "stagefleet_items_total", "counter", "Items that have ended, by final state.", ("operation", "state")
    ),
    Metric(
        "stagefleet_failed_items_total",
        "counter",
        "Items that have failed for good, by error: a class of stagefleet.errors, or other.",
        ("operation", "error"),
    ),
    Metric(
        "stagefleet_sent_bytes_total", "counter", "Bytes that items sent to destinations.", ("operation",)
    ),
    Metric(
        "stagefleet_attempts_total",
        "counter",
        "Attempts at items that have ended, those of dead workers included.",
        ("operation",),
    ),
    Metric(
        "stagefleet_retries_total",
        "counter",
        "Attempts that failed, and were to be repeated, by error.",
        ("operation", "error"),
    ),
    Metric(
        "stagefleet_attempt_duration_seconds",
        "histogram",
        "Duration of attempts from claim to end; workers report the sum with their heartbeats.",
        ("operation",),
    ),
    Metric(
        "stagefleet_runs_total", "counter", "Runs that have ended, by final state.", ("operation", "state")
    ),
    Metric(
        "stagefleet_reaped_total", "counter", "Items taken back from workers that vanished.", ("operation",)
    ),
    Metric(
        "stagefleet_lost_leases_total", "counter", "Attempts that a live worker gave up without its lease."
    ),
    Metric(
        "stagefleet_registry_attempts_total",
        "counter",
        "Attempts that have ended, by their end (done, retry, failed, cancelled) and the registry of the "
        "storage; a copy counts for that of its source and that of its destination.",
        ("registry", "end"),
    ),
    Metric(
        "stagefleet_registry_refusals_total",
        "counter",
        "Answers by which a registry put off a request or ended an attempt, by status; error for none.",
        ("registry", "status"),
    ),
    Metric(
        "stagefleet_waits_total",
        "counter",
        "Waits of three seconds or more in an attempt: for a lock, for a registry, or other.",
        ("reason",),
    ),
    Metric("stagefleet_wait_seconds_total", "counter", "Duration of these waits.", ("reason",)),
    Metric("stagefleet_live_runs", "gauge", "Runs that have not ended, by state.", ("state",)),
    Metric(
        "stagefleet_items",
        "gauge",
        "Items of live runs that have not ended: pending, claimed by a worker, or waiting for a retry.",
        ("operation", "state"),
    ),
    Metric(
        "stagefleet_wanted_slots",
        "gauge",
        "Slots that live runs can use: for each the smaller of its open items and its window, at least 1 "
        "unless it is paused; for autoscalers.",
        ("operation",),
    ),
    Metric("stagefleet_slots", "gauge", "Items that live workers execute at once, by queue.", ("queue",)),
    Metric("stagefleet_workers", "gauge", "Live worker processes, by host and release.", ("host", "version")),
    Metric("stagefleet_oldest_run_seconds", "gauge", "Age of the oldest live run, 0 without one."),
    Metric(
        "stagefleet_oldest_unclaimed_seconds",
        "gauge",
        "Age of the oldest published item that no worker has claimed, 0 without one.",
        ("operation",),
    ),
    Metric("stagefleet_pending_callbacks", "gauge", "Outcomes that no receiver has acknowledged yet."),
    Metric(
        "stagefleet_coordinations",
        "gauge",
        "Detached runs whose coordinator is called, at work, or waits for its receiver.",
    ),
    Metric(
        "stagefleet_last_sweep_seconds", "gauge", "Time since a worker swept the ledger; 0 before the first."
    ),
)

METRICS = {metric.name: metric for metric in _METRICS}
"""All metrics by name; `docs/metrics.md` is made from them."""


class Samples:
    """Samples of one scrape, by name, without its prefix, and the values of its labels."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = {}

    def add(self, name: str, number: float, *labels: str) -> None:
        """Add to a sample."""
        family = self._values.setdefault(name, {})
        family[labels] = family.get(labels, 0) + number

    def text(self) -> str:
        """Format all samples, those of a metric together, under its help and its type."""
        lines: list[str] = []
        for metric in METRICS.values():
            name = metric.name.removeprefix(_PREFIX)
            suffixes = ("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",)
            found = [
                f"{metric.name}{suffix}{_labels(metric, values)} {_number(number)}\n"
                for suffix in suffixes
                for values, number in self._values.get(name + suffix, {}).items()
            ]
            if found:
                escaped = metric.help.replace("\\", r"\\").replace("\n", r"\n")
                lines += [
                    f"# HELP {metric.name} {escaped}\n",
                    f"# TYPE {metric.name} {metric.type}\n",
                    *found,
                ]
        return "".join(lines)


def _labels(metric: Metric, values: Sequence[str]) -> str:
    """Format labels; a bucket of a histogram has its bound as one more."""
    names = (*metric.labels, "le")[: len(values)]
    texts = (value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for value in values)
    joined = ",".join(f'{name}="{text}"' for name, text in zip(names, texts, strict=True))
    return f"{{{joined}}}" if joined else ""


def _number(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)
