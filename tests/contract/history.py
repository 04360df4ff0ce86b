"""What a ledger should say after any history: the promises as a model, without windows and messages.

The model knows neither what is published nor when; of that only the bounds are checked. Everything else -
states, counts, holders, fences, outcomes - it foretells.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from stagefleet.runs.ledger import Claim, RenewalResult
from stagefleet.runs.models import Callback, ItemState, RunSpec, RunState
from tests.contract.ledgers import LEASE_SECONDS

__all__ = ["ExpectedRun"]

Entry = tuple[str, ItemState, int]
"""Item, state and attempts of an outcome."""


@dataclass
class Holder:
    fence: int
    attempt: int
    until: float


@dataclass
class ExpectedRun:
    """One run; times are on the history's own clock, in seconds."""

    id: str
    spec: RunSpec
    items: list[str]
    decided: int
    coordinator_until: float
    epoch: int = 0
    state: RunState = RunState.RUNNING
    submitter_until: float = 0.0
    held: dict[int, Holder] = field(default_factory=dict)
    behind: dict[int, int] = field(default_factory=dict)
    lost_attempts: Counter[int] = field(default_factory=Counter)
    ends: dict[int, ItemState] = field(default_factory=dict)
    news: list[Entry] = field(default_factory=list)
    awaited: int = 0
    windowed: int = 0
    awaits: bool = False
    stops_now: bool = False
    paused: bool = False
    last_fence: int = 0
    created_at: float = 0.0
    swept_at: float | None = None

    def __post_init__(self) -> None:
        self.awaits = self.spec.callback is not Callback.NONE
        self.awaited = self.decided if self.awaits else 0
        self.settle()

    @property
    def pending(self) -> int:
        return len(self.items) - len(self.ends) - len(self.held)

    @property
    def shown(self) -> RunState:
        """The state that observers see."""
        return RunState.PAUSED if self.paused and self.state is RunState.RUNNING else self.state

    @property
    def takes_claims(self) -> bool:
        return not self.paused and self.state in {RunState.RUNNING, RunState.SUBMITTING}

    def append(self, items: list[str], skips: list[str], now: float) -> None:
        self.items += items
        self.decided += len(skips)
        self.news += [(item, ItemState.SKIPPED, 0) for item in skips]
        self.awaited += len(skips) if self.awaits else 0
        self.submitter_until = self.coordinator_until = now + LEASE_SECONDS

    def start(self, now: float) -> None:
        self.state, self.coordinator_until = RunState.RUNNING, now + LEASE_SECONDS
        self.settle()

    def count(self, state: ItemState) -> int:
        return sum(end is state for end in self.ends.values())

    def leftovers(self) -> list[str]:
        return [
            item for index, item in enumerate(self.items) if self.ends.get(index) is not ItemState.SUCCEEDED
        ]

    def claim(self, claim: Claim, now: float) -> None:
        """Check a claim that was given, and note it."""
        assert self.takes_claims
        assert claim.index not in self.held
        assert claim.index not in self.ends
        assert claim.index not in self.behind
        assert self.items[claim.index] == claim.item
        assert 1 + self.lost_attempts[claim.index] == claim.attempt
        assert claim.attempt <= self.spec.max_attempts
        assert claim.fence > self.last_fence
        self.last_fence = claim.fence
        self.held[claim.index] = Holder(claim.fence, claim.attempt, now + LEASE_SECONDS)

    def holds(self, claim: Claim) -> bool:
        holder = self.held.get(claim.index)
        return holder is not None and holder.fence == claim.fence

    def renew(self, claim: Claim, now: float) -> RenewalResult:
        if not self.holds(claim):
            return RenewalResult.LOST
        self.held[claim.index].until = now + LEASE_SECONDS
        return RenewalResult.CANCEL if self.stops_now else RenewalResult.RUN

    def finish(self, claim: Claim, state: ItemState, *, retries: bool) -> bool:
        if not self.holds(claim):
            return False
        holder = self.held.pop(claim.index)
        may_retry = holder.attempt < self.spec.max_attempts and self.state is not RunState.CANCELLING
        if state is ItemState.FAILED and retries and may_retry:
            self.lost_attempts[claim.index] += 1
        else:
            self.end(claim.index, state, holder.attempt)
        self.settle()
        return True

    def hand_back(self, claim: Claim, behind: int | None) -> bool:
        if not self.holds(claim):
            return False
        del self.held[claim.index]
        if behind is not None and behind not in self.ends and not self.is_ring(claim.index, behind):
            self.behind[claim.index] = behind
        self.drop_pending()
        self.settle()
        return True

    def is_ring(self, index: int, behind: int) -> bool:
        at: int | None = behind
        while at is not None and at != index:
            at = self.behind.get(at)
        return at == index

    def standing(self, index: int) -> ItemState | None:
        end = self.ends.get(index)
        if end is None or end is ItemState.SUCCEEDED:
            return end
        cancelled = self.state in {RunState.CANCELLING, RunState.CANCELLED}
        return ItemState.CANCELLED if cancelled else ItemState.FAILED

    def sweep(self, now: float, ledger_swept_at: float | None) -> None:
        if self.state.is_final:
            return
        if ledger_swept_at is None:
            since = now
        else:
            since = max(self.created_at, ledger_swept_at) if self.swept_at is None else self.swept_at
        self.swept_at = now
        if now - since > LEASE_SECONDS / 3:
            self.coordinator_until = self.submitter_until = now + LEASE_SECONDS
            for holder in self.held.values():
                holder.until = now + LEASE_SECONDS
        is_client = self.awaits and self.spec.callback is Callback.CLIENT
        is_client = is_client and not self.paused and self.coordinator_until <= now
        if self.submitter_until <= now if self.state is RunState.SUBMITTING else is_client:
            self.cancel(now=False, with_error=True)
        for index, holder in list(self.held.items()):
            if holder.until > now:
                continue
            del self.held[index]
            self.lost_attempts[index] += 1
            if self.state is not RunState.CANCELLING and holder.attempt >= self.spec.max_attempts:
                self.end(index, ItemState.FAILED, holder.attempt)
        self.drop_pending()
        self.settle()

    def set_paused(self, now: float, *, paused: bool) -> bool:
        has_changed, self.paused = self.paused is not paused, paused
        if has_changed and not paused:
            self.coordinator_until = now + LEASE_SECONDS
        return has_changed

    def cancel(self, *, now: bool, with_error: bool) -> bool:
        if self.state.is_final:
            return False
        self.state, self.paused = RunState.CANCELLING, False
        self.stops_now = self.stops_now or now
        if with_error:
            self.awaits, self.awaited, self.windowed = False, 0, 0
        self.drop_pending()
        self.settle()
        return True

    def acknowledge(self, entries: list[Entry], epoch: int, now: float) -> bool:
        if self.state.is_final or epoch != self.epoch:
            return False
        self.coordinator_until = now + LEASE_SECONDS
        if self.awaits:
            awaited = [entry for entry in entries if entry[1] is not ItemState.CANCELLED]
            self.awaited -= len(awaited)
            self.windowed -= sum(attempts > 0 for _, _, attempts in awaited)
        self.settle()
        return True

    def end(self, index: int, state: ItemState, attempts: int) -> None:
        assert index not in self.ends
        self.ends[index] = state
        self.behind = {waiting: other for waiting, other in self.behind.items() if other != index}
        self.news.append((self.items[index], state, attempts))
        if self.awaits and state is not ItemState.CANCELLED:
            self.awaited += 1
            self.windowed += 1

    def drop_pending(self) -> None:
        """In a run that is being cancelled nothing pends."""
        if self.state is RunState.CANCELLING:
            self.behind.clear()
            for index in range(len(self.items)):
                if index not in self.held:
                    self.ends.setdefault(index, ItemState.CANCELLED)

    def settle(self) -> None:
        is_open = self.state is RunState.SUBMITTING
        if self.state.is_final or is_open or self.held or self.pending or self.awaited:
            return
        if self.state is RunState.CANCELLING:
            self.state = RunState.CANCELLED
        else:
            self.state = RunState.FAILED if self.count(ItemState.FAILED) else RunState.SUCCEEDED
