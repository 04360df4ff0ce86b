"""Locks on stages: in the whole fleet one copy of a stage into one place at a time, no deletion meanwhile.

A copy has the destination's stage alone and shares the source's; a deletion has the stage alone. A lock is of
a place, a repository or a host's engine, and a stage's digest: builds of the same content, made at different
times, take turns.
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
    """What is held while one has one's turn at a stage; a leash that ends with its locks, too.

    Attributes:
        leash: What else holds the work back.
        locks: The locks.
        has_waited: Whether others were at it a moment before: what they did can be found there.
    """

    leash: Leash
    locks: tuple[HeldLock, ...]
    has_waited: bool

    def check(self) -> None:
        """See `Leash.check`.

        Raises:
            LockLostError: A lock is lost.
        """
        self.leash.check()
        for lock in self.locks:
            lock.check()

    def require(self, seconds: float) -> None:
        """See `Leash.require`: the item's lease has to outlast the write, the locks have to be held now.

        Raises:
            LockLostError: A lock is lost.
        """
        self.leash.require(seconds)
        self.check()

    def waiting(self, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
        return waiting(self.leash, seconds, host, text)


class StageLocks:
    """The turns at stages.

    Args:
        locks: The fleet's locks.
        host: Whose engine a `docker-daemon` address means.
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
        """Have the turn at copying a stage.

        Raises:
            LockTimeoutError: Others are at it for too long.
        """
        wanted = {self._name(source, stage_id): True, self._name(destination, stage_id): False}
        with self._take(wanted, run, leash) as turn:
            yield turn

    @contextmanager
    def alone(
        self, place: Repository | DockerDaemon, *stage_ids: StageId, run: str, leash: Leash
    ) -> Iterator[Turn]:
        """Have stages alone: to delete them, or to make one out of other images.

        Raises:
            LockTimeoutError: One is being copied for too long.
        """
        wanted = {self._name(place, stage_id): False for stage_id in stage_ids}
        with self._take(wanted, run, leash) as turn:
            yield turn

    @contextmanager
    def if_free(
        self, place: Repository | DockerDaemon, stage_id: StageId, *, run: str, leash: Leash
    ) -> Iterator[Turn | None]:
        """Have a stage alone if nobody is at it now; None if somebody is."""
        wanted = {self._name(place, stage_id): False}
        with self._locks.take_free(wanted, label=f"{default_label()}, run {run}") as held:
            yield Turn(leash, tuple(held), has_waited=False) if held else None

    @contextmanager
    def _take(self, wanted: dict[str, bool], run: str, leash: Leash) -> Iterator[Turn]:
        """Take locks: nearly always in one step."""
        label = f"{default_label()}, run {run}"
        with self._locks.take_free(wanted, label=label) as held:
            if held:
                yield Turn(leash, tuple(held), has_waited=False)
                return
        with self._await(wanted, label, leash) as turn:
            yield turn

    @contextmanager
    def _await(self, wanted: dict[str, bool], label: str, leash: Leash) -> Iterator[Turn]:
        """Take locks one after another, as all do in the order of names: so no two wait for each other."""
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
