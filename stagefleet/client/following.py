"""Following a run, from the process that started it or another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from stagefleet.client.services import Services
from stagefleet.client.vigil import Vigil
from stagefleet.client.waiting import WaitReporter
from stagefleet.errors import (
    LedgerRewoundError,
    NoWorkerError,
    RedisUnreachableError,
    RunNotFoundError,
    StagefleetError,
)
from stagefleet.names import Repository, parse_address
from stagefleet.patience import Patience
from stagefleet.runs import coordinator
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.model import Callback, ErrorInfo, Fate, ItemState, Outcome, Run, RunState

__all__ = ["Follower"]

_DELETIONS = ("delete_", "rm_")
"""The prefixes of operations that delete."""
_INTERRUPTED = ErrorInfo(type="KeyboardInterrupt", message="interrupted by the client")


class _Onlooker:
    """Watch a run without new outcomes: check for workers, and report its waits.

    Args:
        services: The services of the fleet.
        run: The current state of the run.
        vigil: Checks for workers.
        reporter: Reports waits.
    """

    def __init__(self, services: Services, run: Run, vigil: Vigil, reporter: WaitReporter) -> None:
        self._services = services
        self._run = run.id
        self._is_started = run.state is not RunState.SUBMITTING
        self._vigil = vigil
        self._reporter = reporter

    def telling(self, on_outcome: OnOutcome | None) -> OnOutcome:
        """Wrap a callback so that each outcome counts as progress."""

        def tell(outcome: Outcome) -> None:
            self._vigil.move()
            self._reporter.move()
            if on_outcome is not None:
                on_outcome(outcome)

        return tell

    def look(self) -> None:
        """Check once; called about once a second while the run has no new outcome.

        Raises:
            NoWorkerError: No worker has worked on it for too long.
            LedgerRewoundError: Redis has lost the run's start.
        """
        self._services.check()
        try:
            run = self._services.ledger.run(self._run)
            self._services.ledger.ping()  # if Redis takes no writes, workers cannot report
        except RedisUnreachableError:
            return  # the reader of outcomes has its own time limit
        if self._is_started and run.state is RunState.SUBMITTING:
            raise _forgotten(self._run)
        self._is_started = run.state is not RunState.SUBMITTING
        self._vigil.look(run)
        self._reporter.look(run)


class Follower:
    """Follow runs to their end.

    Args:
        services: The services of the fleet.
        notice: Called with messages for the user.
    """

    def __init__(self, services: Services, notice: Callable[[str], None]) -> None:
        self._services = services
        self._notice = notice
        self._told: set[str] = set()

    def patience(self, notice: Callable[[str], None] | None = None) -> Patience:
        """Create the retries for a Redis that is out of reach, with notices about the outage."""
        return Patience(self._services.settings.runs.outage_seconds, say=notice or self._notice)

    def watch(
        self, run: str, on_outcome: OnOutcome | None = None, *, notice: Callable[[str], None] | None = None
    ) -> Run:
        """Follow a run from its first outcome on; this neither delays nor stops the run.

        Args:
            run: The run's id.
            on_outcome: Called with each outcome.
            notice: Called with messages for the user; the object's own if None.
        """
        with _naming(run):
            onlooker = self._onlooker(run, notice, limit_seconds=math.inf)
            return coordinator.watch(
                self._services.ledger,
                run,
                on_progress=onlooker.telling(on_outcome),
                on_idle=onlooker.look,
                patience=self.patience(notice),
            )

    def attend(
        self, run: str, on_outcome: OnOutcome | None = None, *, notice: Callable[[str], None] | None = None
    ) -> Run:
        """Watch a run, and cancel it if no worker works on it; arguments as of `watch`.

        Raises:
            NoWorkerError: No worker worked on it; the run was cancelled.
            LedgerRewoundError: Redis has lost the run, or its start.
        """
        with _naming(run), self._giving_up(run):
            onlooker = self._onlooker(run, notice)
            ended = coordinator.watch(
                self._services.ledger,
                run,
                on_progress=onlooker.telling(on_outcome),
                on_idle=onlooker.look,
                patience=self.patience(notice),
            )
        self._tell_what_stays(ended)
        return ended

    def conduct(self, run: str, fate: Fate, on_outcome: OnOutcome | None) -> Run:
        """Follow a run submitted by this process, with a callback per outcome; an interrupt cancels the run.

        Args:
            run: The run's id.
            fate: The result of its submission.
            on_outcome: The callback; may be None.

        Raises:
            NoWorkerError: As in `attend`.
            LedgerRewoundError: As in `attend`.
            BaseException: The exception of the callback, which has stopped the run.
        """
        ledger = self._services.ledger
        order = self.started(run).order
        try:
            if on_outcome is None:
                return self.attend(run)
            if fate is Fate.SUCCEEDED or order.callback is not Callback.CLIENT:
                # Found by its key: it has ended, or has no callback and so does not wait.
                return self.attend(run, self._stopping(run, on_outcome))
            with _naming(run), self._giving_up(run):
                onlooker = self._onlooker(run)
                ended = coordinator.watch(
                    ledger,
                    run,
                    on_outcome=on_outcome,
                    on_progress=onlooker.telling(None),
                    on_idle=onlooker.look,
                    renewal_seconds=self._services.settings.runs.renewal_seconds,
                    patience=self.patience(),
                )
            self._tell_what_stays(ended)
            return ended  # noqa: TRY300 - an interrupt while it is reported counts, too
        except KeyboardInterrupt:
            # The error names the cause, and ends the wait for acknowledgements. If it cannot
            # be written, the lease of the callback expires, and the sweep cancels the run.
            with suppress(StagefleetError):
                ledger.cancel(run, error=_INTERRUPTED)
            raise

    def started(self, run: str) -> Run:
        """Return the state of a run that this process started.

        Raises:
            LedgerRewoundError: Redis has lost the run, or its start.
            RedisUnreachableError: Redis stayed out of reach; the message names the run.
        """
        try:
            with _naming(run):
                stands = self.patience()(lambda: self._services.ledger.run(run))
        except RunNotFoundError as error:
            raise _forgotten(run) from error
        if stands.state is RunState.SUBMITTING:
            raise _forgotten(run)
        return stands

    def is_forgotten(self, run: str) -> bool:
        """Return True if Redis has lost a run that was started."""
        try:
            self.started(run)
        except LedgerRewoundError:
            return True
        return False

    def _stopping(self, run: str, on_outcome: OnOutcome) -> OnOutcome:
        """Wrap the callback of a run that does not wait for it, so that its exception stops the run."""

        def call_back(outcome: Outcome) -> None:
            if outcome.state is ItemState.CANCELLED:
                return
            try:
                on_outcome(outcome)
            except BaseException as error:
                with suppress(StagefleetError):  # the callback's exception takes precedence
                    self._services.ledger.cancel(run, error=ErrorInfo.of(error))
                raise

        return call_back

    def _tell_what_stays(self, run: Run) -> None:
        """Report, once per repository, which of Stagefleet's tags a deletion could not remove."""
        if not run.order.operation.startswith(_DELETIONS):
            return
        for line in self._services.registries.words_on_what_stays(_repositories(run.order.options)):
            if line not in self._told:
                self._told.add(line)
                self._notice(line)

    def _onlooker(
        self,
        run: str,
        notice: Callable[[str], None] | None = None,
        *,
        limit_seconds: float | None = None,
    ) -> _Onlooker:
        services, say = self._services, notice or self._notice
        settings = services.settings.runs
        if limit_seconds is not None:
            settings = settings.model_copy(update={"no_worker_limit_seconds": limit_seconds})
        stands = self.patience(notice)(lambda: services.ledger.run(run))
        vigil = Vigil(
            services.ledger,
            stands.order,
            settings,
            say,
            advice=services.no_worker_advice,
            starts_worker=services.starts_worker,
        )
        return _Onlooker(services, stands, vigil, WaitReporter(say))

    @contextmanager
    def _giving_up(self, run: str) -> Iterator[None]:
        """Cancel the run if no worker works on it, and report it if Redis has lost it."""
        try:
            yield
        except RunNotFoundError as error:
            if self.is_forgotten(run):  # and it is not the callback's exception
                raise _forgotten(run) from error
            raise
        except NoWorkerError as error:
            problem = ErrorInfo.of(error)
            self.patience()(lambda: self._services.ledger.cancel(run, now=True, error=problem))
            raise


@contextmanager
def _naming(run: str) -> Iterator[None]:
    """Add the run's id to errors about an unreachable Redis: the user may not know it otherwise."""
    try:
        yield
    except RedisUnreachableError as error:
        raise RedisUnreachableError(
            f"{error}; the run is {run}: look at it with stagefleet runs show {run} once Redis answers"
        ) from error


def _forgotten(run: str) -> LedgerRewoundError:
    return LedgerRewoundError(
        f"Redis has forgotten run {run}, or that it was started, as after a failover: start it again"
    )


def _repositories(options: Mapping[str, Any]) -> list[Repository]:
    """List the repositories that a run deletes from."""
    named = [options.get("repository"), options.get("final"), *options.get("caches", ())]
    places = map(parse_address, filter(None, named))
    return [place for place in places if isinstance(place, Repository)]
