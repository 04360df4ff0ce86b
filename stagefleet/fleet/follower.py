"""Runs that the ledger has: look-ups, and following one, from the process that started it or another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice

from pydantic import ValidationError

from stagefleet import errors
from stagefleet.connections import Connections
from stagefleet.fleet.waits import NoWorkerWatchdog, WaitReporter
from stagefleet.operations.catalog import parse_operation
from stagefleet.redis_client import RedisRetry
from stagefleet.runs import coordinator, models
from stagefleet.runs.ledger import Ledger, no_run

_INTERRUPTED = models.ErrorInfo(type="KeyboardInterrupt", message="interrupted by the client")


class _StandstillMonitor:
    """Watch a run without new outcomes: check for workers, and report its waits."""

    def __init__(
        self, connections: Connections, run: models.Run, watchdog: NoWorkerWatchdog, reporter: WaitReporter
    ) -> None:
        self._connections = connections
        self._run = run.id
        self._is_started = run.state is not models.RunState.SUBMITTING
        self._watchdog = watchdog
        self._reporter = reporter

    def telling(self, on_outcome: coordinator.OnOutcome | None) -> coordinator.OnOutcome:
        """Wrap a callback so that each outcome counts as progress."""

        def tell(outcome: models.Outcome) -> None:
            self._watchdog.note_progress()
            self._reporter.note_progress()
            if on_outcome is not None:
                on_outcome(outcome)

        return tell

    def check(self) -> None:
        """Check once; called about once a second while the run has no new outcome.

        Raises:
            NoWorkerError: No worker has worked on it for too long.
            LedgerRewoundError: Redis has lost the run's start.
        """
        self._connections.check()
        try:
            run = self._connections.ledger.run(self._run)
            self._connections.ledger.heartbeats.ping()  # if Redis takes no writes, workers cannot report
        except errors.RedisUnreachableError:
            return  # the reader of outcomes has its own time limit
        if self._is_started and run.state is models.RunState.SUBMITTING:
            raise _forgotten(self._run)
        self._is_started = run.state is not models.RunState.SUBMITTING
        self._watchdog.check(run)
        self._reporter.report(run)


class RunFollower:
    """Follow runs to their end; `notice` is called with messages for the user."""

    def __init__(self, connections: Connections, notice: Callable[[str], None]) -> None:
        self._connections = connections
        self._notice = notice
        self._told: set[str] = set()

    def redis_retry(self, notice: Callable[[str], None] | None = None) -> RedisRetry:
        """Create the retries for a Redis that is out of reach, with notices about the outage."""
        return RedisRetry(self._connections.settings.runs.outage_seconds, say=notice or self._notice)

    def follow(
        self,
        run_id: str,
        on_outcome: coordinator.OnOutcome | None = None,
        *,
        notice: Callable[[str], None] | None = None,
        no_worker_limit_seconds: float | None = None,
    ) -> models.Run:
        """Follow a run from its first outcome on, without delaying it; arguments as of `Fleet.wait`.

        Raises:
            NoWorkerError: No worker worked on it; the run was cancelled.
            LedgerRewoundError: Redis has lost the run, or its start.
        """
        with _naming(run_id), self._giving_up(run_id):
            monitor = self._standstill_monitor(run_id, notice, limit_seconds=no_worker_limit_seconds)
            ended = coordinator.watch(
                self._connections.ledger,
                run_id,
                on_progress=monitor.telling(on_outcome),
                on_idle=monitor.check,
                redis_retry=self.redis_retry(notice),
            )
            coordinator.start_next(self._connections.ledger, ended)  # the fleet does it, too: who comes first
        self._report_remaining_tags(ended)
        return ended

    def coordinate(
        self, run_id: str, kind: models.SubmissionKind, on_outcome: coordinator.OnOutcome | None
    ) -> models.Run:
        """Follow a run of this process; an interrupt, or an exception of the callback, cancels it."""
        ledger = self._connections.ledger
        spec = self.started(run_id).spec
        try:
            if on_outcome is None:
                return self.follow(run_id)
            if kind is models.SubmissionKind.SUCCEEDED or spec.callback is not models.Callback.CLIENT:
                # Found by its key: it has ended, or has no callback and so does not wait.
                return self.follow(run_id, self._stopping(run_id, on_outcome))
            with _naming(run_id), self._giving_up(run_id):
                monitor = self._standstill_monitor(run_id)
                ended = coordinator.watch(
                    ledger,
                    run_id,
                    on_outcome=on_outcome,
                    on_progress=monitor.telling(None),
                    on_idle=monitor.check,
                    renewal_seconds=self._connections.settings.runs.renewal_seconds,
                    redis_retry=self.redis_retry(),
                )
            self._report_remaining_tags(ended)
            return ended  # noqa: TRY300 - an interrupt while it is reported counts, too
        except KeyboardInterrupt:
            # The error names the cause, and ends the wait for acknowledgements. If it cannot
            # be written, the lease of the callback expires, and the sweep cancels the run.
            with suppress(errors.StagefleetError):
                ledger.cancel(run_id, error=_INTERRUPTED)
            raise

    def started(self, run_id: str) -> models.Run:
        """Return the state of a run that this process started.

        Raises:
            LedgerRewoundError: Redis has lost the run, or its start.
            RedisUnreachableError: Redis stayed out of reach; the message names the run.
        """
        try:
            with _naming(run_id):
                stands = self.redis_retry()(lambda: self._connections.ledger.run(run_id))
        except errors.RunNotFoundError as error:
            raise _forgotten(run_id) from error
        if stands.state is models.RunState.SUBMITTING:
            raise _forgotten(run_id)
        return stands

    def is_forgotten(self, run_id: str) -> bool:
        """Return True if Redis has lost a run that was started."""
        try:
            self.started(run_id)
        except errors.LedgerRewoundError:
            return True
        return False

    def _stopping(self, run_id: str, on_outcome: coordinator.OnOutcome) -> coordinator.OnOutcome:
        """Wrap the callback of a run that does not wait for it, so that its exception stops the run."""

        def call_back(outcome: models.Outcome) -> None:
            if outcome.state is models.ItemState.CANCELLED:
                return
            try:
                on_outcome(outcome)
            except BaseException as error:
                with suppress(errors.StagefleetError):  # the callback's exception takes precedence
                    self._connections.ledger.cancel(run_id, error=models.ErrorInfo.of(error))
                raise

        return call_back

    def _report_remaining_tags(self, run: models.Run) -> None:
        """Report, once per repository, which of Stagefleet's tags a deletion could not remove."""
        try:
            operation = parse_operation(run.spec.operation, run.spec.options)
        except (KeyError, ValidationError, errors.UsageError):
            return  # another release's, or a user's
        repositories = [address for address in operation.deletes_from if not address.is_on_host]
        if not repositories:
            return
        for line in self._connections.storages.describe_remaining_tags(repositories):
            if line not in self._told:
                self._told.add(line)
                self._notice(line)

    def _standstill_monitor(
        self, run_id: str, notice: Callable[[str], None] | None = None, *, limit_seconds: float | None = None
    ) -> _StandstillMonitor:
        connections, say = self._connections, notice or self._notice
        settings = connections.settings.runs
        if limit_seconds is not None:
            settings = settings.model_copy(update={"no_worker_limit_seconds": limit_seconds})
        stands = self.redis_retry(notice)(lambda: connections.ledger.run(run_id))
        watchdog = NoWorkerWatchdog(
            connections.ledger.heartbeats,
            stands.spec,
            settings,
            say,
            advice=connections.no_worker_advice,
            starts_worker=connections.starts_worker,
        )
        return _StandstillMonitor(connections, stands, watchdog, WaitReporter(say))

    @contextmanager
    def _giving_up(self, run_id: str) -> Iterator[None]:
        """Cancel the run if no worker works on it, and report it if Redis has lost it."""
        try:
            yield
        except errors.RunNotFoundError as error:
            if self.is_forgotten(run_id):  # and it is not the callback's exception
                raise _forgotten(run_id) from error
            raise
        except errors.NoWorkerError as error:
            problem = models.ErrorInfo.of(error)
            self.redis_retry()(lambda: self._connections.ledger.cancel(run_id, now=True, error=problem))
            raise


