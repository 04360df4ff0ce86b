"""Callbacks that the fleet makes, for runs that outlive the process that started them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self, TypedDict
from urllib.parse import urlsplit

from stagefleet.errors import UsageError
from stagefleet.names import StorageAddress
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.messages import check_task
from stagefleet.runs.models import Callback

_MAX_URL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class RemoteCallback:
    """A callback by the fleet; pass it instead of a callable. It needs no process of the client's.

    Args:
        outcome_url: Called for each outcome; 2xx acknowledges it, 410 cancels the run. See docs/callbacks.md.
        outcome_task: Instead of a URL, a Celery task, `NAME` or `NAME@QUEUE`, published for each outcome.
        finish_url: Called with the run's summary at its end.

    Raises:
        UsageError: None of them is given, both a URL and a task are given for outcomes, or one is malformed.
    """

    outcome_url: str | None = field(default=None, repr=False)  # a URL may contain a token
    outcome_task: str | None = None
    finish_url: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not (self.outcome_url or self.outcome_task or self.finish_url):
            raise UsageError("a remote callback has a URL or a task: name one")
        if self.outcome_url and self.outcome_task:
            raise UsageError("outcomes go to a URL or to a task, not to both: leave out one")
        for name, url in (("outcome", self.outcome_url), ("finish", self.finish_url)):
            if url:
                _check_url(name, url)
        if self.outcome_task:
            check_task(self.outcome_task)

    @classmethod
    def of(cls, outcome_url: str | None, outcome_task: str | None, finish_url: str | None) -> Self | None:
        """Build a callback from optional arguments; return None if all are None."""
        if outcome_url is None and outcome_task is None and finish_url is None:
            return None
        return cls(outcome_url, outcome_task, finish_url)


OutcomeCallback = OnOutcome | RemoteCallback | None
"""A callable of this process, a callback by the fleet, or none."""


def callback_fields(on_outcome: OutcomeCallback) -> dict[str, Any]:
    """Return the fields of a run spec for a callback."""
    if not isinstance(on_outcome, RemoteCallback):
        callback = Callback.NONE if on_outcome is None else Callback.CLIENT
        return {"callback": callback, "callback_target": "", "finish_url": ""}
    url, task = on_outcome.outcome_url, on_outcome.outcome_task
    callback = Callback.WEBHOOK if url else Callback.TASK if task else Callback.NONE
    return {
        "callback": callback,
        "callback_target": url or task or "",
        "finish_url": on_outcome.finish_url or "",
    }


def _check_url(name: str, url: str) -> None:
    """Reject an invalid URL; the messages omit the URL, since it may contain a token."""
    from stagefleet.runs.webhook import prepare_url  # noqa: PLC0415 - imports requests, and few runs have a URL

    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        prepare_url(url)
    except ValueError:
        is_complete = False
    if not is_complete or not url.isprintable() or len(url) > _MAX_URL_CHARACTERS:
        raise UsageError(f"the {name} URL is malformed: write https://HOST[:PORT]/PATH")
    if "@" in parts.netloc:
        raise UsageError(f"the {name} URL holds a login, which Redis would show: calls are signed instead")


# Keyword arguments that the methods of a fleet share.


class StartArguments(TypedDict, total=False):
    """Keyword arguments of a run.

    Attributes:
        parallel: Items at once; from the settings if None, below 1 means 1.
        idempotency_key: Calls with the same key start one run, see docs/python.md.
        missing_ok: Treat a missing repository as empty, instead of raising `RepositoryNotFoundError`.
        beside: The other storages of a project: while one of them exists, a missing one is new.
        host: The host of the engine, if an engine takes part; as of the operation if None.
        request: The message that asks for the run, for the task `start_run`: the fleet publishes it again if
            this process dies before the start.
        enqueue: Leave the plan to a worker, which takes the `request` from its queue: this process needs no
            registry. The run is returned while it is being submitted.
    """

    parallel: int | None
    idempotency_key: str | None
    missing_ok: bool
    beside: tuple[StorageAddress, ...]
    host: str | None
    request: str
    enqueue: bool


class RunArguments(StartArguments, total=False):
    """Keyword arguments of `Fleet.for_each`; with `detach` it returns at once, as `Fleet.start` does."""

    detach: bool
