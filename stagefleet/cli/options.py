"""The options that commands share, and what is read with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from stagefleet.client.callbacks import RemoteCallback
from stagefleet.errors import InvalidNameError, UsageError
from stagefleet.names import StageId

__all__ = [
    "Detach",
    "DryRun",
    "Embedded",
    "FromFile",
    "Hosts",
    "IdempotencyKey",
    "Json",
    "OnFinishUrl",
    "OnOutcomeTask",
    "OnOutcomeUrl",
    "Parallel",
    "Project",
    "RunOptions",
    "StageIdArguments",
    "called_back",
    "read_ids",
    "read_stage_ids",
]

StageIdArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="STAGE_ID",
        help="DIGEST-CREATED_MS, or DIGEST alone for a multi-platform stage.",
        show_default=False,
    ),
]
Parallel = Annotated[
    int | None,
    typer.Option(
        "-j", "--parallel", metavar="N", help="Items at once; 1 is serial. Default: 16, or the settings'."
    ),
]
FromFile = Annotated[
    str | None,
    typer.Option("--from-file", metavar="FILE|-", help="Read ids, one a line; - is standard input."),
]
Project = Annotated[
    str | None,
    typer.Option("--project", metavar="NAME", help="A project of the settings.", show_default=False),
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="NAME",
        help="The host whose Docker Engine is meant; repeatable. Default: this one.",
        show_default=False,
    ),
]
Detach = Annotated[bool, typer.Option("--detach", help="Print the run's id and leave.")]
IdempotencyKey = Annotated[
    str | None,
    typer.Option("--idempotency-key", metavar="K", help="Do the same work under the same key only once."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Embedded = Annotated[
    bool, typer.Option("--embedded", help="Start a private Valkey and a worker for this command alone.")
]

OnOutcomeUrl = Annotated[
    str | None,
    typer.Option("--on-outcome-url", metavar="URL", help="The fleet calls it for each outcome, signed."),
]
OnOutcomeTask = Annotated[
    str | None,
    typer.Option(
        "--on-outcome-task",
        metavar="NAME[@QUEUE]",
        help="Instead: a Celery task, published for each outcome.",
    ),
]
OnFinishUrl = Annotated[
    str | None, typer.Option("--on-finish-url", metavar="URL", help="The fleet calls it at the run's end.")
]


def called_back(
    outcome_url: str | None, outcome_task: str | None, finish_url: str | None
) -> RemoteCallback | None:
    """Whom the fleet is to call, None for nobody.

    Raises:
        UsageError: A URL or a task is malformed.
    """
    if outcome_url is None and outcome_task is None and finish_url is None:
        return None
    return RemoteCallback(outcome_url, outcome_task, finish_url)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of every command that starts a run.

    Raises:
        UsageError: They contradict each other.
    """

    parallel: int | None = None
    detach: bool = False
    key: str | None = None
    dry_run: bool = False
    json: bool = False
    embedded: bool = False
    callback: RemoteCallback | None = None

    @property
    def needs_fleet(self) -> str | None:
        """The option that a command's own private services cannot serve, None if none was given."""
        given = {
            "--detach": self.detach,
            "--idempotency-key": self.key is not None,
            "a callback of the fleet's": self.callback is not None,
        }
        return next((name for name, is_given in given.items() if is_given), None)

    def __post_init__(self) -> None:
        if self.parallel is not None and self.parallel < 1:
            raise UsageError(f"--parallel {self.parallel}: write 1 or more (1 is serial)")
        if self.detach and self.dry_run:
            raise UsageError("--dry-run starts no run to detach from: leave out --detach")


def read_stage_ids(named: Iterable[str] | None, from_file: str | None) -> list[str] | None:
    """The stages that a command names; see `read_ids`."""
    return read_ids(named, from_file, lambda text: str(StageId.parse(text)))


def read_ids(
    named: Iterable[str] | None, from_file: str | None, parse: Callable[[str], str]
) -> list[str] | None:
    """The items that a command names, None if it names none: an empty file names no item, not all.

    Blank lines and lines that begin with `#` are ignored.

    Args:
        named: From the command line.
        from_file: A file, or `-`.
        parse: Checks one id, and gives it as it is to be written.

    Raises:
        UsageError: An id is malformed (says in which line), or the file cannot be read.
    """
    ids = [parse(name) for name in named or ()]
    if from_file is None:
        return ids or None
    shown = "standard input" if from_file == "-" else from_file
    try:
        if from_file == "-":
            ids += _parse_lines(sys.stdin, shown, parse)
        else:
            with Path(from_file).open(encoding="utf-8") as lines:
                ids += _parse_lines(lines, shown, parse)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(f"{shown} cannot be read: {reason}") from None
    return ids


def _parse_lines(lines: Iterable[str], shown: str, parse: Callable[[str], str]) -> list[str]:
    ids = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            ids.append(parse(text))
        except InvalidNameError as error:
            raise InvalidNameError(f"{shown}, line {number}: {error}") from None
    return ids
