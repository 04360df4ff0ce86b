"""What a run is about, and log records of its start and end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stagefleet.logs import EventLogger
from stagefleet.names import ENGINE_PREFIX
from stagefleet.operations.catalog import find_operation
from stagefleet.runs.models import Run, RunSpec, RunState

# Summary of a run from its options: source, destination and project.

_SHOWN_CHARACTERS = 512
"""Most characters of a summary in a message: it is for people, and each message carries it."""
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """Source, destination and project of a run; "" for missing parts.

    The source is the storage that is read, or whose stages or records are deleted or described.
    """

    operation: str
    source: str = ""
    destination: str = ""
    project: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """Return the parts that are not empty, by name, for log records."""
        parts = {"source": self.source, "destination": self.destination, "project": self.project}
        return {"operation": self.operation, **{name: part for name, part in parts.items() if part}}

    def __str__(self) -> str:
        """Format it for a list: `SOURCE -> DESTINATION`."""
        return " -> ".join(part for part in (self.source, self.destination) if part)

    @property
    def shown(self) -> str:
        """Format the parts as a task's arguments, shortened for a message."""
        text = ", ".join(f"'{name}': '{part}'" for name, part in self.facts.items())
        return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def subject_of(spec: RunSpec) -> Subject:
    """Read the summary from a run's options; unknown forms yield empty parts."""
    operation = find_operation(spec.operation)
    reads, writes = ("source", "destination") if operation is None else (operation.reads, operation.writes)
    source, destination, project, hosts = (
        _shown(spec.options.get(name)) for name in (reads, writes, "project", "hosts")
    )
    # The host belongs to the end of the way that is an engine.
    if hosts and destination.startswith(ENGINE_PREFIX):
        destination = f"{destination} on {hosts}"
    elif hosts and destination != hosts and source.startswith(ENGINE_PREFIX):
        source = f"{source} on {hosts}"
    return Subject(spec.operation, source, destination, project)


def _shown(value: Any) -> str:
    """Return a text; of several, the first few."""
    if isinstance(value, str):
        return value
    names = [name for name in value if isinstance(name, str)] if isinstance(value, list | tuple) else []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


# Log records of runs: one when a run starts, one when it ends, by the process that started or ended it.

_log = EventLogger(__name__)


def log_run_started(run_id: str, spec: RunSpec, total: int) -> None:
    """Log `run_started`, with the number of items and of outcomes decided beforehand."""
    _log.info("run_started", action="start", run=run_id, total=total, **subject_of(spec).facts)


def log_run_finished(run: Run, action: str) -> None:
    """Log `run_finished`, as a warning if the run failed; the action is the step that ended it."""
    facts = {name: value for name, value in run.summary().items() if name != "run"}
    if run.error is not None:
        facts |= {"error": run.error.message, "error_type": run.error.type}
    log = _log.warning if run.state is RunState.FAILED else _log.info
    log("run_finished", action=action, run=run.id, bytes=run.bytes, **facts, **subject_of(run.spec).facts)
