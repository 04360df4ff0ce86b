"""The desk of a fleet: its services, the runs that are there, and the one way of every new run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import Any, Self, TypeVar

from stagefleet.client.callbacks import RemoteCallback
from stagefleet.client.following import Follower
from stagefleet.client.host_work import OnHostWork
from stagefleet.client.hosts import choose_hosts
from stagefleet.client.presence import NamedStorages
from stagefleet.client.services import EmbeddedServices, RedisServices, Services
from stagefleet.client.submission import check_key, submit
from stagefleet.client.work import Catalogue, Plan, Work, fingerprint
from stagefleet.errors import LedgerRewoundError, RunNotFoundError, UsageError
from stagefleet.isolation import left_out
from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.redaction import quoted
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.ledger import Ledger
from stagefleet.runs.model import Callback, ItemState, Order, Outcome, Run, RunState, WorkerInfo
from stagefleet.settings import Settings, load_settings

__all__ = ["Desk"]

_LOGGER = logging.getLogger("stagefleet")
_NAMED = 3
_Found = TypeVar("_Found")
_OUTCOMES_A_READ = 1000
_MOST_SUBMISSIONS = 5
"""How often a run is submitted that Redis forgets once it has started."""


class Desk:
    """Runs of work on stages, and what is known of them; safe to use from several threads.

    Use `Fleet.connect` with a Redis that workers listen to, or `Fleet.embedded` without one. Close it, or
    use it in a `with` statement.

    Args:
        services: What the fleet stands on.
        on_notice: Told, in one line each, what a person should know meanwhile; logged if None.
    """

    def __init__(self, services: Services, *, on_notice: Callable[[str], None] | None = None) -> None:
        self._services = services
        self._notice = on_notice or _LOGGER.warning
        self._follower = Follower(services, self._notice)

    @classmethod
    def connect(
        cls,
        redis_url: str | None = None,
        *,
        settings: Settings | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> Self:
        """The fleet at a Redis; connects at the first call that needs it.

        Args:
            redis_url: `redis://`, `rediss://` or `unix://`; from the settings if None.
            settings: From the environment and `stagefleet.toml` if None.
            on_notice: As for the class.

        Raises:
            UsageError: There is no URL, or it is malformed, or the settings cannot be read.
        """
        settings = load_settings() if settings is None else settings
        url = redis_url or settings.redis_url
        if url is None:
            raise UsageError("no Redis URL: hand one in, set STAGEFLEET_REDIS_URL, or use Fleet.embedded()")
        return cls(RedisServices(url, settings), on_notice=on_notice)

    @classmethod
    def embedded(
        cls, *, settings: Settings | None = None, on_notice: Callable[[str], None] | None = None
    ) -> Self:
        """A fleet of its own: a private Valkey and a worker, started when needed and stopped by `close`.

        Args:
            settings: As in `connect`; its Redis URL is not used.
            on_notice: As for the class.
        """
        settings = load_settings() if settings is None else settings
        return cls(EmbeddedServices(settings), on_notice=on_notice)

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
        """Close the connections, and stop what was started."""
        self._services.close()

    @property
    def settings(self) -> Settings:
        """The settings of this fleet."""
        return self._services.settings

    @property
    def keeps_runs(self) -> bool:
        """Whether runs go on when this process has ended."""
        return not self._services.starts_worker

    @property
    def _ledger(self) -> Ledger:
        return self._services.ledger

    def _tell_left_out(self, stage_id: StageId, error: Exception) -> None:
        self._notice(left_out(stage_id, error))

    # Runs that are there

    def runs(self) -> Iterator[Run]:
        """All runs that have not expired, the newest first."""
        return self._ledger.runs()

    def run(self, run: str) -> Run:
        """How a run stands.

        Raises:
            RunNotFoundError: No such run, or it has expired.
        """
        return self._ledger.run(run)

    def complete_run_id(self, text: str) -> str:
        """Give the id of the run that a text is the beginning of.

        Raises:
            RunNotFoundError: There is none.
            UsageError: There are several; names some.
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

    def failures(self, run: str) -> Iterator[Outcome]:
        """Read the outcomes of a run's failed items, in the order of completion, as far as there are any.

        Raises:
            RunNotFoundError: No such run, or it has expired.
        """
        position = ""
        while outcomes := self._ledger.outcomes(run, position, limit=_OUTCOMES_A_READ, block_seconds=0):
            position = outcomes[-1].position
            yield from (outcome for outcome in outcomes if outcome.state is ItemState.FAILED)

    def run_under(self, idempotency_key: str) -> Run:
        """The run that was started last under a key.

        Raises:
            RunNotFoundError: There is none, or it has expired.
        """
        run = self._ledger.run_under(idempotency_key)
        if run is None:
            raise RunNotFoundError(f"no run was started under the key {idempotency_key!r}, or it has expired")
        return self._ledger.run(run)

    def workers(self) -> list[WorkerInfo]:
        """The worker processes that are up."""
        return self._ledger.workers()

    def watch(
        self,
        run: str,
        on_outcome: OnOutcome | None = None,
        *,
        on_notice: Callable[[str], None] | None = None,
    ) -> Run:
        """Follow a run to its end, from its first outcome on; the run does not wait for the watcher.

        Args:
            run: The run's id.
            on_outcome: Told of each outcome; what it raises ends the watching, not the run.
            on_notice: Told meanwhile for whom the run waits and that nobody works on it; as for the class if
                None.

        Raises:
            RunNotFoundError: No such run.
        """
        return self._follower.watch(run, on_outcome, notice=on_notice)

    def attend(
        self,
        run: str,
        on_outcome: OnOutcome | None = None,
        *,
        on_notice: Callable[[str], None] | None = None,
    ) -> Run:
        """Follow a run as `watch` does, and cancel it when nobody works on it.

        Raises:
            NoWorkerError: No worker listened for as long as the settings say; the run was cancelled.
        """
        return self._follower.attend(run, on_outcome, notice=on_notice)

    def cancel(self, run: str, *, now: bool = False) -> bool:
        """Cancel a run: nothing new starts, what runs finishes (with `now`, stops within seconds).

        Returns:
            Whether the run was still under way.

        Raises:
            RunNotFoundError: No such run.
        """
        return self._ledger.cancel(run, now=now)

    def retry(
        self,
        run: str,
        on_outcome: OnOutcome | None = None,
        *,
        parallel: int | None = None,
        detach: bool = False,
    ) -> Run:
        """Run again what failed or was cancelled in a finished run, as a new run.

        Returns:
            As `for_each_copy_stage`; the old run where nothing is left to do.

        Raises:
            UsageError: The run is still under way.
            RunNotFoundError: No such run.
        """
        old = self._ledger.run(run)
        if not old.state.is_final:
            raise UsageError(f"run {run} is still {old.state}: watch it, or cancel it first")
        if old.state is RunState.SUCCEEDED:
            return old
        order = old.order.model_copy(
            update={
                "parallel": old.order.parallel if parallel is None else max(1, parallel),
                **(
                    self._callback(on_outcome, detach=detach)
                    if on_outcome or not old.order.is_called_back
                    else {}
                ),
                "key": None,
                "fingerprint": "",
                "parent": run,
            }
        )
        return self._conduct(
            order, lambda: Plan(tuple(self._ledger.leftovers(run))), on_outcome, detach=detach
        )

    # The one way of every run

    def _for_each(
        self,
        work: Work,
        on_outcome: OnOutcome | None,
        *,
        parallel: int | None,
        idempotency_key: str | None,
        detach: bool,
        catalogue: Catalogue | None = None,
    ) -> Run:
        check_key(idempotency_key)
        order = Order(
            operation=work.operation,
            options=work.options,
            parallel=self._parallel(parallel),
            **self._callback(on_outcome, detach=detach),
            key=idempotency_key,
            fingerprint=fingerprint(work),
            max_attempts=self.settings.runs.max_attempts,
        )
        return self._conduct(
            order, lambda: work.plan(catalogue or self._catalogue()), on_outcome, detach=detach
        )

    def _conduct(
        self, order: Order, make_plan: Callable[[], Plan], on_outcome: OnOutcome | None, *, detach: bool
    ) -> Run:
        patience = self._follower.patience()
        if isinstance(on_outcome, RemoteCallback):
            on_outcome = None
        submission, submissions = None, 0
        while True:
            submissions += 1
            submission = submit(lambda: self._ledger, order, make_plan, again=submission, patience=patience)
            try:
                if detach:
                    return self._follower.started(submission.run)
                return self._follower.conduct(submission.run, submission.fate, on_outcome)
            except (LedgerRewoundError, RunNotFoundError):
                if submissions == _MOST_SUBMISSIONS or not self._follower.is_forgotten(submission.run):
                    raise
                self._notice(f"Redis has forgotten run {submission.run}, as after a failover: begun again")

    def choose_hosts(self, hosts: Sequence[str] | None, *, everywhere: bool = False) -> tuple[str, ...]:
        """The hosts that a run is for: those named, this one if None, or all that are there.

        Raises:
            HostMissingError: A host is not there; says which are.
        """
        own = self.settings.engine.host_name
        return choose_hosts(
            hosts,
            everywhere=everywhere,
            own=own,
            look=self._services.hosts,
            advice=self._services.no_host_advice,
        )

    def _placed(self, work: Work, place: Repository | DockerDaemon, host: str | None) -> Work:
        """The work as it is carried out: what is done to a Docker Engine, on that engine's host.

        Args:
            work: What is to be done.
            place: The storage that it is done to.
            host: Whose engine; this host's if None.

        Raises:
            UsageError: A host is named, and the storage is no engine.
            HostMissingError: The host is not there.
        """
        if isinstance(place, DockerDaemon):
            (chosen,) = self.choose_hosts(None if host is None else [host])
            return OnHostWork(work, chosen, self.settings.engine.host_name)
        if host is not None:
            raise UsageError(
                f"host {host} is named, but {place} is no Docker Engine: registries have no hosts"
            )
        return work

    def _plan(
        self,
        work: Work,
        place: Repository | DockerDaemon,
        host: str | None,
        catalogue: Catalogue | None = None,
    ) -> Plan:
        """What a run of the work would do; changes nothing. Arguments and errors as of `_placed`."""
        return self._placed(work, place, host).plan(catalogue or self._catalogue())

    def _catalogue(
        self, *, missing_ok: bool = False, beside: Iterable[Repository | DockerDaemon] = ()
    ) -> NamedStorages:
        """What plans ask; arguments as of `NamedStorages`."""
        return NamedStorages(self._services.registries, self._notice, missing_ok=missing_ok, beside=beside)

    def _listed(
        self,
        where: Repository | DockerDaemon,
        found: Iterator[_Found],
        *,
        missing_ok: bool,
        beside: Iterable[Repository | DockerDaemon] = (),
    ) -> Iterator[_Found]:
        """What was found in a storage, which has to exist where that is nothing."""
        first = next(found, None)
        if first is None:
            self._catalogue(missing_ok=missing_ok, beside=beside).expect(where)
            return found
        return chain([first], found)

    def _parallel(self, parallel: int | None) -> int:
        return max(1, self.settings.runs.parallel if parallel is None else parallel)

    @staticmethod
    def _callback(on_outcome: OnOutcome | None, *, detach: bool) -> dict[str, Any]:
        """What the order says of the callback."""
        if isinstance(on_outcome, RemoteCallback):
            return on_outcome.order_fields()
        if on_outcome is not None and detach:
            raise UsageError(
                "a detached run cannot call back into this process: hand in a RemoteCallback, or leave out "
                "on_outcome or detach"
            )
        callback = Callback.NONE if on_outcome is None else Callback.CLIENT
        return {"callback": callback, "callback_target": "", "finish_url": ""}
