"""Coordinator of detached runs: a message starts it, and it ends when no callback is due.

Outcomes are reported in the order of completion, each once; after a crash, a lost reply or a coordinator
wrongly taken for dead, at least once, with an id to recognise the repeat by. While a receiver is away its
outcomes stay unacknowledged, and so the run's window stays full: the run does not get ahead of its receiver.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stagefleet import errors
from stagefleet.backoff import Backoff
from stagefleet.leases import Lease, RenewedLease, renewed
from stagefleet.runs.coordinator import start_next
from stagefleet.runs.ledger import CoordinatorClaim, Ledger
from stagefleet.runs.models import Callback, ErrorInfo, ItemState, Outcome, Run, RunState, WaitReason
from stagefleet.runs.webhook import WebhookCall, call_id
from stagefleet.setting_types import WebhookSettings

_LOGGER = logging.getLogger("stagefleet")
_OUTCOMES_A_READ = 64
_SLICE_SECONDS = 10.0
"""Longest time that one coordination occupies a thread; then a new message goes to the end of the queue."""
_JOIN_SECONDS = 1.0
"""Longest wait for a renewal under way; a late one does not renew another coordination's lease."""

CallWebhook = Callable[[WebhookCall, Lease], None]
"""Calls a URL, as `WebhookCaller.call` does."""

PublishTask = Callable[[str, str, dict[str, Any]], None]
"""Publishes a user's task: `NAME[@QUEUE]`, the task's id, its keyword arguments."""


class CoordinatorLease(RenewedLease):
    """`Lease` of a coordinator's claim.

    While a call lasts, no other coordinator calls; once the lease may have ended, this one makes no more
    calls.
    """

    def __init__(self, claim: CoordinatorClaim, asked_at: float, *, clock: Callable[[], float]) -> None:
        super().__init__(claim.lease_seconds, asked_at, clock=clock)
        self._run_id = claim.run_id

    def check(self) -> None:
        """Return at once, or raise LeaseLostError if another coordinator has taken over, or may have."""
        if not self.outlasts(0):
            raise errors.LeaseLostError(
                f"another coordinator may be calling back for run {self._run_id} by now"
            )

    def require(self, seconds: float) -> None:
        """Check the lease; as it is renewed all the time, it outlasts any call."""
        del seconds
        self.check()


@dataclass(slots=True)
class _Coordination:
    """Callbacks of one coordination, of which the first may have gone well."""

    claim: CoordinatorClaim
    lease: CoordinatorLease
    went_well: bool = False


