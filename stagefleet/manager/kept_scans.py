"""Results of reference scans, kept in one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

from stagefleet.clock import elapsed_seconds
from stagefleet.manager.tag_tables import KnownTags
from stagefleet.names import Repository

__all__ = ["KeptScans", "Latest"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_LARGE_VALUES = 2
_SLOW_SECONDS = 300.0


class Latest(Generic[K, V]):
    """The latest of some values, by key; thread-safe.

    Args:
        most: Number of values to keep.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._values: OrderedDict[K, V] = OrderedDict()

    def find(self, key: K) -> V | None:
        """Return the value of a key, None if it is not kept."""
        with self._lock:
            return self._values.get(key)

    def values(self) -> list[V]:
        """Return the kept values, the oldest first."""
        with self._lock:
            return list(self._values.values())

    def keep(self, key: K, value: V) -> None:
        """Keep a value; drop the oldest."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


class KeptScans:
    """Data that reference scans keep from one item to the next, in small number and size.

    Attributes:
        known: Tags that were read, by reference scan.
        listings: Tags of the last listing and its time, by repository.
    """

    def __init__(self) -> None:
        self.known: Latest[str, KnownTags] = Latest(_LARGE_VALUES)
        self.listings: Latest[Repository, tuple[KnownTags, float]] = Latest(_LARGE_VALUES)
        self._slow: Latest[tuple[str, Repository], float] = Latest(100)

    def is_slow(self, run_id: str, repository: Repository) -> bool:
        """Return True if a reference scan of a repository took too long recently."""
        return elapsed_seconds() < (self._slow.find((run_id, repository)) or 0.0)

    def note_slow(self, run_id: str, repository: Repository) -> None:
        """Record that a reference scan of a repository takes too long; it is tried again minutes later."""
        self._slow.keep((run_id, repository), elapsed_seconds() + _SLOW_SECONDS)
