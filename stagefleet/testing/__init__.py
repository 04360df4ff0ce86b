"""Doubles for tests, ours and those of users: what they promise is what the real parts promise."""

from stagefleet.testing.last_used import MemoryLastUsed
from stagefleet.testing.ledger import MemoryLedger, Message

__all__ = ["MemoryLastUsed", "MemoryLedger", "Message"]
