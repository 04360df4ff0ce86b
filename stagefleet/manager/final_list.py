"""Stages of a final storage: listed once per run, and updated by the run's publications."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import Any

from stagefleet.manager.memory import StageMemory
from stagefleet.names import Repository, StageId
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.runs.book import SharedBook
from stagefleet.storages import RegistryStorage, StageIdList

__all__ = ["FinalList", "FinalLists"]

_RUN_SECONDS = 24 * 3600
_WAIT_SECONDS = 600
_LISTS_KEPT = 8


class FinalList:
    """Stages of a final storage in one run; thread-safe.

    Args:
        listed: The storage's stages at the beginning of the run.
    """

    def __init__(self, listed: Iterable[StageId]) -> None:
        self._listed = StageIdList(listed)
        self._lock = Lock()
        self._added: set[StageId] = set()

    def __contains__(self, stage_id: StageId) -> bool:
        if stage_id in self._listed:
            return True
        with self._lock:
            return stage_id in self._added

    def add(self, stage_id: StageId) -> None:
        """Add a published stage."""
        with self._lock:
            self._added.add(stage_id)


class FinalLists:
    """Lists of the runs under way; thread-safe.

    One worker reads the tags, and shares them through the run's book. Later publications by other workers are
    not on this list: a check of the storage before each copy finds them.

    Args:
        client: Client for registries.
        book: The shared book.
        memory: The fleet's memory of storages.
    """

    def __init__(self, client: RegistryClient, book: SharedBook, memory: StageMemory) -> None:
        self._client = client
        self._book = book
        self._memory = memory
        self._lock = Lock()
        self._lists: OrderedDict[tuple[str, Repository], FinalList] = OrderedDict()

    def of(self, run: str, final: Repository, leash: Leash) -> FinalList:
        """Return the list of one run."""
        name = (run, final)
        with self._lock:
            found = self._lists.get(name)
            if found is not None:
                self._lists.move_to_end(name)
                return found
        listed = self._read(run, final, leash)
        with self._lock:
            # Another thread may have created it meanwhile: all have to add to the same list.
            made = self._lists.setdefault(name, FinalList(map(StageId.parse, listed)))
            while len(self._lists) > _LISTS_KEPT:
                self._lists.popitem(last=False)
            return made

    def _read(self, run: str, final: Repository, leash: Leash) -> Any:
        storage = RegistryStorage(self._client, final, known=self._memory.rejections)
        return self._book.once(
            run,
            f"final {final}",
            lambda: [str(stage_id) for stage_id in storage.stage_ids()],
            ttl_seconds=_RUN_SECONDS,
            wait_seconds=_WAIT_SECONDS,
            leash=leash,
        )
