"""The options of every command that starts a run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.session import open_fleet
from stagefleet.client import Fleet
from stagefleet.client.arguments import RunArguments
from stagefleet.client.callbacks import RemoteCallback
from stagefleet.errors import UsageError

__all__ = ["RunOptions", "takes_run_options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of any run; each field is an option of the command line.

    Raises:
        UsageError: They contradict each other, or one is malformed.
    """

    parallel: opt.Parallel = None
    from_file: Annotated[
        str | None,
        typer.Option("--from-file", metavar="FILE|-", help="Read ids, one a line; - is standard input."),
    ] = None
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's id and leave.")] = False
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="K", help="Do the same work under the same key only once."),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")] = False
    missing_ok: opt.MissingOk = False
    json: opt.Json = False
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start a private Valkey and a worker for this command alone.")
    ] = False
    on_outcome_url: Annotated[
        str | None,
        typer.Option(
            "--on-outcome-url",
            metavar="URL",
            help="The fleet calls it for each outcome; signed where webhooks.secret is set.",
        ),
    ] = None
    on_outcome_task: Annotated[
        str | None,
        typer.Option(
            "--on-outcome-task",
            metavar="NAME[@QUEUE]",
            help="Instead: a Celery task, published for each outcome.",
        ),
    ] = None
    on_finish_url: Annotated[
        str | None,
        typer.Option("--on-finish-url", metavar="URL", help="The fleet calls it at the run's end."),
    ] = None

    def __post_init__(self) -> None:
        _ = self.callback  # rejects an invalid callback
        if self.parallel is not None and self.parallel < 1:
            raise UsageError(f"--parallel {self.parallel}: write 1 or more (1 is serial)")
        if self.detach and self.dry_run:
            raise UsageError("--dry-run starts no run to detach from: leave out --detach")

    @property
    def callback(self) -> RemoteCallback | None:
        """The callback by the fleet; None without one."""
        return RemoteCallback.of(self.on_outcome_url, self.on_outcome_task, self.on_finish_url)

    @property
    def arguments(self) -> RunArguments:
        """The keyword arguments of the run. Commands start every run detached, and then may follow it."""
        arguments: RunArguments = {
            "parallel": self.parallel,
            "idempotency_key": self.idempotency_key,
            "detach": True,
        }
        if self.missing_ok:
            arguments["missing_ok"] = True
        return arguments

    def open_fleet(self) -> Fleet:
        """Open the fleet that these options select.

        Raises:
            UsageError: An embedded fleet cannot serve these options.
        """
        needing = {
            "--detach": self.detach,
            "--idempotency-key": self.idempotency_key is not None,
            "a callback of the fleet's": self.callback is not None,
        }
        return open_fleet(
            embedded=self.embedded,
            parallel=self.parallel,
            needs_fleet=next((name for name, is_given in needing.items() if is_given), None),
        )


def takes_run_options(*, but: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of a run to a command; the function receives them as one value, `options`.

    Typer reads a command's options from its signature, so this changes the signature.

    Args:
        but: The names of options to leave out.
    """
    fields = inspect.signature(RunOptions, eval_str=True).parameters.values()
    shared = [field for field in fields if field.name not in but]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run_command(**arguments: Any) -> None:
            options = RunOptions(**{field.name: arguments.pop(field.name) for field in shared})
            command(**arguments, options=options)

        own = inspect.signature(command, eval_str=True)
        kept = [parameter for parameter in own.parameters.values() if parameter.name != "options"]
        signature = own.replace(parameters=[*kept, *shared])
        run_command.__signature__ = signature  # type: ignore[attr-defined]  # `inspect` reads this first
        return run_command

    return decorate
