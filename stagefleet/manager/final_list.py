"""What a final storage has: listed once a run, and kept up to date by what is published."""

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
    """The stages of a final storage, as a run sees them; from many threads.

    Args:
        listed: What the storage had when the run began.
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
        """Note a stage that was published."""
        with self._lock:
            self._added.add(stage_id)


class FinalLists:
    """The lists of the runs under way; from many threads.

    One worker reads the tags, and the run's book gives them to all. What another worker has published since
    is not on the list here: a look at the storage before each copy finds it there.

    Args:
        client: Speaks to registries.
        book: Where the workers of a run share what they find out.
        memory: What is remembered of storages.
    """

    def __init__(self, client: RegistryClient, book: SharedBook, memory: StageMemory) -> None:
        self._client = client
        self._book = book
        self._memory = memory
        self._lock = Lock()
        self._lists: OrderedDict[tuple[str, Repository], FinalList] = OrderedDict()

    def of(self, run: str, final: Repository, leash: Leash) -> FinalList:
        """The list of one run."""
        name = (run, final)
        with self._lock:
            found = self._lists.get(name)
            if found is not None:
                self._lists.move_to_end(name)
                return found
        listed = self._read(run, final, leash)
        with self._lock:
            # Another thread may have been as fast: all have to add to the same list.
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
