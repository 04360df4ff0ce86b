"""Task that starts a run on request, for Flower's API and any Celery client."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from celery import Task
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stagefleet.errors import StagefleetError, UsageError
from stagefleet.fleet.callbacks import RemoteCallback, RunArguments
from stagefleet.fleet.fleet import Fleet
from stagefleet.logs import EventLogger
from stagefleet.project import Project
from stagefleet.records import RecordKind
from stagefleet.redaction import quoted
from stagefleet.redis_retry import OUTAGE_SECONDS, RedisRetry
from stagefleet.runs.messages import task_name
from stagefleet.runs.models import MAX_ITEMS, Run
from stagefleet.settings import RepositoryText, StorageAddressText
from tasks.states import MaskedRequest, shown_arguments

__all__ = ["RequestedFleet", "StartRunTask"]

_log = EventLogger(__name__)

Names = Annotated[list[str], Field(max_length=MAX_ITEMS)]


class RequestedFleet(Fleet):
    """Fleet for runs on request: any worker may execute one, so "this host" means none."""

    def choose_hosts(self, hosts: Sequence[str] | None, *, everywhere: bool = False) -> tuple[str, ...]:
        """Return the named hosts, or all.

        Raises:
            UsageError: None was named.
            HostNotFoundError: A host does not exist.
        """
        if not hosts and not everywhere:
            raise UsageError("hosts: this goes to Docker Engines, and any worker may take it: say whose")
        return super().choose_hosts(hosts, everywhere=everywhere)


class _Request(BaseModel):
    """Arguments of every operation; arguments without a use are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    parallel: int | None = Field(default=None, ge=1)
    idempotency_key: str | None = None
    on_outcome_url: str | None = None
    on_outcome_task: str | None = None
    on_finish_url: str | None = None
    missing_ok: bool = False

    def model_post_init(self, _context: Any, /) -> None:
        """Refuse callbacks that cannot be called."""
        _ = self.callback

    @property
    def callback(self) -> RemoteCallback | None:
        """Return the callback for the fleet."""
        return RemoteCallback.of(self.on_outcome_url, self.on_outcome_task, self.on_finish_url)

    def arguments(self, key: str) -> RunArguments:
        """Return the run's keyword arguments; `key` serves for a request without one."""
        own = self.idempotency_key
        arguments: RunArguments = {
            "parallel": self.parallel,
            "idempotency_key": key if own is None else own,
            "detach": True,
        }
        if self.missing_ok:
            arguments["missing_ok"] = True
        return arguments

    @abstractmethod
    def start(self, fleet: Fleet, key: str) -> Run:
        """Start the run."""


class _Copy(_Request):
    source: StorageAddressText
    destination: StorageAddressText
    stage_ids: Names | None = None
    verify: bool = False
    hosts: list[str] | None = None

    def start(self, fleet: Fleet, key: str) -> Run:
        return fleet.for_each_copy_stage(
            self.source,
            self.destination,
            self.stage_ids,
            self.callback,
            verify=self.verify,
            hosts=self.hosts,
            **self.arguments(key),
        )


class _Delete(_Request):
    repository: StorageAddressText
    stage_ids: Names
    hosts: list[str] | None = None

    def start(self, fleet: Fleet, key: str) -> Run:
        return fleet.for_each_delete_stage(
            self.repository, self.stage_ids, self.callback, hosts=self.hosts, **self.arguments(key)
        )


class _OfProject(_Request):
    """Operations on a project: one from the workers' settings, or explicit storages."""

    project: str | None = None
    primary: StorageAddressText | None = None
    caches: tuple[RepositoryText, ...] = ()

    def where(self, final: RepositoryText | None = None) -> str | Project:
        """Return the project.

        Raises:
            UsageError: None was named, or two.
        """
        if self.project is None:
            if self.primary is None:
                raise UsageError("project: name one of the settings, or its storages, primary and others")
            return Project.alone(self.primary, final, self.caches)
        if self.primary is not None or final is not None or self.caches:
            raise UsageError("project: it says which storages there are, so leave them out")
        return self.project


class _Fetch(_OfProject):
    stage_ids: Names
    platforms: list[str] | None = None
    all_platforms: bool = False
    hosts: list[str] | None = None
    all_hosts: bool = False

    def start(self, fleet: Fleet, key: str) -> Run:
        return fleet.for_each_fetch_stage(
            fleet.resolve_project(self.where()),
            self.stage_ids,
            self.callback,
            platforms=self.platforms,
            all_platforms=self.all_platforms,
            hosts=self.hosts,
            all_hosts=self.all_hosts,
            **self.arguments(key),
        )


