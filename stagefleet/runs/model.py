"""Runs, items and outcomes: values only, what is kept about them is the ledger's.

A run:   submitting -> running -> (cancelling ->) succeeded | failed | cancelled
An item: pending -> claimed -> succeeded | failed | skipped | cancelled
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from stagefleet import errors
from stagefleet.bounds import cut
from stagefleet.redaction import masked_line
from stagefleet.runs.versions import WriterVersion, own_version
from stagefleet.runs.waits import Wait

__all__ = [
    "HOST_SEPARATOR",
    "MAX_ITEMS",
    "Callback",
    "Claim",
    "ErrorInfo",
    "Fate",
    "ItemState",
    "Order",
    "Outcome",
    "Run",
    "RunState",
    "Submission",
    "Visit",
    "WorkerInfo",
    "split_host",
]

MAX_ITEMS = 1_000_000
"""The most items that a run may have."""

_TYPE_BYTES = 200
_MESSAGE_BYTES = 2048

HOST_SEPARATOR = "\x1f"
"""Between an item and the host that it is for, in what is appended to a run."""


def split_host(item: str) -> tuple[str, str | None]:
    """An item as it was appended, as its id and its host."""
    name, separator, host = item.partition(HOST_SEPARATOR)
    return name, host if separator else None


class RunState(StrEnum):
    """Where a run stands."""

    SUBMITTING = "submitting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNREADABLE = "unreadable"
    """Written by a release that this one cannot read; `Run.error` says which."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens in this state."""
        return self in {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}


class ItemState(StrEnum):
    """How an item ended; `planned` is what a dry run says of it."""

    PLANNED = "planned"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class Callback(StrEnum):
    """Who acknowledges the outcomes of a run."""

    NONE = "none"
    """Nobody: the finish itself does."""
    CLIENT = "client"
    """A callable in the process that submitted the run."""
    TASK = "task"
    """A Celery task of the user's: its publication acknowledges."""
    WEBHOOK = "webhook"
    """A URL: its answer, 2xx, acknowledges."""


class ErrorInfo(BaseModel):
    """An error as it crosses the wire."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    type: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> ErrorInfo:
        """Tell of an error, without a secret that it may quote: Redis, reports and Flower show it."""
        name = error.type_name if isinstance(error, errors.RemoteError) else type(error).__name__
        return cls(type=name, message=masked_line(_words_of(error)) or name).bounded()

    def bounded(self) -> ErrorInfo:
        """Cut it to what is kept, and to what can be encoded."""
        return ErrorInfo(type=cut(self.type, _TYPE_BYTES), message=cut(self.message, _MESSAGE_BYTES))

    def as_exception(self) -> errors.RemoteError:
        """The error as one to raise here."""
        return errors.RemoteError(self.message, type_name=self.type)


def _words_of(error: BaseException) -> str:
    """The error's message, also of a class whose own way to say it fails."""
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - the class is anybody's, and so is what it raises
        return f"its message cannot be read ({type(broken).__name__})"


class Outcome(BaseModel):
    """How one item ended.

    Attributes:
        item: The stage id or record id.
        host: The host that the item was for, None where hosts do not matter.
        state: How it ended.
        result: The description or metadata that the item produced.
        error: Why it failed.
        seconds: From the claim of the last attempt to its end.
        bytes: Content sent to the destination.
        attempts: Claims of the item, lost ones included; 0 for one decided without a task.
        position: Where the outcome stands in the run's stream, "" before it is there.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    item: str
    host: str | None = None
    state: ItemState
    result: dict[str, Any] | None = None
    error: ErrorInfo | None = None
    seconds: float = 0.0
    bytes: int = 0
    attempts: int = 0
    position: str = ""

    def as_json(self) -> dict[str, Any]:
        """The outcome as commands print it."""
        return self.model_dump(mode="json", exclude={"position"})


class Order(BaseModel):
    """What a run is to do.

    Attributes:
        operation: The task's name, as `copy_stage`.
        options: What the operation needs besides the item; JSON values, no secrets.
        parallel: Items not yet acknowledged at once.
        callback: Who acknowledges outcomes.
        callback_target: The task, as `NAME[@QUEUE]`, or the URL that is called for each outcome; "" for none.
        finish_url: The URL that gets the run's summary at its end, "" for none.
        key: The idempotency key, None for none.
        fingerprint: Of the caller's arguments, to be compared under a used key.
        parent: The run that this one goes on with.
        max_attempts: Attempts at one item.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    operation: str
    options: Mapping[str, Any] = {}
    parallel: int = 16
    callback: Callback = Callback.NONE
    callback_target: str = Field(default="", repr=False)  # a URL may hold a token
    finish_url: str = Field(default="", repr=False)
    key: str | None = None
    fingerprint: str = ""
    parent: str | None = None
    max_attempts: int = 5

    @property
    def is_called_back(self) -> bool:
        """Whether the fleet itself has to call somebody, and not a process that watches."""
        return self.callback in {Callback.TASK, Callback.WEBHOOK} or bool(self.finish_url)


