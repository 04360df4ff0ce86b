"""Test doubles, for our tests and those of users, that pass the same contract suites as the real parts."""

from stagefleet.shared_state.best_effort import MemoryLastUsed
from stagefleet.testing.ledger import MemoryLedger
from stagefleet.testing.memory_runs import Message

__all__ = ["MemoryLastUsed", "MemoryLedger", "Message"]
