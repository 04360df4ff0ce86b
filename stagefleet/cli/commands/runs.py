"""`stagefleet runs`: list, show, watch, cancel, pause, resume, retry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Annotated, Any

import typer

import stagefleet
from stagefleet.cli import options as opt, session
from stagefleet.cli.app import make_group
from stagefleet.cli.output import print_json, print_line, say
from stagefleet.cli.progress import describe_failure, describe_run, exit_code
from stagefleet.errors import UsageError
from stagefleet.fleet.waits import describe_wait
from stagefleet.runs.messages import subject_of
from stagefleet.runs.models import Outcome, Run, RunState

_PURPOSE = "stagefleet runs"

app = make_group("See and steer runs.")
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or how it begins.")]
_FAILURES_SHOWN = 20


@app.command("list")
def list_runs(*, json: opt.Json = False) -> None:
    """List the runs that have not expired, the newest first."""
    with session.connect(_PURPOSE) as fleet:
        for run in fleet.runs():
            if json:
                print_json(_details(run))
            else:
                told = f"{_time(run.created_at)}  {run.spec.operation:<12}  {describe_run(run)}"
                subject = str(subject_of(run.spec))
                print_line(f"{told}  {subject}" if subject else told)


@app.command("show")
def show_run(
    run_id: opt.RunId = None,
    *,
    idempotency_key: opt.RunKey = None,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Print the ids of failed items alone, one a line, for --from-file."),
    ] = False,
    json: opt.Json = False,
) -> None:
    """Show how a run stands, and which items failed and why."""
    if (run_id is None) == (idempotency_key is None):
        raise UsageError("name the run, or its key with --idempotency-key")
    with session.connect(_PURPOSE) as fleet:
        found = fleet.run_under(idempotency_key or "") if run_id is None else fleet.run(run_id)
        if failed:
            _print_failed(fleet.failures(found.id), as_json=json)
            return
        failures = list(islice(fleet.failures(found.id), _FAILURES_SHOWN)) if found.failed else []
    for wait in found.waits:
        say(describe_wait(wait, found))
    if json:
        print_json(_details(found) | {"failures": [outcome.as_json() for outcome in failures]})
        return
    print_line(describe_run(found))
    for name, value in _details(found).items():
        if value not in {None, ""} if not isinstance(value, dict) else value:
            print_line(f"  {name:<12} {_plain(value)}")
    for outcome in failures:
        print_line(f"  {describe_failure(outcome, in_fleet=True)}")
    if found.failed > len(failures):
        rest = found.failed - len(failures)
        print_line(f"  and {rest:,} more that failed: stagefleet runs show {found.id} --failed --json")


@app.command("watch")
def watch_run(run_id: RunId, *, json: opt.Json = False) -> None:
    """Follow a run to its end; Ctrl-C cancels it."""
    with session.connect(_PURPOSE) as fleet, session.cancelling_on_interrupt(fleet) as interrupts:
        found = fleet.run(run_id)
        ended = session.watch_run(fleet, found, interrupts, as_json=json, no_worker_limit_seconds=math.inf)
        raise typer.Exit(exit_code(ended))


@app.command("cancel")
def cancel_run(
    run_id: RunId,
    *,
    now: Annotated[bool, typer.Option("--now", help="Stop what runs instead of finishing it.")] = False,
) -> None:
    """Cancel a run: nothing new starts."""
    _steer(run_id, partial(stagefleet.Fleet.cancel, now=now), if_unchanged="the run had ended already")


@app.command("pause")
def pause_run(run_id: RunId) -> None:
    """Pause a run: what waits stays, what runs finishes, until `runs resume`.

    No time limit counts meanwhile. It can be cancelled, and who follows it goes on.
    """
    _steer(run_id, stagefleet.Fleet.pause, if_unchanged="the run was paused already")


@app.command("resume")
def resume_run(run_id: RunId) -> None:
    """Resume a paused run: its items start again."""
    _steer(run_id, stagefleet.Fleet.resume, if_unchanged="the run was not paused")


@app.command("retry")
@session.takes_run_options(but=("from_file", "idempotency_key", "dry_run", "embedded", "missing_ok"))
def retry_run(run_id: RunId, *, options: session.RunOptions) -> None:
    """Run again, as a new run, what failed or was cancelled in a finished one.

    Whom that one called is called again, unless a callback is named here.
    """
    with session.connect(_PURPOSE) as fleet:
        run_id = fleet.run(run_id).id
        with session.cancelling_on_interrupt(fleet) as interrupts:
            again = fleet.retry(run_id, options.callback, parallel=options.parallel, detach=True)
            if again.state is RunState.SUCCEEDED and again.id == run_id:
                say("all of the run succeeded: nothing to retry")
            session.detach_or_follow(fleet, again, options, interrupts)


def _steer(run_id: str, change: Callable[[stagefleet.Fleet, str], bool], *, if_unchanged: str) -> None:
    """Change the state of a run, and print how it stands then."""
    with session.connect(_PURPOSE) as fleet:
        run_id = fleet.run(run_id).id
        if not change(fleet, run_id):
            say(if_unchanged)
        print_line(describe_run(fleet.run(run_id)))


def _print_failed(failures: Iterable[Outcome], *, as_json: bool) -> None:
    """Print failed items: their ids without duplicates, or their outcomes."""
    told: set[str] = set()
    for outcome in failures:
        if as_json:
            print_json(outcome.as_json())
        elif outcome.item not in told:
            told.add(outcome.item)
            print_line(outcome.item)


def _details(run: Run) -> dict[str, Any]:
    """Return the summary with further details."""
    return run.summary() | {
        "operation": run.spec.operation,
        "options": dict(run.spec.options),
        "parallel": run.spec.parallel,
        "key": run.spec.key,
        "parent": run.spec.parent,
        "claimed": run.claimed,
        "published": run.published,
        "waiting": run.waiting,
        "bytes": run.bytes,
        "created_at": _time(run.created_at),
        "version": str(run.version),
        "finished_at": None if run.finished_at is None else _time(run.finished_at),
        "error": None if run.error is None else run.error.model_dump(),
    }


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        said = {name: item for name, item in value.items() if item is not None and item != []}
        return ", ".join(f"{name} {_plain(item)}" for name, item in said.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return str(value)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
