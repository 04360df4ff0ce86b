"""Runs and outcomes as JSON, as pages and the HTTP API show them; times are in seconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from stagefleet.bounds import cut
from stagefleet.names import HOST_PREFIXES
from stagefleet.runs.messages import subject_of
from stagefleet.runs.models import Outcome, Run, Wait

_MESSAGE_BYTES = 500


def run_row(run: Run) -> dict[str, Any]:
    """Return a run: what it does, how far it is, and what it waits for."""
    subject = subject_of(run.spec)
    tried = run.succeeded + run.failed
    rate = tried / run.seconds if run.seconds > 0 else 0.0
    left = max(0, run.total - run.done)
    error = run.error
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
        "error": None if error is None else {"type": error.type, "message": error.message},
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