class DetachedCoordinator:
    """Make the callbacks of detached runs; thread-safe.

    Args:
        settings: Pauses, and how long a receiver may be away.
        stopping: Returns True once this process has to end: then a coordination ends after its next call.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        call_webhook: CallWebhook,
        publish_task: PublishTask,
        settings: WebhookSettings,
        *,
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._callbacks = ledger.callbacks
        self._call_webhook = call_webhook
        self._publish_task = publish_task
        self._settings = settings
        self._stopping = stopping
        self._clock = clock

    def coordinate(self, run_id: str) -> None:
        """Make the due callbacks of a run; do nothing if another coordinator is at work.

        Each error counts as a failure and leads to a pause, and in the end to giving up, so that no error
        restarts the coordinator for ever; but for an unreachable ledger, whose sweep starts the next
        coordinator.
        """
        asked_at = self._clock()
        claim = self._callbacks.claim(run_id)
        if claim is None:
            return
        lease = CoordinatorLease(claim, asked_at, clock=self._clock)
        with renewed("coordination", lease, lambda: self._callbacks.renew(claim), wait_seconds=_JOIN_SECONDS):
            self._call(_Coordination(claim, lease))

    def _call(self, calls: _Coordination) -> None:
        """Make the calls of one coordination, and end it."""
        claim = calls.claim
        try:
            self._tell_outcomes(calls)
            found = self._ledger.run(claim.run_id)
            if found.state.is_final:
                calls.lease.check()
                start_next(self._ledger, found)
                self._tell_end(found, calls.lease)
                self._callbacks.finish(claim)
            else:
                self._callbacks.release(claim)
        except errors.RedisUnreachableError:
            raise
        except errors.LeaseLostError as error:
            _LOGGER.warning("run %s: %s", claim.run_id, error)
        except errors.LedgerRewoundError as error:
            # The next coordinator continues from Redis; if Redis lost this coordination, the sweep starts it.
            _LOGGER.warning("run %s: %s", claim.run_id, error)
            self._callbacks.release(claim)
        except errors.CallbackDeclinedError as error:
            self._give_up(claim, error)
        except errors.CallbackError as error:
            self._put_off(calls, error)
        except Exception as error:
            _LOGGER.exception("run %s: unexpected error of a callback", claim.run_id)
            problem = ErrorInfo.of(error)
            self._put_off(calls, errors.CallbackError(f"unexpected {problem.type}: {problem.message}"))

    def _tell_outcomes(self, calls: _Coordination) -> None:
        """Make callbacks for unacknowledged outcomes until there are none, or the coordination is over."""
        claim = calls.claim
        position = self._ledger.acknowledged(claim.run_id)
        until = self._clock() + _SLICE_SECONDS
        while not (run := self._ledger.run(claim.run_id)).state.is_final:
            read_at = self._clock()
            outcomes = self._ledger.outcomes(run.id, position, limit=_OUTCOMES_A_READ, block_seconds=0)
            if not outcomes:
                return
            for outcome in outcomes:
                asked_at = self._clock()
                if self._stopping() or asked_at >= until:
                    return
                calls.lease.check()
                self._tell(run, outcome, at=run.now_at + asked_at - read_at, lease=calls.lease)
                asked_at = self._clock()
                if not self._ledger.acknowledge(run.id, claim.epoch, [outcome], before=position):
                    return  # the run has ended, or another coordinator took over
                calls.lease.note_renewal(asked_at)
                calls.went_well = True
                position = outcome.position

    def _tell(self, run: Run, outcome: Outcome, *, at: float, lease: Lease) -> None:
        """Make the callback for one outcome, unless it needs none or the run has an error already."""
        if outcome.state is ItemState.CANCELLED or run.error is not None:
            return
        spec = run.spec
        data = {"run": run.id, "outcome": outcome.as_json()}
        if spec.callback is Callback.WEBHOOK:
            data["operation"] = spec.operation
            call = WebhookCall(spec.callback_target, call_id(run.id, outcome), "stagefleet.outcome", data, at)
            self._call_webhook(call, lease)
        elif spec.callback is Callback.TASK:
            self._publish_task(spec.callback_target, call_id(run.id, outcome), data)

    def _tell_end(self, run: Run, lease: Lease) -> None:
        if url := run.spec.finish_url:
            error = None if run.error is None else run.error.model_dump(mode="json")
            data = {"run": run.id, "operation": run.spec.operation, "summary": run.summary(), "error": error}
            call = WebhookCall(url, call_id(run.id, None), "stagefleet.run", data, run.now_at)
            self._call_webhook(call, lease)

    def _put_off(self, calls: _Coordination, error: errors.CallbackError) -> None:
        """Schedule the next coordinator, or give up; a successful call resets the count of failures.

        A run that was cancelled is given up at once: it must not wait for a receiver that fails.
        """
        claim = CoordinatorClaim(calls.claim.run_id, calls.claim.epoch) if calls.went_well else calls.claim
        if claim.failing_seconds >= self._settings.give_up_seconds:
            lost = errors.CallbackLostError(
                f"{error}, and has not answered well for {claim.failing_seconds:.0f} s "
                "(webhooks.give_up_seconds)"
            )
            self._give_up(claim, lost)
            return
        if self._ledger.run(claim.run_id).state is RunState.CANCELLING:
            self._give_up(claim, errors.CallbackLostError(f"{error}, after the run was cancelled"))
            return
        pause_seconds = self._pause_seconds(claim, error)
        _LOGGER.warning("run %s: %s; next attempt in %.1f s", claim.run_id, error, pause_seconds)
        self._callbacks.pause(claim, pause_seconds, WaitReason.of(error))

    def _pause_seconds(self, claim: CoordinatorClaim, error: errors.CallbackError) -> float:
        """Return the pause: the back-off, or the receiver's own request within the time limit."""
        settings = self._settings
        backoff = Backoff(settings.backoff_seconds, settings.backoff_limit_seconds)
        pause = backoff.pause_seconds(claim.failures + 1)
        left = settings.give_up_seconds - claim.failing_seconds
        return max(pause, min(error.retry_after_seconds or 0.0, left))

    def _give_up(self, claim: CoordinatorClaim, error: errors.StagefleetError) -> None:
        """Cancel the run; if it has ended already, end the callbacks."""
        if self._ledger.cancel(claim.run_id, error=ErrorInfo.of(error)):
            _LOGGER.warning("run %s is cancelled: %s", claim.run_id, error)
            self._callbacks.release(claim)
        else:
            _LOGGER.error("run %s has ended, and its end could not be told: %s", claim.run_id, error)
            self._callbacks.finish(claim)
