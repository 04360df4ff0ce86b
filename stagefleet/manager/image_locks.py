"""Locks on the images of a host: while a job uses one, it is not removed.

A job holds a shared lock, a removal an exclusive one. The locks are leases: those of a dead job expire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stagefleet.errors import ImageInUseError, LockTimeoutError
from stagefleet.locks import HeldLock, LockManager, OnWait
from stagefleet.names import EngineProject, StageId, StorageAddress

__all__ = ["ImageLocks", "image_of"]


class ImageLocks:
    """Locks on one host's images.

    Args:
        locks: The fleet's locks.
        host: The host's name in the fleet.
    """

    def __init__(self, locks: LockManager, host: str) -> None:
        self._locks = locks
        self._host = host

    def lock_shared(
        self,
        image: str,
        *,
        on_wait: OnWait | None = None,
        check: Callable[[], None] | None = None,
    ) -> HeldLock:
        """Prevent the removal of an image while the lock is held; others may hold it, too.

        Args:
            image: Its name in the engine.
            on_wait: Called if it is being removed now.
            check: Called in the wait; its errors end the wait.

        Raises:
            LockTimeoutError: The removal takes too long.
        """
        return self._locks.acquire(self._name(image), shared=True, on_wait=on_wait, check=check)

    @contextmanager
    def lock_exclusively(self, image: str) -> Iterator[None]:
        """Prevent the use of an image by jobs while it is removed.

        Raises:
            ImageInUseError: A job holds it.
        """
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
    return f"{address.project}:{stage_id}" if isinstance(address, EngineProject) else f"{address}:{stage_id}"
