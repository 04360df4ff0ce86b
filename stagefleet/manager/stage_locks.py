"""Locks on stages: one copy of a stage into one storage at a time, fleet-wide, and no deletion meanwhile.

A copy locks the destination's stage exclusively and the source's shared; a deletion locks the stage
exclusively. A lock is for a storage, a repository or a host's engine, and a stage's digest: builds of the
same content, made at different times, exclude one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from stagefleet.locks import HeldLock, LockInfo, LockManager
from stagefleet.locks.waiting import default_label
from stagefleet.logs import EventLogger
from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.registry.leash import Leash, waiting

__all__ = ["StageLocks", "Turn"]

_log = EventLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """Locks on a stage under way; a lease that also ends with its locks.

    Attributes:
        leash: The item's lease.
        locks: The locks.
        has_waited: True if others held a lock before: the storage may have changed.
    """

    leash: Leash
    locks: tuple[HeldLock, ...]
    has_waited: bool

    def check(self) -> None:
        """Return at once, or raise.

        Raises:
            LockLostError: A lock is lost.
            StagefleetError: As `Leash.check` of the item's lease raises.
        """
        self.leash.check()
        for lock in self.locks:
            lock.check()

    def require(self, seconds: float) -> None:
        """Return only if the item's lease outlasts `seconds` and the locks are held now.

        Raises:
            LockLostError: A lock is lost.
            StagefleetError: As `Leash.require` of the item's lease raises.
        """
        self.leash.require(seconds)
        self.check()

    def waiting(self, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
        return waiting(self.leash, seconds, host, text)


class StageLocks:
    """Locks on stages.

    Args:
        locks: The fleet's locks.
        host: The host of `docker-daemon` addresses.
    """

    def __init__(self, locks: LockManager, *, host: str = "") -> None:
        self._locks = locks
        self._host = host

    @contextmanager
    def copying(
        self,
        source: Repository | DockerDaemon,
        destination: Repository | DockerDaemon,
        stage_id: StageId,
        *,
        run: str,
        leash: Leash,
    ) -> Iterator[Turn]:
        """Lock a stage for a copy.

        Raises:
            LockTimeoutError: Others held it for too long.
        """
        wanted = {self._name(source, stage_id): True, self._name(destination, stage_id): False}
        with self._take(wanted, run, leash) as turn:
            yield turn

    @contextmanager
    def alone(
        self, place: Repository | DockerDaemon, *stage_ids: StageId, run: str, leash: Leash
    ) -> Iterator[Turn]:
        """Lock stages exclusively: to delete them, or to build one from other images.

        Raises:
            LockTimeoutError: One was being copied for too long.
        """
        wanted = {self._name(place, stage_id): False for stage_id in stage_ids}
        with self._take(wanted, run, leash) as turn:
            yield turn

    @contextmanager
    def if_free(
        self, place: Repository | DockerDaemon, stage_id: StageId, *, run: str, leash: Leash
    ) -> Iterator[Turn | None]:
        """Lock a stage exclusively if nobody has locked it; yield None otherwise."""
        wanted = {self._name(place, stage_id): False}
        with self._locks.take_free(wanted, label=f"{default_label()}, run {run}") as held:
            yield Turn(leash, tuple(held), has_waited=False) if held else None

    @contextmanager
    def _take(self, wanted: dict[str, bool], run: str, leash: Leash) -> Iterator[Turn]:
        """Acquire locks: nearly always in one step."""
        label = f"{default_label()}, run {run}"
        with self._locks.take_free(wanted, label=label) as held:
            if held:
                yield Turn(leash, tuple(held), has_waited=False)
                return
        with self._await(wanted, label, leash) as turn:
            yield turn

    @contextmanager
    def _await(self, wanted: dict[str, bool], label: str, leash: Leash) -> Iterator[Turn]:
        """Acquire locks one after another, in the order of their names, so that callers never deadlock."""
        told = ExitStack()

        def note_wait(info: LockInfo) -> None:
            holders = [holder.label for holder in info.holders]
            _log.info("stage_awaited", action="await", lock=info.name, holders=holders)
            text = f"the lock {info.name}, which {', '.join(holders) or 'another'} has"
            told.enter_context(waiting(leash, self._locks.longest_wait_seconds, "", text))

        with ExitStack() as held:
            locks = []
            for name in sorted(wanted):
                with told:
                    lock = self._locks.acquire(
                        name, shared=wanted[name], on_wait=note_wait, label=label, check=leash.check
                    )
                locks.append(held.enter_context(lock))
            yield Turn(leash, tuple(locks), has_waited=True)

    def _name(self, place: Repository | DockerDaemon, stage_id: StageId) -> str:
        where = f"{self._host}/{place}" if isinstance(place, DockerDaemon) else str(place)
        return f"stage/{where}/{stage_id.digest}"
