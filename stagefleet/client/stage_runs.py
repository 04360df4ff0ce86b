"""Runs on stages, and what can be asked of stages without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from stagefleet.client.describing import describe_all
from stagefleet.client.desk import Desk
from stagefleet.client.work import CopyWork, DeleteWork, Plan, StageIds, parse_repository
from stagefleet.names import Repository, StageId
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.model import Run
from stagefleet.stages import StageDescription

__all__ = ["StageRuns"]


class StageRuns(Desk):
    """Stages listed, described, copied and deleted."""

    # Stages

    def stage_ids(self, repository: str | Repository) -> Iterator[StageId]:
        """The stages of a repository, from its tag list; none where it does not exist.

        Raises:
            UsageError: The repository is malformed, or its registry refuses the login.
            UnreachableError: The registry does not answer.
        """
        return self._services.registries.stage_ids(parse_repository(repository))

    def describe_stages(
        self,
        repository: str | Repository,
        stage_ids: StageIds | None = None,
        *,
        parallel: int | None = None,
        on_left_out: Callable[[StageId, Exception], None] | None = None,
    ) -> Iterator[StageDescription]:
        """Describe stages, in order, in threads of this process; no worker is needed.

        Args:
            repository: Where the stages are.
            stage_ids: Which; all if None.
            parallel: Stages at once; from the settings if None.
            on_left_out: Told of each stage that is gone or broken, which is left out; logged if None.

        Raises:
            UsageError: An argument is malformed.
            StagefleetError: A registry's error; ends the iteration.
        """
        where = parse_repository(repository)
        registries = self._services.registries
        find = None
        if stage_ids is None:
            which = registries.stage_ids(where)
            find = partial(registries.known_descriptions, where)
        else:
            which = iter([StageId.parse(str(stage_id)) for stage_id in stage_ids])

        def left_out(stage_id: StageId, error: Exception) -> None:
            self._notice(f"{stage_id} is left out: {error}")

        return describe_all(
            lambda stage_id: registries.describe_stage(where, stage_id),
            which,
            parallel=self._parallel(parallel),
            on_left_out=on_left_out or left_out,
            find=find,
        )

    # Runs to start

    def for_each_copy_stage(
        self,
        source: str | Repository,
        destination: str | Repository,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        *,
        parallel: int | None = None,
        verify: bool = False,
        idempotency_key: str | None = None,
        detach: bool = False,
    ) -> Run:
        """Copy stages; those that the destination has are skipped.

        Args:
            source: The repository to copy from.
            destination: The repository to copy to.
            stage_ids: Which stages; all if None.
            on_outcome: Called in this process once for each outcome. The run waits for it: at most
                `parallel` stages are copied and not yet called back for. What it raises stops the run.
            parallel: Stages at once; from the settings if None, below 1 means 1.
            verify: Compare digests too, and copy again what differs.
            idempotency_key: The same work under the same key is done once, see docs/python.md.
            detach: Return at once; the fleet goes on alone. Not together with `on_outcome`.

        Returns:
            The run as it ended; with `detach`, as it started.

        Raises:
            UsageError: An argument is wrong, or the source lacks a named stage; nothing was started.
            UnreachableError: Redis or a registry does not answer, or nobody works.
            Exception: What `on_outcome` raised.
        """
        work = CopyWork.of(source, destination, stage_ids, verify=verify)
        return self._for_each(
            work, on_outcome, parallel=parallel, idempotency_key=idempotency_key, detach=detach
        )

    def for_each_delete_stage(
        self,
        repository: str | Repository,
        stage_ids: StageIds | None,
        on_outcome: OnOutcome | None = None,
        *,
        parallel: int | None = None,
        idempotency_key: str | None = None,
        detach: bool = False,
    ) -> Run:
        """Delete stages; what is gone already is a success.

        Args:
            repository: The repository to delete from.
            stage_ids: Which stages; None for all, which has to be said.
            on_outcome: As in `for_each_copy_stage`; so are all arguments below.
            parallel: Stages at once.
            idempotency_key: The same work under the same key is done once.
            detach: Return at once.

        Returns:
            As `for_each_copy_stage`.

        Raises:
            StagefleetError: As in `for_each_copy_stage`.
        """
        work = DeleteWork.of(repository, stage_ids)
        return self._for_each(
            work, on_outcome, parallel=parallel, idempotency_key=idempotency_key, detach=detach
        )

    def plan_copy_stage(
        self,
        source: str | Repository,
        destination: str | Repository,
        stage_ids: StageIds | None = None,
        *,
        verify: bool = False,
    ) -> Plan:
        """What `for_each_copy_stage` would do with the same arguments; changes nothing, needs no Redis."""
        work = CopyWork.of(source, destination, stage_ids, verify=verify)
        return work.plan(self._services.registries)

    def plan_delete_stage(self, repository: str | Repository, stage_ids: StageIds | None) -> Plan:
        """What `for_each_delete_stage` would do; changes nothing, needs no Redis."""
        return DeleteWork.of(repository, stage_ids).plan(self._services.registries)
