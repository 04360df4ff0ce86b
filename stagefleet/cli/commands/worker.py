"""`stagefleet worker` and `stagefleet health`: replace themselves by processes of the fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from stagefleet.cli.session import become, read_settings
from stagefleet.errors import UsageError
from stagefleet.processes import isolated_command, require_extra, worker_command
from stagefleet.redaction import quoted
from stagefleet.runs.messages import QUEUES

_MAX = 256


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
        typer.Option(
            "--queues", metavar="NAMES", help=f"Of {', '.join(dict.fromkeys(QUEUES.values()))}; default: all."
        ),
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
    become(worker_command(*arguments))


def _checked(queues: str) -> str:
    names = [name.strip() for name in queues.split(",")]
    unknown = [name for name in names if name not in QUEUES.values()]
    if unknown:
        raise UsageError(
            f"--queues {quoted(unknown[0])}: the queues are {', '.join(dict.fromkeys(QUEUES.values()))}"
        )
    return ",".join(names)


def check_health() -> None:
    """Exit with 0 if a worker of this container or machine lives, 1 if none does.

    With 2 if the settings are wrong.
    While Redis is out of reach the answer is yes: starting the worker again would not help.
    """
    become(isolated_command("workers.health"))
