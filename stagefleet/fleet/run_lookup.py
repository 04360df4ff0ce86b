"""Runs that the ledger has: look-ups by id or key, failures, and what a retry does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stagefleet.errors import RunNotFoundError, UsageError
from stagefleet.fleet.callbacks import OutcomeCallback, callback_fields
from stagefleet.redaction import quoted
from stagefleet.runs.ledger import Ledger
from stagefleet.runs.models import Callback, ItemState, Outcome, Run, RunSpec, RunState

_NAMED = 3
_OUTCOMES_A_READ = 1000


def find_run(ledger: Ledger, run_id: str) -> Run:
    """Return the run of an id, or whose id begins so; errors as of `Fleet.run`."""
    found = ledger.runs_beginning(run_id)
    if run_id in found or len(found) == 1:
        return ledger.run(run_id if run_id in found else found[0])
    if not found:
        raise RunNotFoundError(
            f"there is no run {quoted(run_id)}, or it has expired: see stagefleet runs list"
        )
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    raise UsageError(f"run {run_id!r} may be {', '.join(found[:_NAMED])}{more}: write more of its id")


def find_run_under(ledger: Ledger, key: str) -> Run:
    """Return the last run under an idempotency key; errors as of `Fleet.run_under`."""
    run_id = ledger.run_under(key)
    if run_id is None:
        raise RunNotFoundError(f"no run was started under the key {key!r}, or it has expired")
    return ledger.run(run_id)


def read_failures(ledger: Ledger, run_id: str) -> Iterator[Outcome]:
    """Iterate over the outcomes of the failed items of a run so far."""
    position = ""
    while outcomes := ledger.outcomes(run_id, position, limit=_OUTCOMES_A_READ, block_seconds=0):
        position = outcomes[-1].position
        yield from (outcome for outcome in outcomes if outcome.state is ItemState.FAILED)


def spec_of_retry(old: Run, on_outcome: OutcomeCallback | None, *, parallel: int | None) -> RunSpec | None:
    """Return what a retry of a finished run is to do, see `Fleet.retry`; None if all of it succeeded."""
    if not old.state.is_final:
        raise UsageError(f"run {old.id} is still {old.state}: watch it, or cancel it first")
    if old.state is RunState.SUCCEEDED:
        return None
    changed: dict[str, Any] = {"key": None, "fingerprint": "", "parent": old.id, "group": "", "next": None}
    if parallel is not None:
        changed["parallel"] = max(1, parallel)
    if on_outcome is not None or old.spec.callback is Callback.CLIENT:
        changed |= callback_fields(on_outcome)
    return old.spec.model_copy(update=changed)
