"""A fleet in memory: the real `Fleet`, with storages, a ledger and a worker that need no service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.connections import Connections
from stagefleet.deletion.tag_deletion import TagDeletions
from stagefleet.errors import NotFoundError
from stagefleet.fleet.fleet import Fleet
from stagefleet.fleet_storages import ClientStorages
from stagefleet.locks import LockManager, MemoryLocks
from stagefleet.names import Repository, StageId
from stagefleet.runs.models import Outcome, Run
from stagefleet.settings import Settings
from stagefleet.shared_state.best_effort import MemoryLastUsed
from stagefleet.testing.ledger import MemoryLedger
from stagefleet.testing.memory_registries import MemoryRegistries
from stagefleet.testing.memory_worker import MemoryWorker


def in_memory_fleet(
    stages: Mapping[str, Iterable[str | StageId]] | None = None,
    *,
    hosts: Sequence[str] = (),
    settings: Settings | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> InMemoryFleet:
    """Create a fleet for the tests of programs that use Stagefleet; needs no Redis, registry or worker.

        with in_memory_fleet(stages={"registry.example/app": [STAGE_ID]}) as fleet:
            run = fleet.for_each_copy_stage("registry.example/app", "mirror.example/app")

    Args:
        stages: The stages of each repository that exists; an empty one exists, too.
        hosts: The hosts with a Docker Engine, for fetches.
        settings: As of `Fleet.connect`, but never from the environment; the defaults if None.
        on_notice: As of `Fleet`.
    """
    chosen = Settings() if settings is None else settings
    return InMemoryFleet(stages or {}, hosts, chosen, on_notice)


class InMemoryFleet(Fleet):
    """A `Fleet` with all of its data in the memory of this process; created by `in_memory_fleet`.

    Plans, runs, keys, callbacks and errors are those of the real fleet. Items succeed and change the
    repositories as a worker would, unless `worker.fail` scripts an error. They are executed in the thread
    that waits for the run or calls `run`, `parallel` of them at each look: nothing happens behind the back
    of a test. A retryable error is retried at once. Engines have no content: a fetch only notes the stage's
    use.

    Attributes:
        worker: Executes the items; keeps the calls for each `RemoteCallback`, as none leaves the process.
        registries: The repositories; `registries.add_stages` adds stages, as a build would.
    """

    def __init__(
        self,
        stages: Mapping[str, Iterable[str | StageId]],
        hosts: Sequence[str],
        settings: Settings,
        on_notice: Callable[[str], None] | None,
    ) -> None:
        self.registries = MemoryRegistries()
        connections = _MemoryConnections(settings, self.registries, hosts)
        super().__init__(connections, on_notice=on_notice)
        self.worker = connections.worker
        for address, stage_ids in stages.items():
            self.registries.add_stages(address, stage_ids)

    def run(self, run_id: str) -> Run:
        """Return the state of a run after its next items; see `Fleet.run`."""
        self.worker.execute(super().run(run_id).spec.parallel)
        return super().run(run_id)


class _ExecutingLedger(MemoryLedger):
    """A ledger whose items are executed when somebody waits for outcomes."""

    worker: MemoryWorker

    def outcomes(self, run_id: str, after: str, *, limit: int, block_seconds: float) -> list[Outcome] | None:
        if block_seconds > 0:
            self.worker.execute(self.run(run_id).spec.parallel)
        return super().outcomes(run_id, after, limit=limit, block_seconds=block_seconds)


class _MemoryConnections(Connections):
    """Connections to nothing but the memory of this process."""

    def __init__(self, settings: Settings, registries: MemoryRegistries, hosts: Sequence[str]) -> None:
        self._prepare(settings)
        self._registries = registries
        ledger = _ExecutingLedger(settings.runs)
        self.worker = ledger.worker = MemoryWorker(
            ledger, lambda: self.storages, lambda: self.last_used, hosts
        )
        self._memory_ledger = ledger

    def _open_ledger(self) -> MemoryLedger:
        return self._memory_ledger

    def _open_locks(self) -> LockManager:
        return MemoryLocks(self.settings.locks)

    def _open_last_used(self) -> MemoryLastUsed:
        return MemoryLastUsed(self.settings.caches)

    def _open_storages(self) -> ClientStorages:
        return _MemoryStorages(self.settings, self.locks, self._registries)


class _MemoryStorages(ClientStorages):
    """Storages whose registries delete tags alone: no probe has to find that out."""

    @cached_property
    def deletions(self) -> TagDeletions:
        return _TagDeletions(self.registries)


class _TagDeletions(TagDeletions):
    """Deletions of single tags, as of a registry that can do that."""

    def delete(
        self,
        repository: Repository,
        tag: str,
        attempt: Attempt,
        *,
        check: Callable[[], object] | None = None,
        is_locked: bool = False,
    ) -> ItemResult:
        del attempt, is_locked
        if check is not None:
            check()
        try:
            self.registries.client.delete_manifest(repository.tagged(tag))
        except NotFoundError:
            return NOT_THERE
        if (stage_id := StageId.from_tag(tag)) is not None:
            self.registries.remembered.forget(repository, stage_id)
        return ItemResult()
