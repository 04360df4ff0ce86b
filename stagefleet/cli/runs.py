"""`stagefleet runs`: list, show, watch, cancel, retry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.following import follow_run, leave_or_follow
from stagefleet.cli.help import HelpfulGroup
from stagefleet.cli.report import describe_run, print_json, print_line
from stagefleet.cli.run_options import RunOptions, takes_run_options
from stagefleet.cli.session import connect, say
from stagefleet.client.waiting import describe_wait
from stagefleet.errors import UsageError
from stagefleet.runs.model import Run, RunState

__all__ = ["app"]

_PURPOSE = "stagefleet runs"

app = typer.Typer(help="See and steer runs.", cls=HelpfulGroup)
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]


@app.command("list")
def list_runs(*, json: opt.Json = False) -> None:
    """List the runs that have not expired, the newest first."""
    with connect(_PURPOSE) as fleet:
        for run in fleet.runs():
            if json:
                print_json(_details(run))
            else:
                print_line(f"{_time(run.created_at)}  {run.order.operation:<12}  {describe_run(run)}")


@app.command("show")
def show_run(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)
    ] = None,
    *,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", metavar="K", help="Instead: the key of the run.")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Show how a run stands."""
    if (run is None) == (idempotency_key is None):
        raise UsageError("name the run, or its key with --idempotency-key")
    with connect(_PURPOSE) as fleet:
        found = fleet.run_under(idempotency_key or "") if run is None else fleet.run(run)
    for wait in found.waits:
        say(describe_wait(wait, found))
    if json:
        print_json(_details(found))
        return
    print_line(describe_run(found))
    for name, value in _details(found).items():
        if value not in {None, ""} if not isinstance(value, dict) else value:
            print_line(f"  {name:<12} {_plain(value)}")


@app.command("watch")
def watch_run(run: RunId, *, json: opt.Json = False) -> None:
    """Follow a run to its end; Ctrl-C cancels it."""
    with connect(_PURPOSE) as fleet:
        follow_run(fleet, fleet.run(run), as_json=json, follow=fleet.watch)


@app.command("cancel")
def cancel_run(
    run: RunId,
    *,
    now: Annotated[bool, typer.Option("--now", help="Stop what runs instead of finishing it.")] = False,
) -> None:
    """Cancel a run: nothing new starts."""
    with connect(_PURPOSE) as fleet:
        if not fleet.cancel(run, now=now):
            say("the run had ended already")
        print_line(describe_run(fleet.run(run)))


@app.command("retry")
@takes_run_options(but=("from_file", "idempotency_key", "dry_run", "embedded"))
def retry_run(run: RunId, *, options: RunOptions) -> None:
    """Run again, as a new run, what failed or was cancelled in a finished one.

    Whom that one called is called again, unless a callback is named here.
    """
    with connect(_PURPOSE) as fleet:
        again = fleet.retry(run, options.callback, parallel=options.parallel, detach=True)
        if again.state is RunState.SUCCEEDED and again.id == run:
            say("all of the run succeeded: nothing to retry")
        leave_or_follow(fleet, again, options)


def _details(run: Run) -> dict[str, Any]:
    """The summary, and what a person asks next."""
    return run.summary() | {
        "operation": run.order.operation,
        "options": dict(run.order.options),
        "parallel": run.order.parallel,
        "key": run.order.key,
        "parent": run.order.parent,
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
