"""Cache of descriptions: one look-up serves all workers and clients of a fleet.

An entry is dropped when its stage is deleted or rejected, and replaced when the fleet writes a stage under
its name. Another process may have read the old stage just before and be about to store that. So for a while
after a change only the process that made it may store a description.

A lost entry costs one request to the registry. So the cache drops random entries to stay bounded, and reads
ignore an unreachable Redis. A change that cannot be stored is an error: the old entry would stay for weeks.
"""

from __future__ import annotations

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

from pydantic import ValidationError

from stagefleet.bounds import compress_json, decompress_json
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.names import StageId
from stagefleet.redis_client import milliseconds
from stagefleet.redis_keys import DESCRIPTIONS
from stagefleet.settings import SharedStateSettings
from stagefleet.shared_state.best_effort import BestEffortStore

_NAMES_A_CALL = 1000
_UNSETTLED_SECONDS = 120.0
"""Time after a change during which other processes' descriptions are refused; longer than a look-up takes."""


class DescriptionStore(ABC):
    """Bounded cache of descriptions, by storage and stage; thread-safe."""

    @abstractmethod
    def find(self, storage: str, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        """Return the cached descriptions of some stages of a storage, None for each that is not cached."""

    @abstractmethod
    def remember(self, storage: str, descriptions: Sequence[StageDescription]) -> None:
        """Store descriptions that were just read, except of stages that have just changed; never raises."""

    @abstractmethod
    def replace(self, storage: str, description: StageDescription) -> None:
        """Store the description of a stage that was just written into a storage.

        Raises:
            RedisUnreachableError: It was not stored: an old description may remain.
        """

    @abstractmethod
    def forget(self, storage: str, stage_ids: Sequence[StageId]) -> None:
        """Drop the descriptions of stages that were deleted, rejected or written again.

        Raises:
            RedisUnreachableError: They were not dropped: an old description may remain.
        """


class RedisDescriptions(BestEffortStore, DescriptionStore):
    """The cache of a fleet.

    Each storage has two keys: a hash from a stage's tag to its packed description, and a sorted set of recent
    changes, a stage's tag by the server's time in milliseconds.
    """

    _what, _keys = "descriptions", DESCRIPTIONS

    def find(self, storage: str, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        found: Sequence[bytes | None] = [None] * len(stage_ids)
        chunks = [stage_ids[n : n + _NAMES_A_CALL] for n in range(0, len(stage_ids), _NAMES_A_CALL)]
        if chunks:
            with self._calls():
                pipe = self._redis.pipeline(transaction=False)
                for chunk in chunks:
                    pipe.hmget(self._key(storage), [str(stage_id) for stage_id in chunk])
                found = [data for answer in pipe.execute() for data in answer]
        return [_decoded(stage_id, data) for stage_id, data in zip(stage_ids, found, strict=True)]

    def remember(self, storage: str, descriptions: Sequence[StageDescription]) -> None:
        if descriptions:
            with self._calls():
                pairs = ((entry.stage_id, _encoded(entry)) for entry in descriptions)
                self._write("remember_descriptions", storage, pairs)

    def replace(self, storage: str, description: StageDescription) -> None:
        self._write("change_descriptions", storage, [(description.stage_id, _encoded(description))])

    def forget(self, storage: str, stage_ids: Sequence[StageId]) -> None:
        if stage_ids:
            self._write("change_descriptions", storage, [(stage_id, b"") for stage_id in stage_ids])

    def _write(self, script: str, storage: str, pairs: Iterable[tuple[StageId, bytes]]) -> None:
        times = map(milliseconds, (_UNSETTLED_SECONDS, self._settings.lifetime_seconds))
        entries = itertools.chain.from_iterable((str(stage_id), data) for stage_id, data in pairs)
        count = self.scripts.call(script, storage, *times, *entries)
        self._drop_surplus(self._key(storage), count)


class MemoryDescriptions(DescriptionStore):
    """The cache of this process, for embedded commands and tests."""

    def __init__(
        self, settings: SharedStateSettings | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._entries = (SharedStateSettings() if settings is None else settings).entries
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, dict[StageId, StageDescription]] = {}
        self._changed: dict[tuple[str, StageId], float] = {}

    def find(self, storage: str, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        with self._lock:
            known: Mapping[StageId, StageDescription] = self._known.get(storage, {})
            return [known.get(stage_id) for stage_id in stage_ids]

    def remember(self, storage: str, descriptions: Sequence[StageDescription]) -> None:
        with self._lock:
            self._settle()
            for entry in descriptions:
                if (storage, entry.stage_id) not in self._changed:
                    self._keep(storage, entry)

    def replace(self, storage: str, description: StageDescription) -> None:
        with self._lock:
            self._note_change(storage, description.stage_id)
            self._keep(storage, description)

    def forget(self, storage: str, stage_ids: Sequence[StageId]) -> None:
        with self._lock:
            for stage_id in stage_ids:
                self._note_change(storage, stage_id)
                self._known.get(storage, {}).pop(stage_id, None)

    def _keep(self, storage: str, description: StageDescription) -> None:
        known = self._known.setdefault(storage, {})
        known[description.stage_id] = description.bounded()
        while len(known) > self._entries:
            del known[next(iter(known))]

    def _note_change(self, storage: str, stage_id: StageId) -> None:
        self._settle()
        self._changed.pop((storage, stage_id), None)  # the latest change is the last entry
        self._changed[storage, stage_id] = self._clock()

    def _settle(self) -> None:
        over = self._clock() - _UNSETTLED_SECONDS
        while self._changed and next(iter(self._changed.values())) <= over:
            del self._changed[next(iter(self._changed))]


def _encoded(description: StageDescription) -> bytes:
    return compress_json(description.bounded().info.model_dump_json(exclude_defaults=True).encode())


def _decoded(stage_id: StageId, data: bytes | None) -> StageDescription | None:
    if data is None:
        return None
    try:
        info = ImageInfo.model_validate_json(decompress_json(data))
    except (ValueError, ValidationError):
        return None  # of another version: read again
    return StageDescription(stage_id=stage_id, info=info)
