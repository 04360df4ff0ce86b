"""Requests for runs, as `stagefleet.start_run` and `POST /api/runs` take them: checked before a start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stagefleet.bounds import MAX_ITEMS
from stagefleet.errors import UsageError
from stagefleet.fleet.callbacks import RemoteCallback
from stagefleet.fleet.fleet import Fleet
from stagefleet.operations.base import Operation
from stagefleet.operations.catalog import REQUESTS
from stagefleet.project_addresses import Project
from stagefleet.redaction import quoted
from stagefleet.runs.models import Run
from stagefleet.setting_types import RepositoryText, StorageAddressText, advice_on

_Names = TypeAdapter(Annotated[list[str], Field(max_length=MAX_ITEMS)])
_PLACEMENT = {"host", "all_hosts"}
"""Arguments that become the hosts of an operation, for those that have hosts."""


class _RunOptions(BaseModel):
    """The arguments of every request; the others are of its operation."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    parallel: int | None = Field(default=None, ge=1)
    idempotency_key: str | None = None
    on_outcome_url: str | None = None
    on_outcome_task: str | None = None
    on_finish_url: str | None = None
    missing_ok: bool = False
    host: str | None = None
    all_hosts: bool = False

    @property
    def callback(self) -> RemoteCallback | None:
        """The callback by the fleet; `UsageError` names the argument that is wrong."""
        for name in ("on_outcome_url", "on_outcome_task", "on_finish_url"):
            if value := getattr(self, name):
                with _naming_argument("", name):
                    RemoteCallback(**{name.removeprefix("on_"): value})
        return RemoteCallback.of(self.on_outcome_url, self.on_outcome_task, self.on_finish_url)


class _Storages(BaseModel):
    """The storages of a project that is not in the settings."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    primary: StorageAddressText
    final: RepositoryText | None = None
    caches: tuple[RepositoryText, ...] = ()


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A request for a run.

    Attributes:
        name: The name of the operation in requests.
        project: The name of a project in the settings, or its storages; None if the operation needs none.
        options: The other arguments of the operation.
    """

    name: str
    run: _RunOptions
    items: list[str] | None
    project: str | Project | None
    options: dict[str, Any]

    @classmethod
    def parse(cls, positional: tuple[Any, ...], arguments: dict[str, Any], *, items_as: str = "") -> Self:
        """Check the arguments; refuse those that are wrong or without a use by name.

        The items are named in errors as the request has them: `items_as`, else as their argument.
        """
        if positional:
            raise UsageError("arguments are given by name: leave args empty, use kwargs")
        name = str(arguments.pop("operation", ""))
        if name not in REQUESTS:
            raise UsageError(f"operation: write one of {', '.join(REQUESTS)}")
        request = REQUESTS[name]
        with _naming_argument(name):
            run = _RunOptions.model_validate(arguments)
        known = {*_RunOptions.model_fields, request.items} - _PLACEMENT | {*request.arguments}
        if unknown := [argument for argument in arguments if argument not in known]:
            raise UsageError(f"{quoted(unknown[0])[1:-1]}: {name} has no use for it")
        _ = run.callback  # refused if it cannot be called
        named = arguments.get(request.items)
        items_as = items_as or request.items
        if named is None and request.needs_items:
            raise UsageError(f"{items_as}: {name} needs it")
        with _naming_argument(name, items_as):
            items = None if named is None else _Names.validate_python(named)
        options = {name: arguments[name] for name in request.arguments if name in arguments}
        project = _pop_project(options) if "primary" in request.arguments else None
        parsed = cls(name, run, items, project, options)
        if not isinstance(project, str):
            parsed.build(project)  # what is wrong is refused before anything is opened
        return parsed

    def build(self, storages: Project | None) -> Operation:
        """Build the operation, for the storages of a project if it needs them; refuse wrong arguments."""
        options = {name: value for name, value in self.options.items() if name not in _PLACEMENT}
        if self.run.host is not None:
            options["hosts"] = [self.run.host]
        with _naming_argument(self.name):
            operation = REQUESTS[self.name].load()(**(storages.as_fields() if storages else {}), **options)
        if operation.is_on_host and not (operation.hosts or self.run.all_hosts):
            raise UsageError("hosts: this is work on a host, and any worker may take it: name the hosts")
        return operation

    def start(self, fleet: Fleet, key: str, message: str, *, enqueue: bool = False) -> Run:
        """Start the run; `key` serves for a request without one, and `message` asks for it again.

        With `enqueue` a worker plans it, see `StartArguments`.
        """
        project = None if self.project is None else fleet.project(self.project)
        operation = self.build(None if project is None else project.storages)
        if self.run.all_hosts:
            operation = operation.on_hosts(fleet.hosts.choose(operation.hosts, everywhere=True))
        own_key = self.run.idempotency_key
        return (project or fleet).start(
            operation,
            self.items,
            self.run.callback,
            parallel=self.run.parallel,
            idempotency_key=key if own_key is None else own_key,
            missing_ok=self.run.missing_ok,
            request=message,
            enqueue=enqueue,
        )


def _pop_project(options: dict[str, Any]) -> str | Project:
    """Return the project of a request: one of the workers' settings, or explicit storages."""
    name = options.pop("project", None)
    named = {role: value for role in ("primary", "final", "caches") if (value := options.pop(role, None))}
    if name is not None:
        if named:
            raise UsageError("project: it says which storages there are, so leave them out")
        if not isinstance(name, str):
            raise UsageError("project: write a text, in quotes")
        return name
    if "primary" not in named:
        raise UsageError("project: name one of the settings, or its storages, primary and others")
    with _naming_argument("project"):
        storages = _Storages.model_validate(named)
    return Project.alone(storages.primary, storages.final, storages.caches)


@contextmanager
def _naming_argument(operation: str, argument: str = "") -> Iterator[None]:
    """Turn pydantic's error into one line with the argument's name; give an error of ours that name, too."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name, *parts = [argument, *first["loc"]] if argument else first["loc"]
        where = f"{quoted(str(name))[1:-1]}{''.join(f'[{part}]' for part in parts if isinstance(part, int))}"
        reason = f"{operation} needs it" if first["type"].startswith("missing") else advice_on(first)
        raise UsageError(f"{where}: {reason}") from None
    except UsageError as error:
        if not argument:
            raise
        raise UsageError(f"{argument}: {error}") from None
