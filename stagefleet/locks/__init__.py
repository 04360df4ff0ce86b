"""Shared and exclusive leases with fencing tokens."""

from stagefleet.locks.manager import HeldLock, LockHolder, LockInfo, LockManager, OnWait, default_label
from stagefleet.locks.memory_locks import MemoryLocks
from stagefleet.locks.redis_locks import RedisLocks

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
