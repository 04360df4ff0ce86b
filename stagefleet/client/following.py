"""Following a run from the process that started it, or from another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stagefleet.client.services import Services
from stagefleet.client.vigil import Vigil
from stagefleet.errors import NoWorkerError
from stagefleet.names import Repository, parse_address
from stagefleet.runs import coordinator
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.model import Callback, ErrorInfo, Fate, ItemState, Outcome, Run

__all__ = ["Follower"]

_DELETIONS = ("delete_", "rm_")
"""How the operations that delete begin."""
_INTERRUPTED = ErrorInfo(type="KeyboardInterrupt", message="interrupted by the client")


class Follower:
    """Follows runs to their end.

    Args:
        services: Where the runs are.
        notice: Told what a person should know meanwhile.
    """

    def __init__(self, services: Services, notice: Callable[[str], None]) -> None:
        self._services = services
        self._notice = notice
        self._told: set[str] = set()

    def watch(self, run: str, on_outcome: OnOutcome | None = None) -> Run:
        """Follow a run from its first outcome on; the run neither waits for it nor is stopped by it."""
        return coordinator.watch(self._services.ledger, run, on_progress=on_outcome)

    def attend(self, run: str, on_outcome: OnOutcome | None = None) -> Run:
        """Watch a run, and cancel it when nobody works on it.

        Raises:
            NoWorkerError: Nobody did; the run was cancelled.
        """
        with self._giving_up(run) as idle:
            ended = coordinator.watch(self._services.ledger, run, on_progress=on_outcome, on_idle=idle)
        self._tell_what_stays(ended)
        return ended

    def conduct(self, run: str, fate: Fate, on_outcome: OnOutcome | None) -> Run:
        """Follow a run that was submitted here, calling back for each outcome; an interrupt cancels it.

        Args:
            run: The run's id.
            fate: What became of its submission.
            on_outcome: The callback, None for none.

        Raises:
            NoWorkerError: As in `attend`.
            Exception: What the callback raised; it has stopped the run.
        """
        ledger = self._services.ledger
        try:
            if on_outcome is None:
                return self.attend(run)
            if fate is Fate.SUCCEEDED or ledger.run(run).order.callback is not Callback.CLIENT:
                # Found under its key: it has ended, or was started without a callback and so does not wait.
                return self.attend(run, self._stopping(run, on_outcome))
            with self._giving_up(run) as idle:
                ended = coordinator.watch(
                    ledger,
                    run,
                    on_outcome=on_outcome,
                    on_idle=idle,
                    renewal_seconds=self._services.settings.runs.renewal_seconds,
                )
            self._tell_what_stays(ended)
            return ended  # noqa: TRY300 - an interrupt while it is told of is one too
        except KeyboardInterrupt:
            # The error says who stopped it, and that nobody acknowledges outcomes any more.
            ledger.cancel(run, error=_INTERRUPTED)
            raise

    def _stopping(self, run: str, on_outcome: OnOutcome) -> OnOutcome:
        """A callback that only watches, but stops the run all the same when it raises."""

        def call_back(outcome: Outcome) -> None:
            if outcome.state is ItemState.CANCELLED:
                return
            try:
                on_outcome(outcome)
            except Exception as error:
                self._services.ledger.cancel(run, error=ErrorInfo.of(error))
                raise

        return call_back

    def _tell_what_stays(self, run: Run) -> None:
        """Tell, once a repository, which tags of ours a run that deletes could not remove."""
        if not run.order.operation.startswith(_DELETIONS):
            return
        for line in self._services.registries.words_on_what_stays(_repositories(run.order.options)):
            if line not in self._told:
                self._told.add(line)
                self._notice(line)

    @contextmanager
    def _giving_up(self, run: str) -> Iterator[Callable[[], None]]:
        """Gives what to call while nothing happens; cancels the run when nobody works on it."""
        ledger, settings = self._services.ledger, self._services.settings.runs
        order, advice = ledger.run(run).order, self._services.no_worker_advice
        vigil = Vigil(ledger, order, settings, self._notice, advice=advice)

        def idle() -> None:
            self._services.check()
            vigil.look()

        try:
            yield idle
        except NoWorkerError as error:
            ledger.cancel(run, now=True, error=ErrorInfo.of(error))
            raise


def _repositories(options: Mapping[str, Any]) -> list[Repository]:
    """The repositories that a run deletes from."""
    named = [options.get("repository"), options.get("final"), *options.get("caches", ())]
    places = map(parse_address, filter(None, named))
    return [place for place in places if isinstance(place, Repository)]
