"""Values of runs, items, outcomes and waits; the ledger stores them.

A run:   submitting -> running <-> paused; from each of them (cancelling ->) succeeded | failed | cancelled
An item: pending -> claimed -> succeeded | failed | skipped | cancelled
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from stagefleet import errors
from stagefleet.bounds import clean, cut
from stagefleet.names import split_host
from stagefleet.redaction import masked_line
from stagefleet.runs.versions import WriterVersion, own_version

_TYPE_BYTES = 200
_MESSAGE_BYTES = 2048
_REASON_CHARACTERS = 200

NOT_THERE_RESULT: Mapping[str, str] = {"reason": "was not there"}
"""Result of an item, skipped, of which there was nothing to delete."""


class RunState(StrEnum):
    """State of a run."""

    SUBMITTING = "submitting"
    RUNNING = "running"
    PAUSED = "paused"
    """Running, but no item starts until it is resumed; those under way finish."""
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNREADABLE = "unreadable"
    """Written by an incompatible release; `Run.error` names it."""

    @property
    def is_final(self) -> bool:
        """True if the state never changes any more."""
        return self in {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}


class ItemState(StrEnum):
    """Final state of an item; a dry run reports `planned`."""

    PLANNED = "planned"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class Callback(StrEnum):
    """Kind of receiver that acknowledges the outcomes of a run."""

    NONE = "none"
    """None: finishing an item acknowledges it."""
    CLIENT = "client"
    """A callable in the process that submitted the run."""
    TASK = "task"
    """A user's Celery task: its publication acknowledges."""
    WEBHOOK = "webhook"
    """A URL: a 2xx response acknowledges."""


class _Stored(BaseModel):
    """A value that the ledger stores, and that other releases may read."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True)


class ErrorInfo(_Stored):
    """Serialized form of an error."""

    type: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> ErrorInfo:
        """Build an `ErrorInfo` from an exception, with secrets masked: Redis, reports and Flower show it."""
        name = error.type_name if isinstance(error, errors.RemoteError) else type(error).__name__
        return cls(type=name, message=masked_line(_words_of(error)) or name).bounded()

    def bounded(self) -> ErrorInfo:
        """Shorten it to the stored size, and replace characters that cannot be encoded."""
        return ErrorInfo(type=cut(self.type, _TYPE_BYTES), message=cut(self.message, _MESSAGE_BYTES))

    def as_exception(self) -> errors.RemoteError:
        """Return the error as an exception to raise here."""
        return errors.RemoteError(self.message, type_name=self.type)


def _words_of(error: BaseException) -> str:
    """Return the error's message, even if its class fails to format it."""
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a user's class may raise anything
        return f"its message cannot be read ({type(broken).__name__})"


class Outcome(_Stored):
    """Final result of one item.

    Attributes:
        seconds: Time from the claim of the last attempt to its end.
        bytes: Content sent to the destination.
        attempts: Claims of the item, lost ones included; 0 for an item decided without a task.
        position: Its position in the run's stream, "" before it is stored.
    """

    item: str
    host: str | None = None
    state: ItemState
    result: dict[str, Any] | None = None
    error: ErrorInfo | None = None
    seconds: float = 0.0
    bytes: int = 0
    attempts: int = 0
    position: str = ""

    @classmethod
    def without_task(cls, item: str, state: ItemState) -> Outcome:
        """Build the outcome of an item of a plan that no task executes."""
        name, host = split_host(item)
        return cls(item=name, host=host, state=state)

    def as_json(self) -> dict[str, Any]:
        """Return the outcome in the form that commands print."""
        return self.model_dump(mode="json", exclude={"position"})

    @property
    def was_not_there(self) -> bool:
        """True if there was nothing to delete."""
        return self.result == NOT_THERE_RESULT

    @property
    def recorded_at(self) -> float | None:
        """Time of its end, in seconds since 1970, from its position in Redis; None before it is stored."""
        milliseconds, is_of_stream, _ = self.position.partition("-")
        return int(milliseconds) / 1000 if is_of_stream else None


# Waits of a run, as its observers see them: host, reason and end.


class WaitKind(StrEnum):
    """Kind of a wait."""

    RETRY = "retry"
    """Failed items wait for their next attempt."""
    PAUSE = "pause"
    """A worker with an item waits, as a registry asked it to, or for a lock."""
    CALLBACK = "callback"
    """Outcomes wait for a receiver that did not accept one."""


