"""The coordinator of runs that nobody watches: it comes when it is called, and goes when nothing is left.

Outcomes are told in the order of completion, each once; across a crash, a lost answer or a coordinator that
was taken for dead, at least once, with an id to recognise the repeat by. A receiver that stays away leaves
its outcomes unacknowledged, and so the run's window full: nothing runs ahead of it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from stagefleet.errors import (
    CallbackError,
    CallbackGoneError,
    CallbackLostError,
    LeaseLostError,
    LedgerRewoundError,
    RedisUnreachableError,
    StagefleetError,
)
from stagefleet.registry.leash import Leash
from stagefleet.runs.ledger import Observer, Switchboard
from stagefleet.runs.model import Callback, ErrorInfo, ItemState, Outcome, Run, Visit
from stagefleet.runs.visit_lease import VisitLease
from stagefleet.runs.waits import WaitReason
from stagefleet.runs.webhook import call_id
from stagefleet.settings import WebhookSettings

__all__ = ["DetachedCoordinator", "PublishTask"]

_LOGGER = logging.getLogger("stagefleet")
_OUTCOMES_A_READ = 64
_SLICE_SECONDS = 10.0
"""How long one visit keeps its thread; the next message to this run's coordinator goes to the queue's end."""

PublishTask = Callable[[str, str, dict[str, Any]], None]
"""Publishes a user's task: its `NAME[@QUEUE]`, the task's id, its keyword arguments."""


class _Ledger(Observer, Switchboard, Protocol):
    pass


class _Webhooks(Protocol):
    def call(
        self, url: str, webhook_id: str, kind: str, data: dict[str, Any], *, at: float, leash: Leash
    ) -> None: ...


@dataclass(slots=True)
class _Calls:
    """The calls of one visit.

    Attributes:
        visit: The right to make them.
        lease: How long it lasts.
        went_well: Whether one of them was taken.
    """

    visit: Visit
    lease: VisitLease
    went_well: bool = False


class DetachedCoordinator:
    """Calls back for runs; safe to use from several threads.

    Args:
        ledger: Where the runs are.
        webhooks: Calls URLs.
        publish_task: Publishes the tasks of users.
        settings: Pauses, and how long a receiver may stay away.
        stopping: Whether this process is to end: then a visit ends after its next call.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        ledger: _Ledger,
        webhooks: _Webhooks,
        publish_task: PublishTask,
        settings: WebhookSettings,
        *,
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._webhooks = webhooks
        self._publish_task = publish_task
        self._settings = settings
        self._stopping = stopping
        self._clock = clock

    def coordinate(self, run: str) -> None:
        """Tell what there is to tell of a run, and go; nothing to do where another coordinator is there.

        Whatever goes wrong counts as a failure, is followed by a pause, and is given up in the end: no error
        calls the next coordinator for ever.

        Raises:
            RedisUnreachableError: The ledger is out of reach; its sweep calls the next coordinator.
        """
        asked_at = self._clock()
        visit = self._ledger.attend(run)
        if visit is None:
            return
        with VisitLease(self._ledger, visit, asked_at, clock=self._clock) as lease:
            self._call(_Calls(visit, lease))

    def _call(self, calls: _Calls) -> None:
        """Make the calls of one visit, and end it."""
        visit = calls.visit
        try:
            self._tell_outcomes(calls)
            found = self._ledger.run(visit.run)
            if found.state.is_final:
                calls.lease.check()
                self._tell_end(found, calls.lease)
                self._ledger.conclude(visit)
            else:
                self._ledger.leave(visit)
        except RedisUnreachableError:
            raise
        except LeaseLostError as error:
            _LOGGER.warning("run %s: %s", visit.run, error)
        except LedgerRewoundError as error:
            # The next coordinator goes on from what Redis has; where this visit is forgotten, by the sweep.
            _LOGGER.warning("run %s: %s", visit.run, error)
            self._ledger.leave(visit)
        except CallbackGoneError as error:
            self._give_up(visit, error)
        except CallbackError as error:
            self._put_off(calls, error)
        except Exception as error:
            _LOGGER.exception("run %s: unexpected error of a callback", visit.run)
            problem = ErrorInfo.of(error)
            self._put_off(calls, CallbackError(f"unexpected {problem.type}: {problem.message}"))

    def _tell_outcomes(self, calls: _Calls) -> None:
        """Call back for what is not acknowledged, until there is nothing more, or this visit is over."""
        visit, position = calls.visit, self._ledger.acknowledged(calls.visit.run)
        until = self._clock() + _SLICE_SECONDS
        while not (run := self._ledger.run(visit.run)).state.is_final:
            read_at = self._clock()
            outcomes = self._ledger.outcomes(run.id, position, limit=_OUTCOMES_A_READ, block_seconds=0)
            if not outcomes:
                return
            for outcome in outcomes:
                asked_at = self._clock()
                if self._stopping() or asked_at >= until:
                    return
                calls.lease.check()
                self._tell(run, outcome, at=run.now_at + asked_at - read_at, leash=calls.lease)
                asked_at = self._clock()
                if not self._ledger.acknowledge(run.id, visit.epoch, [outcome], before=position):
                    return  # the run has ended, or another coordinator took it over
                calls.lease.note_renewal(asked_at)
                calls.went_well = True
                position = outcome.position

    def _tell(self, run: Run, outcome: Outcome, *, at: float, leash: Leash) -> None:
        """Call back for one outcome, unless it needs none or the run has an error already."""
        if outcome.state is ItemState.CANCELLED or run.error is not None:
            return
        order = run.order
        data = {"run": run.id, "outcome": outcome.as_json()}
        if order.callback is Callback.WEBHOOK:
            data["operation"] = order.operation
            url, webhook_id = order.callback_target, call_id(run.id, outcome)
            self._webhooks.call(url, webhook_id, "stagefleet.outcome", data, at=at, leash=leash)
        elif order.callback is Callback.TASK:
            self._publish_task(order.callback_target, call_id(run.id, outcome), data)

    def _tell_end(self, run: Run, leash: Leash) -> None:
        url, webhook_id = run.order.finish_url, call_id(run.id, None)
        if url:
            self._webhooks.call(url, webhook_id, "stagefleet.run", _end_of(run), at=run.now_at, leash=leash)

    def _put_off(self, calls: _Calls, error: CallbackError) -> None:
        """Let the next coordinator try again later, or give up; a call that went well ends the failures."""
        visit = Visit(calls.visit.run, calls.visit.epoch) if calls.went_well else calls.visit
        if visit.failing_seconds >= self._settings.give_up_seconds:
            lost = CallbackLostError(
                f"{error}, and has not answered well for {visit.failing_seconds:.0f} s "
                "(webhooks.give_up_seconds)"
            )
            self._give_up(visit, lost)
            return
        pause_seconds = self._pause_seconds(visit, error)
        _LOGGER.warning("run %s: %s; next attempt in %.1f s", visit.run, error, pause_seconds)
        self._ledger.pause(visit, pause_seconds, WaitReason.of(error))

    def _pause_seconds(self, visit: Visit, error: CallbackError) -> float:
        """Say how long to wait: the back-off, or what the receiver asks for before it is given up."""
        settings = self._settings
        doubled = settings.backoff_seconds * 2.0 ** min(visit.failures, 30)
        pause = min(settings.backoff_limit_seconds, doubled) * random.uniform(0.5, 1)  # noqa: S311 - jitter
        left = settings.give_up_seconds - visit.failing_seconds
        return max(pause, min(error.retry_after_seconds or 0.0, left))

    def _give_up(self, visit: Visit, error: StagefleetError) -> None:
        """Cancel the run; where it has ended already, nobody is told."""
        if self._ledger.cancel(visit.run, error=ErrorInfo.of(error)):
            _LOGGER.warning("run %s is cancelled: %s", visit.run, error)
            self._ledger.leave(visit)
        else:
            _LOGGER.error("run %s has ended, and its end could not be told: %s", visit.run, error)
            self._ledger.conclude(visit)


def _end_of(run: Run) -> dict[str, Any]:
    error = None if run.error is None else run.error.model_dump(mode="json")
    return {"run": run.id, "operation": run.order.operation, "summary": run.summary(), "error": error}