class Fate(StrEnum):
    """What became of a request to open a run."""

    NEW = "new"
    """A new run (or a half submitted one taken over): append its items, then start it."""
    ATTACHED = "attached"
    """The key's run is under way: watch it."""
    SUCCEEDED = "succeeded"
    """The key's run succeeded already."""
    CONTINUED = "continued"
    """A new run that goes on with the failed or cancelled one under the key: append what that left."""


@dataclass(slots=True)
class Submission:
    """A run that is open for items, and what its submitter believes to be there.

    Attributes:
        run: The run's id.
        fate: What became of the request.
        token: Fences off another submitter of the same run.
        previous: The run whose leftovers a continued run goes on with.
        items: How many items the ledger has taken from this submission; the ledger counts them here.
        decided: The same of outcomes that need no task.
    """

    run: str
    fate: Fate
    token: int = 0
    previous: str | None = None
    items: int = 0
    decided: int = 0

    @property
    def total(self) -> int:
        """Items and decided outcomes."""
        return self.items + self.decided


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the ledger knows it at one moment; counts are items, times are seconds since 1970.

    `claimed` are under way in workers, `published` wait in the broker, `waiting` wait for a retry. The last
    lease of an item ends at `leased_until`, 0 for none; `waits` are those that go on at `now_at`;
    a lease, of an item or of the coordinator, lasts for `lease_seconds`; `version` is of the release that
    opened it.
    """

    id: str
    order: Order
    state: RunState
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    cancelled: int = 0
    claimed: int = 0
    published: int = 0
    waiting: int = 0
    bytes: int = 0
    error: ErrorInfo | None = None
    created_at: float = 0.0
    finished_at: float | None = None
    now_at: float = 0.0
    leased_until: float = 0.0
    waits: tuple[Wait, ...] = ()
    lease_seconds: float = 30.0
    version: WriterVersion = field(default_factory=own_version)

    @property
    def done(self) -> int:
        """Items that need nothing more."""
        return self.succeeded + self.failed + self.skipped + self.cancelled

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (self.finished_at or self.now_at) - self.created_at

    def summary(self) -> dict[str, Any]:
        """The summary that commands print."""
        return {
            "run": self.id or None,
            "state": str(self.state),
            "total": self.total,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "skipped": self.skipped,
            "cancelled": self.cancelled,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to carry out one attempt at an item.

    Attributes:
        run: The run's id.
        index: The item's number in the run, from 0.
        item: The item's id.
        host: The host that it is for, None where hosts do not matter.
        fence: The fencing token: a finish with an older one changes nothing.
        attempt: 1 for the first.
        claimed_at: On this process's monotonic clock, before the claim was asked for.
        lease_until: On the same clock, the end of the lease as claimed.
        nonce: Tells the claim from another with the same fence, which a Redis that forgot gives again.
    """

    run: str
    index: int
    item: str
    fence: int
    attempt: int
    claimed_at: float
    lease_until: float
    host: str | None = None
    nonce: str = ""

    @property
    def token(self) -> str:
        """What the ledger knows the claim by, as a whole: no other one ever has the same."""
        return f"{self.fence} {self.nonce}"

    @property
    def seconds(self) -> float:
        """The time since the claim."""
        return time.monotonic() - self.claimed_at


@dataclass(frozen=True, slots=True)
class Visit:
    """A detached coordinator's right to call back for one run.

    Attributes:
        run: The run's id.
        epoch: Fences off another coordinator.
        failures: Visits in a row that ended without an answer.
        failing_seconds: Since the first of them; 0 where the last one went well.
        lease_seconds: How long it lasts without a renewal.
    """

    run: str
    epoch: int
    failures: int = 0
    failing_seconds: float = 0.0
    lease_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A live worker process.

    Attributes:
        name: Its own alone: `worker-PID@NAME-PLACE-RANDOM`.
        slots: Items that it can hold at once.
        queues: The queues that it listens to.
        version: Of the release that it runs.
    """

    name: str
    slots: int
    queues: tuple[str, ...]
    version: WriterVersion = field(default_factory=own_version)
