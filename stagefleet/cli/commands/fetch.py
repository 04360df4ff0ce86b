"""`stagefleet fetch`: fetch stages to hosts, and hold them there for a job."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

import stagefleet
from stagefleet.cli import options as opt
from stagefleet.cli.output import flush_output, say
from stagefleet.cli.session import RunOptions, run_operation, takes_run_options
from stagefleet.errors import InvalidNameError, UsageError
from stagefleet.images import PlatformSelection
from stagefleet.names import Repository, parse_address

if TYPE_CHECKING:
    from stagefleet.fleet.hosts import PinnedStages

_CHECK_SECONDS = 1.0
_PIECE_BYTES = 65_536

Platforms = Annotated[
    list[str] | None,
    typer.Option(
        "--platform",
        metavar="OS/ARCH",
        help="Bring the image for this platform; repeatable. Default: the engine's own.",
    ),
]


@takes_run_options()
def fetch_stages(
    repository: Annotated[
        str | None, typer.Argument(metavar="REPO", help="The primary storage, HOST[:PORT]/PATH.")
    ] = None,
    stage_ids: opt.StageIdArguments = None,
    *,
    project: opt.ProjectOption = None,
    cache: Annotated[
        list[str] | None, typer.Option(metavar="REPO", help="A cache beside REPO; repeatable.")
    ] = None,
    platforms: Platforms = None,
    all_platforms: Annotated[
        bool, typer.Option("--all-platforms", help="All platforms that the engine can keep.")
    ] = False,
    hosts: opt.Hosts = None,
    all_hosts: Annotated[
        bool, typer.Option("--all-hosts", help="To every host that has a worker and a Docker Engine.")
    ] = False,
    hold: Annotated[
        bool, typer.Option("--hold", help="Keep the images from being removed until standard input closes.")
    ] = False,
    options: RunOptions,
) -> None:
    """Fetch stages to the Docker Engine of this host, of others, or of all: from a cache where one has them.

    With --project: from the storages of that project of the settings.
    """
    if project is not None and cache:
        raise UsageError("--project says which caches there are: leave out --cache")
    named = opt.read_stage_ids(opt.stage_arguments(repository, stage_ids, project), options.from_file)
    if not named:
        raise UsageError("no stage is named: name stages, or use --from-file")
    wanted = _wanted(platforms, everything=all_platforms)
    if hold and (options.detach or options.dry_run):
        raise UsageError("--hold waits for a job's end: leave out --detach and --dry-run")
    if hold and options.from_file == "-":
        raise UsageError("--hold waits for the end of standard input, where --from-file - reads stage ids")
    with options.open_fleet() as fleet:
        operation = stagefleet.FetchOperation.of(_project(fleet, repository, project, cache), wanted)
        # Chosen once: hosts that join later are not included.
        operation = operation.on_hosts(fleet.hosts.choose(hosts, everywhere=all_hosts))
        if hold:
            _pin(fleet, operation, named, options)
        else:
            run_operation(fleet, operation, named, options)


def _pin(
    fleet: stagefleet.Fleet, operation: stagefleet.FetchOperation, named: list[str], options: RunOptions
) -> None:
    """Fetch, print the report, and protect the images until standard input closes."""
    with fleet.hosts.pinned_stages(operation.storages, named, hosts=operation.hosts) as pinned:
        try:
            run_operation(fleet, operation, named, options)
        except typer.Exit as ended:
            if ended.exit_code:
                raise
        flush_output()
        say(f"holding {len(pinned.locks)} images until standard input closes")
        _await_end_of_input(pinned)


def _project(
    fleet: stagefleet.Fleet, repository: str | None, project: str | None, cache: list[str] | None
) -> stagefleet.Project:
    if project is not None:
        return fleet.project(project).storages
    return stagefleet.Project.alone(
        parse_address(repository or ""), caches=tuple(map(Repository.parse, cache or ()))
    )


def _wanted(platforms: list[str] | None, *, everything: bool) -> PlatformSelection:
    """Parse the chosen platforms, before anything starts."""
    if platforms and everything:
        raise UsageError("--all-platforms brings all of them: leave out --platform")
    try:
        return PlatformSelection.parse(platforms, everything=everything)
    except InvalidNameError as error:
        raise InvalidNameError(f"--platform: {error}") from None


def _await_end_of_input(pinned: PinnedStages) -> None:
    """Wait until standard input ends or SIGTERM comes; ignore the input."""
    with _terminated() as asked_to_end:
        while not asked_to_end:
            pinned.check()
            ready, _, _ = select.select([sys.stdin], [], [], _CHECK_SECONDS)
            if ready and not os.read(sys.stdin.fileno(), _PIECE_BYTES):
                return


@contextmanager
def _terminated() -> Iterator[list[int]]:
    """Yield a list that stays empty until SIGTERM comes."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGTERM, before)
