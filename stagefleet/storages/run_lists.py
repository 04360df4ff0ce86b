"""Stages of a repository: listed once per run, and updated by the run's own copies into it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING, Any

from stagefleet.attempt import Attempt
from stagefleet.names import Repository, StageId
from stagefleet.shared_state.tag_lists import StageIdList

if TYPE_CHECKING:
    from stagefleet.storages.storages import Storages

_RUN_SECONDS = 24 * 3600
_WAIT_SECONDS = 600
_LISTS_KEPT = 8


class RunList:
    """Stages of a repository in one run; thread-safe."""

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
        """Add a stage that the run has copied."""
        with self._lock:
            self._added.add(stage_id)


class RunLists:
    """Lists of the runs under way; thread-safe.

    One worker reads the tags, and shares them through the run's shared state. Later copies by other workers
    are not on this list: a check of the storage before each copy finds them.
    """

    def __init__(self, storages: Storages) -> None:
        self._storages = storages
        self._lock = Lock()
        self._lists: OrderedDict[tuple[str, Repository], RunList] = OrderedDict()

    def of(self, repository: Repository, attempt: Attempt) -> RunList:
        """Return the list of the attempt's run."""
        name = (attempt.run_id, repository)
        with self._lock:
            found = self._lists.get(name)
            if found is not None:
                self._lists.move_to_end(name)
                return found
        listed = self._read(repository, attempt)
        with self._lock:
            # Another thread may have created it meanwhile: all have to add to the same list.
            made = self._lists.setdefault(name, RunList(map(StageId.parse, listed)))
            while len(self._lists) > _LISTS_KEPT:
                self._lists.popitem(last=False)
            return made

    def _read(self, repository: Repository, attempt: Attempt) -> Any:
        storage = self._storages.open(repository)
        return self._storages.registries.shared_state.get_or_compute(
            attempt.run_id,
            f"final {repository}",
            lambda: [str(stage_id) for stage_id in storage.stage_ids()],
            ttl_seconds=_RUN_SECONDS,
            wait_seconds=_WAIT_SECONDS,
            lease=attempt.lease,
        )
