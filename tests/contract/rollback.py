"""A ledger that forgets its last writes, as Redis does in a failover to a replica that lags.

What a snapshot keeps is all that the ledger knows at one moment; `restore` makes it know nothing else, as if
every later write had never been. Each write is one script, and so is there as a whole or not at all.
"""

from __future__ import annotations

import copy
from typing import Any

from stagefleet.testing import MemoryLedger

__all__ = ["restore_memory", "restore_redis", "snapshot_memory", "snapshot_redis"]

_MEMORY_FIELDS = (
    "records",
    "live",
    "finished",
    "keys",
    "workers",
    "leaders",
    "overtaking",
    "swept_at",
)


def snapshot_redis(client: Any, prefix: str) -> dict[bytes, tuple[bytes, int]]:
    """Keep all keys with a prefix, with the milliseconds that each has left (0: no end)."""
    keys = list(client.scan_iter(f"{prefix}*", count=1000))
    with client.pipeline(transaction=True) as pipe:
        for key in keys:
            pipe.dump(key)
            pipe.pttl(key)
        answers = pipe.execute()
    return {
        key: (answers[2 * n], max(0, answers[2 * n + 1]))
        for n, key in enumerate(keys)
        if answers[2 * n] is not None  # it has ended between SCAN and DUMP
    }


def restore_redis(client: Any, prefix: str, snapshot: dict[bytes, tuple[bytes, int]]) -> None:
    """Bring back what a snapshot has, and nothing else."""
    keys = list(client.scan_iter(f"{prefix}*", count=1000))
    with client.pipeline(transaction=True) as pipe:
        if keys:
            pipe.delete(*keys)
        for key, (value, milliseconds) in snapshot.items():
            pipe.restore(key, milliseconds, value)
        pipe.execute()


def snapshot_memory(ledger: MemoryLedger) -> dict[str, Any]:
    """Keep all that a ledger in memory knows, its messages included."""
    known = {name: getattr(ledger._runs, name) for name in _MEMORY_FIELDS}
    return copy.deepcopy(known | {"broker": list(ledger.broker)})


def restore_memory(ledger: MemoryLedger, snapshot: dict[str, Any]) -> None:
    """Bring back what a snapshot has, and nothing else."""
    kept = copy.deepcopy(snapshot)
    ledger.broker.clear()
    ledger.broker.extend(kept.pop("broker"))
    for name, value in kept.items():
        setattr(ledger._runs, name, value)