@contextmanager
def _naming(run_id: str) -> Iterator[None]:
    """Add the run's id to errors about an unreachable Redis: the user may not know it otherwise."""
    try:
        yield
    except errors.RedisUnreachableError as error:
        raise errors.RedisUnreachableError(
            f"{error}; the run is {run_id}: look at it with stagefleet runs show {run_id} once Redis answers"
        ) from error


def _forgotten(run_id: str) -> errors.LedgerRewoundError:
    return errors.LedgerRewoundError(
        f"Redis has forgotten run {run_id}, or that it was started, as after a failover: start it again"
    )


# Look-ups of runs and outcomes.

_NAMED = 3
_OUTCOMES_A_READ = 1000


def find_run(ledger: Ledger, run_id: str) -> models.Run:
    """Return the run of an id, or whose id begins so; errors as of `Fleet.run`."""
    found = list(islice(ledger.runs(beginning=run_id), _NAMED + 1)) if run_id else []
    if not found:
        raise no_run(run_id)
    if len(found) > 1:
        names = ", ".join(run.id for run in found[:_NAMED]) + (" or another" if len(found) > _NAMED else "")
        raise errors.UsageError(f"run {run_id!r} may be {names}: write more of its id")
    (run,) = found
    return ledger.run(run.id) if run.state is models.RunState.UNREADABLE else run


def find_run_under(ledger: Ledger, key: str) -> models.Run:
    """Return the last run under an idempotency key; errors as of `Fleet.run_under`."""
    run_id = ledger.run_under(key)
    if run_id is None:
        raise errors.RunNotFoundError(f"no run was started under the key {key!r}, or it has expired")
    return ledger.run(run_id)


def read_chain(ledger: Ledger, run: models.Run) -> Iterator[models.Run]:
    """Iterate over a run and those that follow it, up to one that Redis has lost."""
    yield run
    with suppress(errors.RunNotFoundError):  # the sweep cancels those after it
        while run.spec.next is not None:
            run = ledger.run(run.spec.next.run_id)
            yield run


def read_outcomes(ledger: Ledger, run_id: str) -> Iterator[models.Outcome]:
    """Iterate over the outcomes of a run so far."""
    position = ""
    while outcomes := ledger.outcomes(run_id, position, limit=_OUTCOMES_A_READ, block_seconds=0):
        position = outcomes[-1].position
        yield from outcomes


def read_failures(ledger: Ledger, run_id: str) -> Iterator[models.Outcome]:
    """Iterate over the outcomes of the failed items of a run so far."""
    found = read_outcomes(ledger, run_id)
    return (outcome for outcome in found if outcome.state is models.ItemState.FAILED)
