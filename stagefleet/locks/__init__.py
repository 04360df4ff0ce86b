"""Shared and exclusive leases with fencing tokens."""

from stagefleet.locks.held_lock import HeldLock
from stagefleet.locks.manager import LockHolder, LockInfo, LockManager, OnWait, default_label
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
