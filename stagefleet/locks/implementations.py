"""The locks of a fleet in its Redis, and locks in the memory of one process."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagefleet import redis_client, redis_keys
from stagefleet.locks.manager import HeldLock, LockHolder, LockInfo, LockManager
from stagefleet.settings import LockSettings, Settings

if TYPE_CHECKING:
    import redis


class RedisLocks(LockManager):
    """The locks of a fleet: each step is one Lua script in `lua/`; `lua/common.lua` explains the keys."""

    def __init__(self, client: redis.Redis, *, prefix: str, settings: LockSettings) -> None:
        super().__init__(settings)
        self.scripts = redis_client.RedisScripts(client, "stagefleet.locks", prefix=prefix)
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._lease_ms = redis_client.milliseconds(settings.lease_seconds)

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> RedisLocks:
        """Create the locks for a URL, connected at the first call; `SettingsError` if it is malformed."""
        return cls(redis_client.connect_redis(redis_url), prefix=settings.key_prefix, settings=settings.locks)

    def close(self) -> None:
        super().close()
        self._redis.close()

    def locks(self) -> list[LockInfo]:
        return [_info(*entry) for entry in json.loads(self.scripts.call("lock_info"))]

    def force_release(self, name: str, ticket: str | None = None) -> int:
        return int(self.scripts.call("release", name, ticket or ""))

    def _request(self, name: str, ticket: str, label: str, *, shared: bool) -> int:
        mode, lease_ms = "1" if shared else "", self._lease_ms
        return int(self.scripts.call("acquire", name, ticket, mode, label, lease_ms, lease_ms))

    def _request_free(self, wanted: Mapping[str, bool], ticket: str, label: str) -> Sequence[int]:
        pairs = ((name, "1" if shared else "") for name, shared in wanted.items())
        fences = self.scripts.call("acquire_free", ticket, label, self._lease_ms, *itertools.chain(*pairs))
        return [int(fence) for fence in fences]

    @contextmanager
    def _changes_for(self, ticket: str) -> Iterator[Callable[[float], None]]:
        subscription: Any = None

        def nap(seconds: float) -> None:
            nonlocal subscription
            with redis_client.map_redis_errors(self._redis):
                if subscription is None:
                    subscription = self._redis.pubsub(ignore_subscribe_messages=True)
                    subscription.subscribe(redis_keys.LOCK_WAKE.of(self._prefix, ticket))
                    return  # the next attempt sees changes from before the subscription
                subscription.get_message(timeout=seconds)

        try:
            yield nap
        finally:
            if subscription is not None:
                subscription.close()

    def _info_of(self, name: str) -> LockInfo:
        found = json.loads(self.scripts.call("lock_info", name))
        return _info(*found[0]) if found else LockInfo(name)

    def _renew(self, locks: Sequence[HeldLock]) -> list[bool]:
        return [bool(answer) for answer in self.scripts.call("renew", self._lease_ms, *_pairs(locks))]

    def _release(self, locks: Sequence[HeldLock]) -> None:
        self.scripts.call("release", *_pairs(locks))

    def _releasing(self, locks: Sequence[HeldLock]) -> redis_client.DeferredCall | None:
        def done(answer: Any) -> None:
            ended = self._renewer.end(locks)
            if isinstance(answer, Exception):
                self._renewer.note_failure(ended, answer)

        return redis_client.DeferredCall(
            prepare=lambda: self.scripts.prepare("release", *_pairs(locks)),
            done=done,
            instead=lambda: self._renewer.release_all(locks),
            follows=True,
        )


def _pairs(locks: Iterable[HeldLock]) -> Iterable[str]:
    return itertools.chain.from_iterable((lock.name, lock.ticket) for lock in locks)


def _info(name: str, holders: Sequence[Sequence[Any]], waiting: Sequence[Sequence[Any]]) -> LockInfo:
    return LockInfo(name, tuple(map(_holder, holders)), tuple(map(_holder, waiting)))


def _holder(entry: Sequence[Any]) -> LockHolder:
    ticket, label, shared, fence, left_ms = entry
    return LockHolder(ticket, label, shared=shared, fence=int(fence), seconds_left=left_ms / 1000)


@dataclass(slots=True)
class _Ticket:
    id: str
    label: str
    shared: bool
    until: float
    fence: int = 0


class MemoryLocks(LockManager):
    """The locks of one process, for tests and for embedded commands without other processes.

    A test may pass a `clock` that it controls, in seconds.
    """

    def __init__(
        self, settings: LockSettings | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(LockSettings() if settings is None else settings)
        self._clock = clock
        self._changed = threading.Condition()
        self._tickets: dict[str, list[_Ticket]] = {}
        self._number = 0
        self._changes = 0

    def locks(self) -> list[LockInfo]:
        with self._changed:
            infos = map(self._info_of, sorted(self._tickets))
            return [info for info in infos if info.holders or info.waiting]

    def force_release(self, name: str, ticket: str | None = None) -> int:
        with self._changed:
            before = self._live(name)
            kept = [entry for entry in before if (entry.fence == 0 if ticket is None else entry.id != ticket)]
            self._keep(name, kept)
            self._wake_next()
            return len(before) - len(kept)

    def _request(self, name: str, ticket: str, label: str, *, shared: bool) -> int:
        with self._changed:
            entries = self._live(name)
            mine = next((entry for entry in entries if entry.id == ticket), None)
            until = self._clock() + self._lease_seconds
            if mine is None:
                mine = _Ticket(ticket, label, shared, until)
                entries.append(mine)
            mine.until = until
            self._keep(name, entries)
            if mine.fence:
                return mine.fence
            ahead = [entry for entry in entries if entry.fence] + entries[: entries.index(mine)]
            if any(not (shared and entry.shared) for entry in ahead):
                return 0
            self._number += 1
            mine.fence = self._number
            if shared:
                self._wake_next()  # the next in the queue may share it, too
            return mine.fence

    def _request_free(self, wanted: Mapping[str, bool], ticket: str, label: str) -> Sequence[int]:
        with self._changed:
            is_free = all(
                shared and entry.shared for name, shared in wanted.items() for entry in self._live(name)
            )
            pairs = wanted.items() if is_free else ()
            return [self._request(name, ticket, label, shared=shared) for name, shared in pairs]

    @contextmanager
    def _changes_for(self, ticket: str) -> Iterator[Callable[[float], None]]:  # noqa: ARG002 - all wake up
        seen = self._changes

        def nap(seconds: float) -> None:
            nonlocal seen
            with self._changed:
                self._changed.wait_for(lambda: self._changes != seen, seconds)
                seen = self._changes

        yield nap

    def _wake_next(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    def _live(self, name: str) -> list[_Ticket]:
        now = self._clock()
        return [entry for entry in self._tickets.get(name, ()) if entry.until > now]

    def _keep(self, name: str, entries: list[_Ticket]) -> None:
        if entries:
            self._tickets[name] = entries
        else:
            self._tickets.pop(name, None)

    def _info_of(self, name: str) -> LockInfo:
        with self._changed:
            now, entries = self._clock(), self._live(name)
            told = [
                LockHolder(entry.id, entry.label, entry.shared, entry.fence, entry.until - now)
                for entry in entries
            ]
        holders = tuple(entry for entry in told if entry.fence)
        return LockInfo(name, holders, waiting=tuple(entry for entry in told if not entry.fence))

    def _renew(self, locks: Sequence[HeldLock]) -> list[bool]:
        with self._changed:
            answers = []
            for lock in locks:
                mine = [entry for entry in self._live(lock.name) if entry.id == lock.ticket and entry.fence]
                for entry in mine:
                    entry.until = self._clock() + self._lease_seconds
                answers.append(bool(mine))
            return answers

    def _release(self, locks: Sequence[HeldLock]) -> None:
        for lock in locks:
            self.force_release(lock.name, lock.ticket)
