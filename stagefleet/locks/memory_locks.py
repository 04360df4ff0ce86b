"""Locks in memory, for tests and for embedded commands without other processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stagefleet.locks.manager import HeldLock, LockHolder, LockInfo, LockManager
from stagefleet.settings import LockSettings


@dataclass(slots=True)
class _Ticket:
    id: str
    label: str
    shared: bool
    until: float
    fence: int = 0


class MemoryLocks(LockManager):
    """The locks of one process.

    Args:
        settings: Leases and waits; the defaults if None.
        clock: Returns seconds; a test may pass one that it controls.
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
            return [
                info for info in map(self._info_of, sorted(self._tickets)) if info.holders or info.waiting
            ]

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
            ahead = [entry for entry in entries if entry.fence] + [
                entry for entry in entries[: entries.index(mine)] if not entry.fence
            ]
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
        return LockInfo(
            name,
            tuple(entry for entry in told if entry.fence),
            tuple(entry for entry in told if not entry.fence),
        )

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