class WaitReason(_Stored):
    """Reason of a wait: the host, `host[:port]` or "", and the event, as `429 Too Many Requests`."""

    host: str = ""
    text: str = ""

    @classmethod
    def of(cls, error: errors.StagefleetError) -> Self:
        """Build the reason from an error."""
        host, text = error.cause
        return cls(host=host, text=text).bounded()

    def bounded(self) -> Self:
        """Shorten it to the size that the ledger stores."""
        return self.model_copy(
            update={"host": self.host[:_REASON_CHARACTERS], "text": clean(self.text[:_REASON_CHARACTERS])}
        )

    def __str__(self) -> str:
        """Format it to follow the word "wait": `for HOST (TEXT)`."""
        if not self.text:
            return f"for {self.host}" if self.host else "for another attempt"
        return f"for {self.host} ({self.text})" if self.host else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait in a run at one moment, from the ledger.

    Attributes:
        reason: The latest reason; other items may wait for other reasons.
        until: The earliest end, in seconds since 1970 on the ledger's clock.
        count: Number of waiting items or outcomes; 1 for a pause.
    """

    kind: WaitKind
    reason: WaitReason
    until: float
    count: int = 1


# Runs.


class NextRun(_Stored):
    """A run that is written, and starts when another one has ended: the next group of a purge.

    The token and the counts are those of its submission. With `if_succeeded` it is cancelled unless the other
    one has succeeded.
    """

    run_id: str
    token: int
    items: int
    decided: int = 0
    if_succeeded: bool = Field(default=False, exclude_if=lambda asked: not asked)

    @property
    def submission(self) -> Submission:
        """Its submission, which lacks the start alone."""
        return Submission(self.run_id, SubmissionKind.NEW, self.token, None, self.items, self.decided)


class RunSpec(_Stored):
    """Specification of a run.

    Attributes:
        options: Options of the operation; JSON values, no secrets.
        parallel: Most unacknowledged items at once.
        callback_target: The task, as `NAME[@QUEUE]`, or the URL that is called for each outcome.
        finish_url: The URL that gets the run's summary at its end.
        fingerprint: Fingerprint of the caller's arguments, compared when a key is used again.
        parent: The run that this one continues.
        group: The group of the purge that it deletes.
        next: The run that the fleet starts when this one has ended, unless it was cancelled.
        follows: True if it is the next one of another run, which is written after it.
        starts_early: True if its items start before its list of them is complete; the ledger notes it beside
            the spec, as releases from before it refuse a spec with what they do not know.
        refusal: Why the run that was to follow it was not written; "" if none was refused.
        trace: The context of the span that opened it, as W3C headers; {} without a trace.
    """

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
    # Releases from before schema versions refuse what they do not know.
    group: str = Field(default="", exclude_if=lambda name: not name)
    next: NextRun | None = Field(default=None, exclude_if=lambda following: following is None)
    follows: bool = Field(default=False, exclude_if=lambda follows: not follows)
    starts_early: bool = Field(default=False, exclude=True)
    refusal: str = Field(default="", exclude_if=lambda reason: not reason)
    trace: Mapping[str, str] = Field(default={}, exclude_if=lambda context: not context)

    @property
    def is_called_back(self) -> bool:
        """True if the fleet itself makes the callbacks or starts the next run, not a process that watches."""
        is_remote = self.callback in {Callback.TASK, Callback.WEBHOOK} or bool(self.finish_url)
        return is_remote or self.next is not None


class SubmissionKind(StrEnum):
    """Result of a request to open a run."""

    NEW = "new"
    """A new run (or a half-submitted one taken over): append its items, then start it."""
    ATTACHED = "attached"
    """The key's run is under way: watch it."""
    SUCCEEDED = "succeeded"
    """The key's run has succeeded already."""
    CONTINUED = "continued"
    """A new run that continues the failed or cancelled one under the key: append its leftovers."""


@dataclass(slots=True)
class Submission:
    """A run that is open for items, with the counts that its submitter expects.

    Attributes:
        token: Fences off another submitter of the same run.
        previous: The run whose leftovers a continued run processes.
        items: Number of items that the ledger has accepted from this submission; updated by the ledger.
        decided: The same for outcomes decided without a task.
        lease_seconds: How long it lasts, from its opening and from each append on.
    """

    run_id: str
    kind: SubmissionKind
    token: int = 0
    previous: str | None = None
    items: int = 0
    decided: int = 0
    lease_seconds: float = 30.0

    @property
    def total(self) -> int:
        """Number of items and decided outcomes."""
        return self.items + self.decided


@dataclass(frozen=True, slots=True)
class Run:
    """State of a run at one moment, from the ledger; counts are items, times are seconds since 1970.

    `claimed` items are under way in workers, `published` ones wait in the broker, `waiting` ones wait for a
    retry. The last lease of an item ends at `leased_until`, 0 for none; `waits` are those that last at
    `now_at`; a lease, of an item or of the coordinator, lasts for `lease_seconds`; `version` is of the
    release that opened it.
    """

    id: str
    spec: RunSpec
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
        """Number of items with a final state."""
        return self.succeeded + self.failed + self.skipped + self.cancelled

    @property
    def seconds(self) -> float:
        """Duration of the run, so far or in all."""
        return (self.finished_at or self.now_at) - self.created_at

    def summary(self) -> dict[str, Any]:
        """Return the summary that commands print."""
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
class ItemTransfer:
    """Bytes of large content that an attempt has moved, of the expected ones; a retry counts again."""

    run_id: str
    index: int
    moved: int
    expected: int


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A live worker process; its unique name is `worker-PID@NAME-PLACE-RANDOM`."""

    name: str
    slots: int
    queues: tuple[str, ...]
    version: WriterVersion = field(default_factory=own_version)
    transfers: tuple[ItemTransfer, ...] = ()
