"""The way of work to Celery: queues, task names, broker options, and the messages that the ledger publishes.

The ledger pushes messages itself, in the script that frees a place, so that a crash cannot come between the
two. The messages have Celery's message protocol 2 in kombu's Redis envelope
(https://docs.celeryq.dev/en/stable/internals/protocol.html); a contract test compares this template with
kombu's own messages. This module does not import Celery, so that clients need not load it.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagefleet.bounds import MAX_ITEMS, join_first
from stagefleet.errors import UsageError
from stagefleet.logs import EventLogger
from stagefleet.names import HOST_PREFIXES
from stagefleet.operations.catalog import OPERATIONS, find_operation
from stagefleet.redaction import quoted
from stagefleet.redis_keys import QUEUE
from stagefleet.runs.models import Run, RunSpec, RunState, WorkerInfo
from stagefleet.runs.versions import SCHEMA_VERSION
from stagefleet.traces import Fact, record_span

_log = EventLogger(__name__)

QUEUES: dict[str, str] = {
    **{name: entry.queue for name, entry in OPERATIONS.items()},
    "coordinate": "coordinate",
    "start_run": "coordinate",
}
"""The queue of each operation, and of the tasks that every worker has."""

COORDINATE_NEXT_RUN = "coordinate_next_run"
"""The task of a coordinator that starts the next run."""
_HOST_PREFIX = "host."
_VISIBILITY_TIMEOUT_SECONDS = 3600
_TRANSIENT = 1
"""AMQP's delivery mode for messages that need not survive: the ledger publishes lost ones again."""


def queue_of(operation: str) -> str:
    """Return the queue of an operation; an unknown one (a user's, a test's) has a queue of its own name."""
    return QUEUES.get(operation, operation)


def host_queue(host: str) -> str:
    """Return the queue for work that only one host can do."""
    return _HOST_PREFIX + host


def own_queues(host: str, *, fetches: bool, layout_roots: Collection[Path]) -> list[str]:
    """Return the queue of a host's own work, if its worker fetches stages or may open layouts."""
    return [host_queue(host)] if fetches or layout_roots else []


def host_of_queue(queue: str) -> str | None:
    """Return the host of a host's own queue, None for any other queue."""
    return queue.removeprefix(_HOST_PREFIX) if queue.startswith(_HOST_PREFIX) else None


def layout_hosts(workers: Iterable[WorkerInfo]) -> list[str]:
    """Return the hosts with a live worker that listens to its host's own queue, sorted."""
    return sorted({host for worker in workers for queue in worker.queues if (host := host_of_queue(queue))})


def live_hosts(workers: Iterable[WorkerInfo]) -> list[str]:
    """Return those of them with an engine: only a worker that has one listens to fetches."""
    return layout_hosts(worker for worker in workers if QUEUES["fetch_stage"] in worker.queues)


def task_name(operation: str) -> str:
    """Return the Celery task of an operation."""
    return f"stagefleet.{operation}"


def queue_key(prefix: str, queue: str) -> str:
    """Return the Redis list of a queue, as kombu names it."""
    return QUEUE.of(prefix, queue)


def broker_options(prefix: str) -> dict[str, Any]:
    """Return Celery's `broker_transport_options`, for workers of users.

    Dead connections are noticed (kombu has no socket time-out by default), queues are read in turn, and there
    are no priorities: each would be a list of its own. The fleet's own workers leave out kombu's account of
    unacknowledged messages and its visibility timeout (docs/adr/0004); no ledger repeats a user's task.
    """
    return {
        "visibility_timeout": _VISIBILITY_TIMEOUT_SECONDS,
        "unacked_restore_interval": 10,
        "socket_timeout": 5,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "global_keyprefix": QUEUE.of(prefix, ""),
        "priority_steps": [0],
        "queue_order_strategy": "round_robin",
    }


def message_template(operation: str) -> str:
    """Build the message for one item, as JSON with `@RUN@`, `@INDEX@`, `@TASK@`, `@ITEM@`, `@SUBJECT@`, ...

    Flower shows `argsrepr` and `kwargsrepr`, which hold item and subject; a worker reads both from the
    ledger. `run` and `index` keep their meaning in every schema version, so that any worker can claim the
    item and report that it cannot read the spec.
    """
    message = _template(
        operation,
        {"run": "@RUN@", "index": "@INDEX@"},
        args=repr(("@ITEM@",)),
        kwargs="{'stage': '@ITEM@', @SUBJECT@, 'run': '@RUN@'}",
    )
    return message.replace('\\"@INDEX@\\"', "@INDEX@")


def coordinator_template(*, starts_next: bool = False) -> str:
    """Build the message that starts a coordinator, with `@RUN@`, `@TASK@` and `@QUEUE@` to fill in.

    One that `starts_next` is another task: a worker of a release that knows no next run drops the message,
    which the sweep publishes again, where it would have ended the coordination.
    """
    operation = COORDINATE_NEXT_RUN if starts_next else "coordinate"
    return _template(operation, {"run": "@RUN@"}, args="()", kwargs=repr({"run": "@RUN@"}))


def start_run_message(task_id: str, arguments: Mapping[str, Any]) -> str:
    """Build the message of a request to start a run, as its sender wrote it."""
    return _template(
        "start_run", arguments, args="()", kwargs="{...}", task=task_id, queue=queue_of("start_run")
    )


