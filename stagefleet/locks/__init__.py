"""Shared and exclusive leases with fencing tokens."""

from stagefleet.locks.memory_locks import MemoryLocks
from stagefleet.locks.protocol import HeldLock, LockHolder, LockInfo, LockManager, OnWait
from stagefleet.locks.redis_locks import RedisLocks

__all__ = ["HeldLock", "LockHolder", "LockInfo", "LockManager", "MemoryLocks", "OnWait", "RedisLocks"]