class _Describe(_OfProject):
    stage_ids: Names | None = None
    host: str | None = None

    def start(self, fleet: Fleet, key: str) -> Run:
        return fleet.for_each_describe_stage(
            self.where(), self.stage_ids, self.callback, host=self.host, **self.arguments(key)
        )


class _Publish(_OfProject):
    final: RepositoryText | None = None
    stage_ids: Names | None = None
    should_be_built: bool = False
    fill_caches: bool = False
    host: str | None = None

    def start(self, fleet: Fleet, key: str) -> Run:
        return fleet.for_each_publish_stage(
            self.where(self.final),
            self.stage_ids,
            self.callback,
            should_be_built=self.should_be_built,
            fill_caches=self.fill_caches,
            host=self.host,
            **self.arguments(key),
        )


class _RemoveRecords(_Request):
    repository: StorageAddressText
    kind: RecordKind
    ids: Names
    final: RepositoryText | None = None
    host: str | None = None

    def start(self, fleet: Fleet, key: str) -> Run:
        if self.final is not None and self.kind is not RecordKind.CUSTOM_TAG:
            raise UsageError(f"final: a {self.kind} has no use for it; custom tags alone are kept there")
        return fleet.for_each_remove_record(
            self.repository,
            self.kind,
            self.ids,
            self.callback,
            final=self.final,
            host=self.host,
            **self.arguments(key),
        )


_REQUESTS: Mapping[str, type[_Request]] = {
    "copy": _Copy,
    "delete": _Delete,
    "describe": _Describe,
    "fetch": _Fetch,
    "publish": _Publish,
    "remove_records": _RemoveRecords,
}
"""Request models by operation."""


class StartRunTask(Task):  # type: ignore[misc]  # Celery ships no types
    """Start a run. Without an idempotency key the task's id is the key, so that a redelivery is harmless.

    Args:
        open_fleet: Opens a fleet on this worker's Redis; the task closes it.
    """

    name = task_name("start_run")
    ignore_result = True
    acks_late = True
    typing = False  # the arguments are checked in `run`, and refused by name
    Request = MaskedRequest
    shown_arguments = staticmethod(shown_arguments)

    def __init__(self, open_fleet: Callable[[], Fleet]) -> None:
        self._open_fleet = open_fleet

    def run(self, *positional: Any, **arguments: Any) -> None:
        """Start the run of the keyword arguments.

        Raises:
            UsageError: An argument is wrong; the message names it, and Flower shows it.
            StagefleetError: A registry or Redis did not answer; send the same request again. Or an internal
                error.
        """
        key = str(self.request.id)
        try:
            request = _parse(positional, arguments)
            with self._open_fleet() as fleet:
                # With its key a repeated request finds the started run, so that an outage loses none.
                run = RedisRetry(OUTAGE_SECONDS)(partial(request.start, fleet, key))
        except StagefleetError as error:
            _log.error("run_not_started", action="start_run", task=key, error=str(error))
            raise
        except Exception as error:  # noqa: BLE001 - an internal error is logged, and raised as ours
            _log.error("unexpected_error", action="start_run", task=key, exc_info=error)
            # Flower shows the error, and foreign errors may quote their arguments.
            name = type(error).__name__
            raise StagefleetError(f"unexpected {name}: this is a bug; the worker's log says where") from None
        _log.info("run_started", action="start_run", task=key, run=run.id, total=run.total)


def _parse(positional: tuple[Any, ...], arguments: dict[str, Any]) -> _Request:
    if positional:
        raise UsageError("arguments are given by name: leave args empty, use kwargs")
    operation = str(arguments.pop("operation", ""))
    if operation not in _REQUESTS:
        raise UsageError(f"operation: write one of {', '.join(_REQUESTS)}")
    try:
        return _REQUESTS[operation].model_validate(arguments)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = quoted(".".join(str(part) for part in first["loc"]))[1:-1]
        reasons = {
            "missing": f"{operation} needs it",
            "extra_forbidden": f"{operation} has no use for it",
        }
        raise UsageError(f"{name}: {reasons.get(first['type'], first['msg'])}") from None
