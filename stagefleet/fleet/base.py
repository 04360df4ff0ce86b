"""The base class of a fleet: its services, existing runs, and the start of every new run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import Any, Self, TypeVar

from stagefleet.errors import LedgerRewoundError, RunNotFoundError, UsageError
from stagefleet.fleet.callbacks import RemoteCallback
from stagefleet.fleet.follower import RunFollower
from stagefleet.fleet.hosts import choose_hosts
from stagefleet.fleet.services import EmbeddedServices, RedisServices, Services
from stagefleet.fleet.submission import check_key, submit, tell_old_result
from stagefleet.names import StageId, StorageAddress
from stagefleet.operations.base import Operation, Plan, PlanStorages, fingerprint
from stagefleet.operations.hosts import OnHostOperation
from stagefleet.operations.named_storages import NamedStorages
from stagefleet.redaction import quoted
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.ledger import Ledger
from stagefleet.runs.models import Callback, ItemState, Outcome, Run, RunSpec, RunState, WorkerInfo
from stagefleet.settings import Settings, load_settings
from stagefleet.storages.isolation import left_out

__all__ = ["FleetBase"]

_LOGGER = logging.getLogger("stagefleet")
_NAMED = 3
_Found = TypeVar("_Found")
_OUTCOMES_A_READ = 1000
_MOST_SUBMISSIONS = 5
"""How many times a run is submitted if Redis loses it after its start."""


class FleetBase:
    """Runs of work on stages, and data about them; thread-safe.

    Use `Fleet.connect` with a Redis that workers listen to, or `Fleet.embedded` without one. Close it, or
    use it in a `with` statement.

    Args:
        services: The ledger, registries and locks to use.
        on_notice: Called with messages for the user, one line each; they are logged if None.
    """

    def __init__(self, services: Services, *, on_notice: Callable[[str], None] | None = None) -> None:
        self._services = services
        self._notice = on_notice or _LOGGER.warning
        self._follower = RunFollower(services, self._notice)

    @classmethod
    def connect(
        cls,
        redis_url: str | None = None,
        *,
        settings: Settings | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> Self:
        """Create a fleet that uses a Redis; connects at the first call that needs it.

        Args:
            redis_url: `redis://`, `rediss://` or `unix://`; from the settings if None.
            settings: From the environment and `stagefleet.toml` if None.
            on_notice: See the class.

        Raises:
            UsageError: The URL is missing or malformed, or the settings cannot be read.
        """
        settings = load_settings() if settings is None else settings
        url = redis_url or settings.redis_url
        if url is None:
            raise UsageError("no Redis URL: hand one in, set STAGEFLEET_REDIS_URL, or use Fleet.embedded()")
        return cls(RedisServices(url, settings), on_notice=on_notice)

    @classmethod
    def embedded(
        cls,
        *,
        settings: Settings | None = None,
        on_notice: Callable[[str], None] | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> Self:
        """Create a fleet with a private Valkey and a worker, started when needed and stopped by `close`.

        Args:
            settings: As in `connect`; the Redis URL is not used.
            on_notice: See the class.
            on_start: Called before the two are started.
        """
        settings = load_settings() if settings is None else settings
        return cls(EmbeddedServices(settings, on_start=on_start), on_notice=on_notice)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and stop an embedded fleet."""
        self._services.close()

    @property
    def settings(self) -> Settings:
        """The settings of this fleet."""
        return self._services.settings

    @property
    def keeps_runs(self) -> bool:
        """True if runs continue after the end of this process."""
        return not self._services.starts_worker

    @property
    def _ledger(self) -> Ledger:
        return self._services.ledger

    def _tell_left_out(self, stage_id: StageId, error: Exception) -> None:
        self._notice(left_out(stage_id, error))

    # Existing runs

    def runs(self) -> Iterator[Run]:
        """Iterate over all runs that have not expired, the newest first."""
        return self._ledger.runs()

    def run(self, run_id: str) -> Run:
        """Return the current state of a run.

        Raises:
            RunNotFoundError: The run does not exist, or has expired.
        """
        return self._ledger.run(run_id)

    def complete_run_id(self, text: str) -> str:
        """Return the id of the run whose id begins with a text.

        Raises:
            RunNotFoundError: No run matches.
            UsageError: Several runs match; the message lists some.
        """
        found = self._ledger.runs_beginning(text)
        if text in found or len(found) == 1:
            return text if text in found else found[0]
        if not found:
            raise RunNotFoundError(
                f"there is no run {quoted(text)}, or it has expired: see stagefleet runs list"
            )
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise UsageError(f"run {text!r} may be {', '.join(found[:_NAMED])}{more}: write more of its id")

    def failures(self, run_id: str) -> Iterator[Outcome]:
        """Iterate over the outcomes of a run's failed items so far, in the order of completion.

        Raises:
            RunNotFoundError: The run does not exist, or has expired.
        """
        position = ""
        while outcomes := self._ledger.outcomes(run_id, position, limit=_OUTCOMES_A_READ, block_seconds=0):
            position = outcomes[-1].position
            yield from (outcome for outcome in outcomes if outcome.state is ItemState.FAILED)

    def run_under(self, idempotency_key: str) -> Run:
        """Return the last run that was started with an idempotency key.

        Raises:
            RunNotFoundError: The run does not exist, or has expired.
        """
        run_id = self._ledger.run_under(idempotency_key)
        if run_id is None:
            raise RunNotFoundError(f"no run was started under the key {idempotency_key!r}, or it has expired")
        return self._ledger.run(run_id)

    def workers(self) -> list[WorkerInfo]:
        """List the live worker processes."""
        return self._ledger.workers()

    def watch(
        self,
        run_id: str,
        on_outcome: OnOutcome | None = None,
        *,
        on_notice: Callable[[str], None] | None = None,
    ) -> Run:
        """Follow a run from its first outcome to its end; the run does not wait for the watcher.

        Args:
            run_id: The run's id.
            on_outcome: Called with each outcome; an exception from it ends the watching, not the run.
            on_notice: Called with messages about waits of the run, and if no worker works on it; as for the
                class if None.

        Raises:
            RunNotFoundError: The run does not exist.
        """
        return self._follower.watch(run_id, on_outcome, notice=on_notice)

    def follow(
        self,
        run_id: str,
        on_outcome: OnOutcome | None = None,
        *,
        on_notice: Callable[[str], None] | None = None,
    ) -> Run:
        """Follow a run as `watch` does, and cancel it if no worker works on it.

        Raises:
            NoWorkerError: No worker listened for the time in the settings; the run was cancelled.
        """
        return self._follower.follow(run_id, on_outcome, notice=on_notice)

    def cancel(self, run_id: str, *, now: bool = False) -> bool:
        """Cancel a run: no item starts any more; items in progress finish (with `now`, stop within seconds).

        Returns:
            True if the run was still in progress.

        Raises:
            RunNotFoundError: The run does not exist.
            IncompatibleVersionError: An incompatible release wrote it; the run goes on.
        """
        return self._ledger.cancel(run_id, now=now)

    def retry(
        self,
        run_id: str,
        on_outcome: OnOutcome | None = None,
        *,
        parallel: int | None = None,
        detach: bool = False,
    ) -> Run:
        """Start a new run with the failed and cancelled items of a finished run.

        Returns:
            As `for_each_copy_stage`; the old run if there are no such items.

        Raises:
            UsageError: The run is still in progress.
            RunNotFoundError: The run does not exist.
        """
        old = self._ledger.run(run_id)
        if not old.state.is_final:
            raise UsageError(f"run {run_id} is still {old.state}: watch it, or cancel it first")
        if old.state is RunState.SUCCEEDED:
            return old
        spec = old.spec.model_copy(
            update={
                "parallel": old.spec.parallel if parallel is None else max(1, parallel),
                **(
                    self._callback(on_outcome, detach=detach)
                    if on_outcome or not old.spec.is_called_back
                    else {}
                ),
                "key": None,
                "fingerprint": "",
                "parent": run_id,
            }
        )
        return self._submit_and_follow(
            spec, lambda: Plan(tuple(self._ledger.leftovers(run_id))), on_outcome, detach=detach
        )

    # Start of every run

    def _for_each(
        self,
        operation: Operation,
        on_outcome: OnOutcome | None,
        *,
        parallel: int | None,
        idempotency_key: str | None,
        detach: bool,
        plan_storages: PlanStorages | None = None,
    ) -> Run:
        check_key(idempotency_key)
        spec = RunSpec(
            operation=operation.name,
            options=operation.options,
            parallel=self._parallel(parallel),
            **self._callback(on_outcome, detach=detach),
            key=idempotency_key,
            fingerprint=fingerprint(operation),
            max_attempts=self.settings.runs.max_attempts,
        )
        return self._submit_and_follow(
            spec, lambda: operation.plan(plan_storages or self._plan_storages()), on_outcome, detach=detach
        )

    def _submit_and_follow(
        self, spec: RunSpec, make_plan: Callable[[], Plan], on_outcome: OnOutcome | None, *, detach: bool
    ) -> Run:
        redis_retry = self._follower.redis_retry()
        if isinstance(on_outcome, RemoteCallback):
            on_outcome = None
        submission, submissions = None, 0
        while True:
            submissions += 1
            submission = submit(
                lambda: self._ledger, spec, make_plan, again=submission, redis_retry=redis_retry
            )
            try:
                tell_old_result(self._ledger, submission, self._notice)
                if detach:
                    return self._follower.started(submission.run_id)
                return self._follower.coordinate(submission.run_id, submission.kind, on_outcome)
            except (LedgerRewoundError, RunNotFoundError):
                if submissions == _MOST_SUBMISSIONS or not self._follower.is_forgotten(submission.run_id):
                    raise
                self._notice(f"Redis has forgotten run {submission.run_id}, as after a failover: begun again")

    def choose_hosts(self, hosts: Sequence[str] | None, *, everywhere: bool = False) -> tuple[str, ...]:
        """Return the hosts for a run: the named ones, this one if None, or all live ones.

        Raises:
            HostNotFoundError: A host has no live worker; the message lists those that have.
        """
        own = self.settings.engine.host_name
        return choose_hosts(
            hosts,
            everywhere=everywhere,
            own=own,
            list_hosts=self._services.hosts,
            advice=self._services.no_host_advice,
        )

    def _placed(self, operation: Operation, address: StorageAddress, host: str | None) -> Operation:
        """Return the work as workers perform it: work on a Docker Engine is bound to the engine's host.

        Args:
            operation: The work.
            address: The storage that it changes.
            host: The host of the engine; this host if None.

        Raises:
            UsageError: A host is given, and the storage is not an engine.
            HostNotFoundError: The host has no live worker.
        """
        if address.is_on_host:
            (chosen,) = self.choose_hosts(None if host is None else [host])
            return OnHostOperation(operation, chosen, self.settings.engine.host_name)
        if host is not None:
            raise UsageError(
                f"host {host} is named, but {address} is no Docker Engine: registries have no hosts"
            )
        return operation

    def _plan(
        self,
        operation: Operation,
        address: StorageAddress,
        host: str | None,
        plan_storages: PlanStorages | None = None,
    ) -> Plan:
        """Plan a run of the work; changes nothing. Arguments and errors as of `_placed`."""
        return self._placed(operation, address, host).plan(plan_storages or self._plan_storages())

    def _plan_storages(
        self, *, missing_ok: bool = False, beside: Iterable[StorageAddress] = ()
    ) -> NamedStorages:
        """Create the view that plans have of storages; arguments as of `NamedStorages`."""
        return NamedStorages(self._services.registries, self._notice, missing_ok=missing_ok, beside=beside)

    def _listed(
        self,
        where: StorageAddress,
        found: Iterator[_Found],
        *,
        missing_ok: bool,
        beside: Iterable[StorageAddress] = (),
    ) -> Iterator[_Found]:
        """Iterate over a storage's entries; if there are none, check that the storage exists."""
        first = next(found, None)
        if first is None:
            self._plan_storages(missing_ok=missing_ok, beside=beside).expect(where)
            return found
        return chain([first], found)

    def _parallel(self, parallel: int | None) -> int:
        return max(1, self.settings.runs.parallel if parallel is None else parallel)

    @staticmethod
    def _callback(on_outcome: OnOutcome | None, *, detach: bool) -> dict[str, Any]:
        """Return the order's fields for the callback."""
        if isinstance(on_outcome, RemoteCallback):
            return on_outcome.spec_fields()
        if on_outcome is not None and detach:
            raise UsageError(
                "a detached run cannot call back into this process: hand in a RemoteCallback, or leave out "
                "on_outcome or detach"
            )
        callback = Callback.NONE if on_outcome is None else Callback.CLIENT
        return {"callback": callback, "callback_target": "", "finish_url": ""}
