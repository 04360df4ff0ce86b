"""Shared and exclusive leases with fencing tokens."""

from stagefleet.locks.implementations import MemoryLocks, RedisLocks
from stagefleet.locks.manager import HeldLock, LockHolder, LockInfo, LockManager, OnWait, default_label

__all__ = [
    "HeldLock",
    "LockHolder",
    "LockInfo",
    "LockManager",
    "MemoryLocks",
    "OnWait",
    "RedisLocks",
    "default_label",
]
