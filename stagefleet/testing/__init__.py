"""Test doubles, for our tests and those of users, that pass the same contract suites as the real parts."""

from stagefleet.shared_state.best_effort import MemoryLastUsed
from stagefleet.testing.fleet import InMemoryFleet, in_memory_fleet
from stagefleet.testing.ledger import MemoryLedger
from stagefleet.testing.memory_runs import Message
from stagefleet.testing.memory_worker import RemoteCall

__all__ = ["InMemoryFleet", "MemoryLastUsed", "MemoryLedger", "Message", "RemoteCall", "in_memory_fleet"]
