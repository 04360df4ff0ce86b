"""Runs on stages, and what can be asked of stages without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from stagefleet.client.describing import describe_all
from stagefleet.client.desk import Desk
from stagefleet.client.host_work import HostCopyWork, HostDeleteWork
from stagefleet.client.work import (
    CopyWork,
    DeleteWork,
    Plan,
    StageIds,
    Work,
    parse_place,
    parse_stage_ids,
)
from stagefleet.errors import StageNotFoundError, UsageError
from stagefleet.isolation import OnLeftOut
from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.model import Run
from stagefleet.stages import StageDescription
from stagefleet.use_policy import UsePolicy

__all__ = ["StageRuns"]

Place = str | Repository | DockerDaemon


class StageRuns(Desk):
    """Stages listed, described, copied and deleted."""

    # Stages

    def stage_ids(self, place: Place, *, missing_ok: bool = False) -> Iterator[StageId]:
        """The stages of a repository, from its tag list, or of this host's engine.

        Args:
            place: Where the stages are.
            missing_ok: Take a repository that does not exist for empty.

        Raises:
            RepositoryNotFoundError: It does not exist.
            UsageError: The address is malformed, or its registry refuses the login.
            UnreachableError: The registry or the engine does not answer.
        """
        where = parse_place(place)
        return self._listed(where, self._services.registries.stage_ids(where), missing_ok=missing_ok)

    def describe_stages(
        self,
        place: Place,
        stage_ids: StageIds | None = None,
        *,
        parallel: int | None = None,
        on_left_out: OnLeftOut | None = None,
        missing_ok: bool = False,
    ) -> Iterator[StageDescription]:
        """Describe stages, in order, in threads of this process; no worker is needed.

        Args:
            place: Where the stages are: a repository, or this host's engine.
            stage_ids: Which; all if None.
            parallel: Stages at once; from the settings if None.
            on_left_out: Told of each stage that is left out and why: `StageNotFoundError` of one that is
                gone or rejected, other errors of one that cannot be described; logged if None.
            missing_ok: Take a repository that does not exist for empty.

        Raises:
            RepositoryNotFoundError: The repository does not exist.
            UsageError: An argument is malformed, or the registry refuses the login.
            StagefleetError: What the other stages would meet too, as a registry that is out of reach.
        """
        where = parse_place(place)
        registries = self._services.registries
        find = ping = None
        if stage_ids is None:
            which = self.stage_ids(where, missing_ok=missing_ok)
            if isinstance(where, Repository):
                find = partial(registries.known_descriptions, where)
        else:
            which = iter([StageId.parse(str(stage_id)) for stage_id in stage_ids])
            on_left_out = self._expecting(where, on_left_out, missing_ok=missing_ok)
        if isinstance(where, Repository):
            ping = partial(registries.ping, where)
        return describe_all(
            lambda stage_id: registries.describe_stage(where, stage_id),
            which,
            parallel=self._parallel(parallel),
            on_left_out=on_left_out or self._tell_left_out,
            find=find,
            ping=ping,
        )

    def _expecting(
        self, where: Repository | DockerDaemon, on_left_out: OnLeftOut | None, *, missing_ok: bool
    ) -> OnLeftOut:
        """Look at the first stage that is not there whether there is a repository at all."""
        tell, looked = on_left_out or self._tell_left_out, False

        def leave_out(stage_id: StageId, error: Exception) -> None:
            nonlocal looked
            if isinstance(error, StageNotFoundError) and not looked:
                looked = True
                self._catalogue(missing_ok=missing_ok).expect(where)
            tell(stage_id, error)

        return leave_out

    # Runs to start

    def for_each_copy_stage(
        self,
        source: Place,
        destination: Place,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        *,
        parallel: int | None = None,
        verify: bool = False,
        hosts: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        detach: bool = False,
        missing_ok: bool = False,
    ) -> Run:
        """Copy stages; those that the destination has are skipped.

        Args:
            source: The repository to copy from, or `docker-daemon:PROJECT`.
            destination: The repository to copy to, or `docker-daemon:PROJECT`.
            stage_ids: Which stages; all if None.
            on_outcome: Called in this process once for each outcome. The run waits for it: at most
                `parallel` stages are copied and not yet called back for. What it raises stops the run.
            parallel: Stages at once; from the settings if None, below 1 means 1.
            verify: Compare digests too, and copy again what differs (image ids, where an engine is one end).
            hosts: Whose engine, where one end is an engine; this host's if None.
            idempotency_key: The same work under the same key is done once, see docs/python.md.
            detach: Return at once; the fleet goes on alone. Only a `RemoteCallback` goes with it.
            missing_ok: Take a source that does not exist for empty; a destination may be new anyway.

        Returns:
            The run as it ended; with `detach`, as it started.

        Raises:
            RepositoryNotFoundError: The source does not exist.
            UsageError: An argument is wrong, or the source lacks a named stage; nothing was started.
            UnreachableError: Redis or a registry does not answer, or nobody works.
            Exception: What `on_outcome` raised.
        """
        work = self._copy_work(source, destination, stage_ids, verify=verify, hosts=hosts)
        return self._for_each(
            work,
            on_outcome,
            parallel=parallel,
            idempotency_key=idempotency_key,
            detach=detach,
            catalogue=self._catalogue(missing_ok=missing_ok),
        )

    def for_each_delete_stage(
        self,
        place: Place,
        stage_ids: StageIds | None,
        on_outcome: OnOutcome | None = None,
        *,
        hosts: Sequence[str] | None = None,
        policy: UsePolicy | None = None,
        parallel: int | None = None,
        idempotency_key: str | None = None,
        detach: bool = False,
        missing_ok: bool = False,
    ) -> Run:
        """Delete stages; what is gone already is a success.

        Args:
            place: The repository to delete from, or `docker-daemon:PROJECT`.
            stage_ids: Which stages; None for all, which has to be said.
            on_outcome: As in `for_each_copy_stage`; so are all arguments below that are not explained here.
            hosts: Whose engine, where stages are to go from one; this host's if None.
            policy: What to do with stages in an engine that are used; where None, they fail with
                `ImageInUseError`.
            parallel: Stages at once.
            idempotency_key: The same work under the same key is done once.
            detach: Return at once.
            missing_ok: Take a repository that does not exist for empty: then all is gone already.

        Returns:
            As `for_each_copy_stage`.

        Raises:
            StagefleetError: As in `for_each_copy_stage`.
        """
        work = self._delete_work(place, stage_ids, hosts, policy)
        return self._for_each(
            work,
            on_outcome,
            parallel=parallel,
            idempotency_key=idempotency_key,
            detach=detach,
            catalogue=self._catalogue(missing_ok=missing_ok),
        )

    def plan_copy_stage(
        self,
        source: Place,
        destination: Place,
        stage_ids: StageIds | None = None,
        *,
        verify: bool = False,
        hosts: Sequence[str] | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """What `for_each_copy_stage` would do with the same arguments; changes nothing."""
        work = self._copy_work(source, destination, stage_ids, verify=verify, hosts=hosts)
        return work.plan(self._catalogue(missing_ok=missing_ok))

    def plan_delete_stage(
        self,
        place: Place,
        stage_ids: StageIds | None,
        *,
        hosts: Sequence[str] | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """What `for_each_delete_stage` would do; changes nothing."""
        catalogue = self._catalogue(missing_ok=missing_ok)
        return self._delete_work(place, stage_ids, hosts, None).plan(catalogue)

    def _copy_work(
        self,
        source: Place,
        destination: Place,
        stage_ids: StageIds | None,
        *,
        verify: bool,
        hosts: Sequence[str] | None,
    ) -> Work:
        here, there = parse_place(source), parse_place(destination)
        if isinstance(here, Repository) and isinstance(there, Repository):
            _refuse_hosts(hosts)
            return CopyWork.of(here, there, stage_ids, verify=verify)
        own, chosen = self.settings.engine.host_name, self.choose_hosts(hosts)
        return HostCopyWork(here, there, parse_stage_ids(stage_ids), verify, chosen, own)

    def _delete_work(
        self,
        place: Place,
        stage_ids: StageIds | None,
        hosts: Sequence[str] | None,
        policy: UsePolicy | None,
    ) -> Work:
        where = parse_place(place)
        if isinstance(where, Repository):
            _refuse_hosts(hosts)
            if policy is not None:
                raise UsageError(f"{where} is no Docker Engine: only there images are in use")
            return DeleteWork.of(where, stage_ids)
        own, chosen = self.settings.engine.host_name, self.choose_hosts(hosts)
        options = {} if policy is None else policy.as_options()
        return HostDeleteWork(where, parse_stage_ids(stage_ids), options, chosen, own)


def _refuse_hosts(hosts: Sequence[str] | None) -> None:
    if hosts:
        raise UsageError("a host is named, but no Docker Engine: registries have no hosts")
