"""Locks in memory, for tests and for embedded commands without other processes."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stagefleet.locks.lock_wait import default_label, wait_for
from stagefleet.locks.protocol import LockHolder, LockInfo, OnWait
from stagefleet.locks.renewer import LockRenewer, RenewedLock
from stagefleet.settings import LockSettings

__all__ = ["MemoryLocks"]


@dataclass(slots=True)
class _Ticket:
    id: str
    label: str
    shared: bool
    until: float
    fence: int = 0


class MemoryLocks:
    """`LockManager` for one process.

    Args:
        settings: Leases and waits; the defaults if None.
        clock: Returns seconds; a test may pass one that it controls.
    """

    def __init__(
        self, settings: LockSettings | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = LockSettings() if settings is None else settings
        self._clock = clock
        self._changed = threading.Condition()
        self._tickets: dict[str, list[_Ticket]] = {}
        self._number = 0
        self._changes = 0
        self._renewer = LockRenewer(
            self._renew,
            self._release,
            lease_seconds=self._settings.lease_seconds,
            renewal_seconds=self._settings.renewal_seconds,
        )

    def close(self) -> None:
        self._renewer.close()

    @property
    def longest_wait_seconds(self) -> float:
        return self._settings.wait_seconds

    def acquire(
        self,
        name: str,
        *,
        shared: bool = False,
        wait_seconds: float | None = None,
        on_wait: OnWait | None = None,
        label: str | None = None,
        check: Callable[[], None] | None = None,
    ) -> RenewedLock:
        ticket, asked_at, seen = secrets.token_hex(8), 0.0, 0

        def attempt() -> int:
            nonlocal asked_at, seen
            asked_at, seen = time.monotonic(), self._changes
            return self._attempt(name, ticket, label or default_label(), shared=shared)

        def nap(seconds: float) -> None:
            with self._changed:
                self._changed.wait_for(lambda: self._changes != seen, seconds)

        try:
            fence = wait_for(
                attempt,
                nap,
                lambda: self._info_of(name),
                wait_seconds=self._settings.wait_seconds if wait_seconds is None else wait_seconds,
                lease_seconds=self._settings.lease_seconds,
                on_wait=on_wait,
                check=check,
            )
        except BaseException:
            self.force_release(name, ticket)
            raise
        return self._renewer.add(name, ticket, fence, asked_at)

    @contextmanager
    def acquire_free(
        self, wanted: Mapping[str, bool], *, label: str | None = None
    ) -> Iterator[list[RenewedLock]]:
        ticket, asked_at = secrets.token_hex(8), time.monotonic()
        with self._changed:
            is_free = all(
                shared and entry.shared for name, shared in wanted.items() for entry in self._live(name)
            )
            fences = {
                name: self._attempt(name, ticket, label or default_label(), shared=shared)
                for name, shared in wanted.items()
                if is_free
            }
        with self._renewer.releasing(
            self._renewer.add(name, ticket, fence, asked_at) for name, fence in fences.items()
        ) as held:
            yield held

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

    def _attempt(self, name: str, ticket: str, label: str, *, shared: bool) -> int:
        with self._changed:
            entries = self._live(name)
            mine = next((entry for entry in entries if entry.id == ticket), None)
            until = self._clock() + self._settings.lease_seconds
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

    def _renew(self, holds: Sequence[RenewedLock]) -> list[bool]:
        with self._changed:
            answers = []
            for hold in holds:
                mine = [entry for entry in self._live(hold.name) if entry.id == hold.ticket and entry.fence]
                for entry in mine:
                    entry.until = self._clock() + self._settings.lease_seconds
                answers.append(bool(mine))
            return answers

    def _release(self, holds: Sequence[RenewedLock]) -> None:
        for hold in holds:
            self.force_release(hold.name, hold.ticket)
