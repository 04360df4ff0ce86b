"""Options that commands share, and the parsing of their values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from stagefleet.client import Fleet
from stagefleet.errors import InvalidNameError, UsageError
from stagefleet.names import StageId

__all__ = [
    "NO_REPOSITORY",
    "FinalOption",
    "Force",
    "Hosts",
    "Json",
    "MissingOk",
    "Parallel",
    "ProjectOption",
    "RemoveContainers",
    "RepositoryArgument",
    "SkipUsed",
    "StageIdArguments",
    "may_be_new",
    "of_project",
    "one_host",
    "read_ids",
    "read_stage_ids",
    "stage_arguments",
]

NO_REPOSITORY = "Missing argument 'REPO'; or name a project with --project"
RepositoryArgument = Annotated[
    str | None,
    typer.Argument(metavar="REPO", help="HOST[:PORT]/PATH or docker-daemon:PROJECT", show_default=False),
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
ProjectOption = Annotated[
    str | None,
    typer.Option("--project", metavar="NAME", help="A project of the settings.", show_default=False),
]
FinalOption = Annotated[bool, typer.Option("--final", help="With --project: its final storage.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="NAME",
        help="The host whose Docker Engine is meant; repeatable. Default: this one.",
        show_default=False,
    ),
]
SkipUsed = Annotated[bool, typer.Option("--skip-used", help="Leave alone what a job or a container uses.")]
RemoveContainers = Annotated[
    bool, typer.Option("--remove-containers", help="Remove the containers that use a stage first.")
]
Force = Annotated[bool, typer.Option("--force", help="With --remove-containers: also those that run.")]
MissingOk = Annotated[
    bool, typer.Option("--missing-ok", help="Take a repository that does not exist for empty.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def of_project(project: str | None, option: str) -> str:
    """Return the project that an option requires.

    Raises:
        UsageError: No project is named.
    """
    if project is None:
        raise UsageError(f"{option} is of a project: name one with --project")
    return project


def may_be_new(fleet: Fleet, project: str | None, missing_ok: bool) -> bool:  # noqa: FBT001 - the last of three
    """Return True if a storage may be missing: on request, or since another storage of its project exists."""
    return missing_ok or (project is not None and fleet.has_storage(project))


def stage_arguments(
    repository: str | None, stage_ids: Iterable[str] | None, project: str | None
) -> list[str]:
    """Return the arguments that are stage ids; with `--project` there is no REPO, and the first is one too.

    Raises:
        UsageError: Neither a repository nor a project is named.
    """
    if project is None and repository is None:
        raise UsageError(NO_REPOSITORY)
    first = () if project is None or repository is None else (repository,)
    return [*first, *(stage_ids or ())]


def one_host(hosts: Sequence[str] | None) -> str | None:
    """Return the host of the engine for a command that takes a single one; None for this host.

    Raises:
        UsageError: Several are named.
    """
    if hosts and len(hosts) > 1:
        raise UsageError(
            f"the engine of one host is meant here: name one with --host, not {', '.join(hosts)}"
        )
    return hosts[0] if hosts else None


def read_stage_ids(named: Iterable[str] | None, from_file: str | None) -> list[str] | None:
    """Read the stage ids of a command; see `read_ids`."""
    return read_ids(named, from_file, lambda text: str(StageId.parse(text)))


def read_ids(
    named: Iterable[str] | None, from_file: str | None, parse: Callable[[str], str]
) -> list[str] | None:
    """Read the items of a command; None if it names none. An empty file selects no item, not all.

    Blank lines and lines that begin with `#` are ignored.

    Args:
        named: The items of the command line.
        from_file: A file, or `-`.
        parse: Checks one id, and returns its canonical form.

    Raises:
        UsageError: An id is malformed (the message has the line), or the file cannot be read.
    """
    ids = [parse(name) for name in named or ()]
    if from_file is None:
        return ids or None
    shown = "standard input" if from_file == "-" else from_file
    try:
        if from_file == "-":
            ids += _parse_lines(_without_mark(sys.stdin), shown, parse)
        else:
            with Path(from_file).open(encoding="utf-8-sig") as lines:
                ids += _parse_lines(lines, shown, parse)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(f"{shown} cannot be read: {reason}") from None
    return ids


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    """Remove the byte order mark that some editors write before the first line."""
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix("\ufeff")


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