def _template(
    operation: str,
    arguments: Mapping[str, Any],
    *,
    args: str,
    kwargs: str,
    task: str = "@TASK@",
    queue: str = "@QUEUE@",
) -> str:
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    message = {
        "body": json.dumps([[], arguments, embed]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task_name(operation),
            "id": task,
            **dict.fromkeys(("shadow", "eta", "expires", "group", "group_index")),
            "retries": 0,
            "timelimit": [None, None],
            "root_id": task,
            "parent_id": None,
            "argsrepr": args,
            "kwargsrepr": kwargs,
            "origin": f"stagefleet@{socket.gethostname()}",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
            "stagefleet_schema": SCHEMA_VERSION,
        },
        "properties": {
            "correlation_id": task,
            "reply_to": "",
            "delivery_mode": _TRANSIENT,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "delivery_tag": task,
        },
    }
    return json.dumps(message, separators=(",", ":"))


# Checks of these messages' arguments, before a thread is used for them.

_RUN_ID = re.compile(r"[0-9a-f]{8,64}")


def problem_of_run(positional: Sequence[Any], named: Mapping[str, Any]) -> str | None:
    """Return the reason why the arguments name no run; None if they do. Unknown ones are ignored."""
    run = named.get("run")
    if positional:
        return "it has positional arguments"
    if not isinstance(run, str) or _RUN_ID.fullmatch(run) is None:
        return "its run is no run's id"
    return None


def problem_of_item(positional: Sequence[Any], named: Mapping[str, Any]) -> str | None:
    """Return the reason why the arguments name no item by run and index; None if they do."""
    index = named.get("index")
    is_number = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < MAX_ITEMS
    return problem_of_run(positional, named) or (None if is_number else "its index is no item's number")


# Celery tasks of users that receive outcomes, by name and queue.

_MOST_CHARACTERS = 255
_TASK = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(@(?P<queue>[A-Za-z0-9_.:-]+))?")
_QUEUE_OF_KOMBU = re.compile(r"unacked(_index|_mutex)?|_kombu\..*|celeryev.*|(.*\.)?pidbox")
"""Names of kombu's own keys for bookkeeping, bindings, events and replies, next to the queues."""


def check_task(target: str) -> None:
    """Refuse malformed tasks, and queues that are not a user's: no worker takes a user's task out of them."""
    match = _TASK.fullmatch(target)
    if match is None or len(target) > _MOST_CHARACTERS:
        shown = quoted(target) if "://" in target else repr(target[:_MOST_CHARACTERS])  # a URL by mistake
        raise UsageError(
            f"{shown} names no Celery task: write NAME or NAME@QUEUE, in letters, digits and _.-"
        )
    queue = match["queue"] or ""
    if queue in QUEUES.values() or host_of_queue(queue) is not None:
        raise UsageError(
            f"the queue {quoted(queue)} is one of the fleet's own: name one that your workers listen to"
        )
    if _QUEUE_OF_KOMBU.fullmatch(queue):
        raise UsageError(f"the queue {quoted(queue)} has a name that Celery needs itself: name another")


# Summary of a run from its options: source, destination and project.

_SUBJECT_CHARACTERS = 512
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
        return text if len(text) <= _SUBJECT_CHARACTERS else text[: _SUBJECT_CHARACTERS - 1] + "…"


def subject_of(spec: RunSpec) -> Subject:
    """Read the summary from a run's options; unknown forms yield empty parts."""
    operation = find_operation(spec.operation)
    reads, writes = ("source", "destination") if operation is None else (operation.reads, operation.writes)
    source, destination, project, hosts = (
        _shown(spec.options.get(name)) for name in (reads, writes, "project", "hosts")
    )
    # The host belongs to the end of the way that is on it.
    if hosts and destination.startswith(HOST_PREFIXES):
        destination = f"{destination} on {hosts}"
    elif hosts and destination != hosts and source.startswith(HOST_PREFIXES):
        source = f"{source} on {hosts}"
    return Subject(spec.operation, source, destination, project)


def _shown(value: Any) -> str:
    """Return a text; of several, the first few."""
    if isinstance(value, str):
        return value
    names = [name for name in value if isinstance(name, str)] if isinstance(value, list | tuple) else []
    return join_first(names, _NAMED)


# Log records of runs: one when a run starts, one when it ends, by the process that started or ended it.


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
    counts = {name: value for name, value in run.summary().items() if name not in {"run", "seconds"}}
    record_span(
        f"run {run.spec.operation}",
        facts_of_span(run.spec, run.id) | {f"stagefleet.{name}": value for name, value in counts.items()},
        parent=run.spec.trace,
        began_at=run.created_at,
        ended_at=run.finished_at or run.now_at,
        error="" if run.state is not RunState.FAILED else "failed" if run.error is None else run.error.type,
    )


def facts_of_span(spec: RunSpec, run_id: str) -> dict[str, Fact]:
    """Return the attributes of the spans of a run, the first by OpenTelemetry's messaging conventions."""
    subject = subject_of(spec).facts
    return {
        "messaging.system": "celery",
        "messaging.destination.name": queue_of(spec.operation),
        "messaging.message.conversation_id": run_id,
        "stagefleet.run": run_id,
        **{f"stagefleet.{name}": value for name, value in subject.items()},
    }
