"""Locks on stages in storages, and on the images of a host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from stagefleet.attempt import Attempt
from stagefleet.errors import ImageInUseError, LockTimeoutError
from stagefleet.leases import Lease, check_run, note_bytes, note_progress, waiting
from stagefleet.locks import HeldLock, LockInfo, LockManager, OnWait, default_label
from stagefleet.logs import EventLogger
from stagefleet.names import Digest, StageId, StorageAddress
from stagefleet.redis_client import LastStep

# Locks on stages: one copy of a stage into one storage at a time, fleet-wide, and no deletion meanwhile.
#
# A copy locks the destination's stage exclusively and the source's shared; a deletion locks the stage
# exclusively. A lock is for a storage, a repository or a host's engine, and a stage's digest: builds of the
# same content, made at different times, exclude one another.

_log = EventLogger(__name__)


@dataclass(frozen=True, slots=True)
class StageLock:
    """Locks on a stage under way; a lease that also ends with its locks, by `LockLostError`.

    It `has_waited` if others held a lock before: the storage may have changed.
    """

    lease: Lease
    locks: tuple[HeldLock, ...]
    has_waited: bool

    def check(self) -> None:
        self.lease.check()
        for lock in self.locks:
            lock.check()

    def require(self, seconds: float) -> None:
        self.lease.require(seconds)
        self.check()

    def waiting(self, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
        return waiting(self.lease, seconds, host, text)

    def note_bytes(self, moved: int, expected: int = 0) -> None:
        note_bytes(self.lease, moved, expected)

    def note_progress(self, seconds: float, text: str) -> None:
        note_progress(self.lease, seconds, text)

    def check_run(self) -> None:
        check_run(self.lease)
        self.check()


class StageLocks:
    """Locks on stages; all but `try_...` raise `LockTimeoutError` if others hold one for too long.

    `host` is the host of `docker-daemon` addresses.
    """

    def __init__(self, locks: LockManager, *, host: str = "") -> None:
        self._locks = locks
        self._host = host

    def lock_for_copy(
        self,
        source: StorageAddress,
        destination: StorageAddress,
        stage_id: StageId,
        attempt: Attempt,
        last_step: LastStep | None = None,
    ) -> AbstractContextManager[StageLock]:
        """Lock a stage for a copy; the end of the block may leave the release to the item's last step."""
        wanted = {self._name(source, stage_id): True, self._name(destination, stage_id): False}
        return self._acquire(wanted, attempt, last_step)

    def lock_exclusively(
        self, address: StorageAddress, *stage_ids: StageId, attempt: Attempt
    ) -> AbstractContextManager[StageLock]:
        """Lock stages exclusively: to delete them, or to build one from other images."""
        wanted = {self._name(address, stage_id): False for stage_id in stage_ids}
        return self._acquire(wanted, attempt)

    def lock_referrers(
        self, address: StorageAddress, subject: Digest, attempt: Attempt
    ) -> AbstractContextManager[StageLock]:
        """Lock the list of a manifest's referrers, which is read, changed and written again."""
        return self._acquire({f"referrers/{address}/{subject}": False}, attempt)

    @contextmanager
    def try_lock_exclusively(
        self, address: StorageAddress, stage_id: StageId, attempt: Attempt
    ) -> Iterator[StageLock | None]:
        """Lock a stage exclusively if nobody has locked it; yield None otherwise."""
        wanted = {self._name(address, stage_id): False}
        with self._locks.acquire_free(wanted, label=_label(attempt)) as held:
            yield StageLock(attempt.lease, tuple(held), has_waited=False) if held else None

    @contextmanager
    def _acquire(
        self, wanted: dict[str, bool], attempt: Attempt, last_step: LastStep | None = None
    ) -> Iterator[StageLock]:
        """Acquire locks: nearly always in one step."""
        label = _label(attempt)
        with self._locks.acquire_free(wanted, label=label, last_step=last_step) as held:
            if held:
                yield StageLock(attempt.lease, tuple(held), has_waited=False)
                return
        with self._await(wanted, label, attempt.lease) as stage_lock:
            yield stage_lock

    @contextmanager
    def _await(self, wanted: dict[str, bool], label: str, lease: Lease) -> Iterator[StageLock]:
        """Acquire locks one after another, in the order of their names, so that callers never deadlock."""
        told = ExitStack()

        def note_wait(info: LockInfo) -> None:
            holders = [holder.label for holder in info.holders]
            _log.info("stage_awaited", action="await", lock=info.name, holders=holders)
            text = f"the lock {info.name}, which {', '.join(holders) or 'another'} has"
            told.enter_context(waiting(lease, self._locks.longest_wait_seconds, "", text))

        with ExitStack() as held:
            locks = []
            for name in sorted(wanted):
                with told:
                    lock = self._locks.acquire(
                        name, shared=wanted[name], on_wait=note_wait, label=label, check=lease.check
                    )
                locks.append(held.enter_context(lock))
            yield StageLock(lease, tuple(locks), has_waited=True)

    def _name(self, address: StorageAddress, stage_id: StageId) -> str:
        where = f"{self._host}/{address}" if address.is_on_host else str(address)
        return f"stage/{where}/{stage_id.digest}"


def _label(attempt: Attempt) -> str:
    return f"{default_label()}, run {attempt.run_id}"


# Locks on the images of a host: while a job uses one, it is not removed.
#
# A job holds a shared lock, a removal an exclusive one. The locks are leases: those of a dead job expire.


class ImageLocks:
    """Locks on one host's images."""

    def __init__(self, locks: LockManager, host: str) -> None:
        self._locks = locks
        self._host = host

    def lock_shared(
        self, image: str, *, on_wait: OnWait | None = None, check: Callable[[], None] | None = None
    ) -> HeldLock:
        """Prevent the removal of an image, as others may; `LockTimeoutError` if one takes too long."""
        return self._locks.acquire(self._name(image), shared=True, on_wait=on_wait, check=check)

    @contextmanager
    def lock_exclusively(self, image: str) -> Iterator[None]:
        """Prevent the use of an image by jobs while it is removed; `ImageInUseError` if a job holds it."""
        try:
            lock = self._locks.acquire(self._name(image), wait_seconds=0)
        except LockTimeoutError as error:
            raise ImageInUseError(
                f"{image} on {self._host} is in use: {error}; wait for that job, or use --skip-used"
            ) from error
        with lock:
            yield

    def _name(self, image: str) -> str:
        return f"host/{self._host}/image/{image}"


def image_of(address: StorageAddress, stage_id: StageId) -> str:
    """Return the name of a stage's image in an engine."""
    return f"{address.image_name}:{stage_id}"
