"""Stages of a final storage: listed once per run, and updated by the run's publications."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import Any

from stagefleet.leases import Lease
from stagefleet.names import Repository, StageId
from stagefleet.registry import RegistryClient
from stagefleet.shared_state.base import SharedState
from stagefleet.shared_state.id_list import StageIdList
from stagefleet.storages.remembered_stages import RememberedStages
from stagefleet.storages.repository import RegistryStorage

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

    One worker reads the tags, and shares them through the run's shared state. Later publications by other
    workers are not on this list: a check of the storage before each copy finds them.

    Args:
        client: Client for registries.
        shared_state: The shared state.
        memory: The fleet's memory of storages.
    """

    def __init__(self, client: RegistryClient, shared_state: SharedState, memory: RememberedStages) -> None:
        self._client = client
        self._shared_state = shared_state
        self._remembered = memory
        self._lock = Lock()
        self._lists: OrderedDict[tuple[str, Repository], FinalList] = OrderedDict()

    def of(self, run_id: str, final: Repository, lease: Lease) -> FinalList:
        """Return the list of one run."""
        name = (run_id, final)
        with self._lock:
            found = self._lists.get(name)
            if found is not None:
                self._lists.move_to_end(name)
                return found
        listed = self._read(run_id, final, lease)
        with self._lock:
            # Another thread may have created it meanwhile: all have to add to the same list.
            made = self._lists.setdefault(name, FinalList(map(StageId.parse, listed)))
            while len(self._lists) > _LISTS_KEPT:
                self._lists.popitem(last=False)
            return made

    def _read(self, run_id: str, final: Repository, lease: Lease) -> Any:
        storage = RegistryStorage(self._client, final, known=self._remembered.rejections)
        return self._shared_state.get_or_compute(
            run_id,
            f"final {final}",
            lambda: [str(stage_id) for stage_id in storage.stage_ids()],
            ttl_seconds=_RUN_SECONDS,
            wait_seconds=_WAIT_SECONDS,
            lease=lease,
        )
