"""`stagefleet doctor`: reports missing and unreachable parts, with advice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.report import print_json, print_line
from stagefleet.cli.session import read_settings
from stagefleet.errors import UsageError
from stagefleet.names import Repository
from stagefleet.operations.base import parse_repository
from stagefleet.runs.messages import queue_of

if TYPE_CHECKING:
    from stagefleet.cli.doctor_checks import CheckResult

_PURPOSES = {
    command: queue_of(operation)
    for command, operation in {
        "copy": "copy_stage",
        "delete": "delete_stage",
        "describe": "describe_stage",
        "fetch": "fetch_stage",
        "publish": "publish_stage",
        "records": "rm_record",
    }.items()
}
"""The queue for the items of each command."""


def run_doctor(
    repositories: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REPO",
            help="Repositories whose registries to try; for copy, the last may be new.",
            show_default=False,
        ),
    ] = None,
    *,
    purpose: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="COMMAND",
            help=f"Only what this command needs: {', '.join(_PURPOSES)}. Default: all that the fleet can do.",
            show_default=False,
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Say what is missing or unreachable, and what to do."""
    from stagefleet.cli.doctor_checks import run_checks  # noqa: PLC0415 - loads redis-py

    parsed = [parse_repository(address) for address in repositories or ()]
    code = 0
    queue = _queue_for(purpose)
    for result in run_checks(read_settings, parsed, queue, sources=_sources(purpose, parsed)):
        code = code or result.code
        if json:
            print_json(result.as_json())
        else:
            print_line(_line(result))
    raise typer.Exit(code)


def _queue_for(purpose: str | None) -> str | None:
    """Return the queue whose workers a command needs; None for all."""
    if purpose is None:
        return None
    if purpose not in _PURPOSES:
        raise UsageError(f"--for {purpose}: the commands that need workers are {', '.join(_PURPOSES)}")
    return _PURPOSES[purpose]


def _sources(purpose: str | None, repositories: list[Repository]) -> list[Repository]:
    """Return those of some repositories that must exist for a command."""
    if purpose == "copy":
        return repositories[:-1]
    return repositories if purpose in {"delete", "describe"} else []


def _line(result: CheckResult) -> str:
    advice = f": {result.advice}" if result.advice else ""
    return f"{result.state:<8} {result.check}: {result.message}{advice}"
