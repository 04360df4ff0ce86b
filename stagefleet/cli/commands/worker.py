"""`stagefleet worker`, `flower` and `health`, which replace themselves by processes of the fleet."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from stagefleet.cli.options import chosen_options
from stagefleet.cli.output import flush_output
from stagefleet.cli.session import read_settings
from stagefleet.errors import UsageError
from stagefleet.names import MAX_PORT
from stagefleet.processes import isolated_command, require_extra, worker_command
from stagefleet.redaction import quoted
from stagefleet.runs.messages import QUEUES

_MAX = 256
_QUEUES = ", ".join(dict.fromkeys(QUEUES.values()))


def start_worker(
    *,
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="N", min=1, max=_MAX, help="Default: one per CPU.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", metavar="N", min=1, max=_MAX, help="Items at once in each process."),
    ] = None,
    queues: Annotated[
        str | None,
        typer.Option("--queues", metavar="NAMES", help=f"Of {_QUEUES}; default: all."),
    ] = None,
) -> None:
    """Work for the fleet until told to stop."""
    if read_settings().redis_url is None:
        raise UsageError("stagefleet worker needs a fleet: set STAGEFLEET_REDIS_URL")
    require_extra("worker", "celery", "workers")
    arguments: list[str] = []
    if processes is not None:
        arguments += ["--processes", str(processes)]
    if concurrency is not None:
        arguments += ["--concurrency", str(concurrency)]
    if queues is not None:
        arguments += ["--queues", _checked(queues)]
    _become(worker_command(*arguments))


def _checked(queues: str) -> str:
    names = [name.strip() for name in queues.split(",")]
    unknown = [name for name in names if name not in QUEUES.values()]
    if unknown:
        raise UsageError(f"--queues {quoted(unknown[0])}: the queues are {_QUEUES}")
    return ",".join(names)


def start_flower(
    *,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="Where to listen; default: flower.address."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="N", min=0, max=MAX_PORT, help="0 takes a free one; default: flower.port."
        ),
    ] = None,
) -> None:
    """Show the fleet's workers and tasks on web pages until told to stop."""
    if read_settings().redis_url is None:
        raise UsageError("stagefleet flower shows a fleet: set STAGEFLEET_REDIS_URL")
    require_extra("flower", "flower", "Flower's pages")
    given = {"--address": address, "--port": None if port is None else str(port)}
    options = [word for name, value in given.items() if value is not None for word in (name, value)]
    _become(isolated_command("config.flower", *options))


def check_health() -> None:
    """Exit with 0 if a worker of this container or machine lives, 1 if none does.

    With 2 if the settings are wrong.
    While Redis is out of reach the answer is yes: starting the worker again would not help.
    """
    _become(isolated_command("workers.health"))


def _become(command: Sequence[str]) -> NoReturn:
    """Replace this process by another one of ours, which takes the options of all commands with it."""
    flush_output()
    environment = os.environ | chosen_options().environment  # the same process, so the same variables
    os.execve(sys.executable, list(command), environment)  # noqa: S606 - no shell is meant
