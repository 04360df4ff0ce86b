"""Log records of runs: one when a run starts, one when it ends, by the process that started or ended it."""

from __future__ import annotations

from stagefleet.logs import EventLogger
from stagefleet.runs.models import Run, RunSpec, RunState
from stagefleet.runs.subjects import subject_of

__all__ = ["log_run_finished", "log_run_started"]

_log = EventLogger(__name__)


def log_run_started(run_id: str, spec: RunSpec, total: int) -> None:
    """Log `run_started`.

    Args:
        run_id: The run's id.
        spec: The run's order; the record shows operation, source, destination and project.
        total: Number of items, with outcomes decided beforehand.
    """
    _log.info("run_started", action="start", run=run_id, total=total, **subject_of(spec).facts)


def log_run_finished(run: Run, action: str) -> None:
    """Log `run_finished` with the run's counts, as a warning if the run failed.

    Args:
        run: The run after its end.
        action: The ledger's step that ended it, as `finish` or `sweep`.
    """
    facts = {name: value for name, value in run.summary().items() if name != "run"}
    if run.error is not None:
        facts |= {"error": run.error.message, "error_type": run.error.type}
    log = _log.warning if run.state is RunState.FAILED else _log.info
    log("run_finished", action=action, run=run.id, bytes=run.bytes, **facts, **subject_of(run.spec).facts)
