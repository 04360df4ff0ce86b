"""The keys of a fleet in Redis: all of them, with their types and lifetimes.

The Lua scripts build the same names; tests hold them, and the table of `docs/operations.md`, against these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"[A-Z]+")


@dataclass(frozen=True, slots=True)
class RedisKey:
    """A kind of keys in Redis, of a type or a channel; `lifetime` says when it goes, "" for what is kept.

    A word in capitals in its pattern, which follows the fleet's prefix, stands for a name.
    """

    pattern: str
    type: str
    lifetime: str = ""

    def of(self, prefix: str, *names: str) -> str:
        """Return the key for some names, in the order of the pattern's words."""
        values = iter(names)
        return prefix + _NAME.sub(lambda _: next(values), self.pattern)


_RETENTION = "`runs.retention_seconds` after the run's end"
_END = "the end of the run"
_EMPTY = "its last entry"
_CACHED = "`caches.lifetime_seconds` after the last change"
_LISTED = "`caches.list_lifetime_seconds` after the last listing"

RUN = RedisKey("run:RUN", "hash", _RETENTION)
RUN_ITEMS = RedisKey("run:RUN:items", "hash", _RETENTION)
RUN_OUTCOMES = RedisKey("run:RUN:outcomes", "stream", _RETENTION)
# "book" is the word of older releases, whose workers share it with ours.
SHARED_STATE = RedisKey("book:RUN", "hash", "the end of the run, or 6 h after its last use")
RUNS = RedisKey("runs", "zset")
LIVE_RUNS = RedisKey("live", "zset")
RUN_OF_KEY = RedisKey("key:KEY", "string", _RETENTION)
WORKERS = RedisKey("workers", "hash")
SWEPT = RedisKey("swept", "string")
COUNTERS = RedisKey("counters", "hash")
PING = RedisKey("ping", "string", "a second")
QUEUE = RedisKey("mq:QUEUE", "list", _EMPTY)
LOCK_WAKE = RedisKey("lock-wake:TICKET", "channel", "the wait")
DESCRIPTIONS = RedisKey("descriptions:STORAGE", "hash", _CACHED)
TAG_LIST = RedisKey("tag-list:STORAGE", "hash", _LISTED)
TAG_LISTS = RedisKey("tag-lists", "zset", _LISTED)
REJECTIONS = RedisKey("rejections:STORAGE", "hash", "a day after its first entry")
LAST_USED = RedisKey("last-used:HOST", "zset", _CACHED)

KEYS = (
    RUN,
    RUN_ITEMS,
    RedisKey("run:RUN:published", "zset", _END),
    RedisKey("run:RUN:leases", "zset", _END),
    RedisKey("run:RUN:claims", "hash", _END),
    RedisKey("run:RUN:waiting", "zset", _END),
    RedisKey("run:RUN:behind", "zset", _END),
    RedisKey("run:RUN:tries", "hash", _END),
    RUN_OUTCOMES,
    SHARED_STATE,
    RUNS,
    LIVE_RUNS,
    RedisKey("live:QUEUE", "zset", _EMPTY),
    RUN_OF_KEY,
    WORKERS,
    RedisKey("slots:QUEUE", "string", "the end of its last worker's heartbeat"),
    RedisKey("overtaking:QUEUE", "string", "a day after the last claim"),
    SWEPT,
    RedisKey("callbacks", "zset"),
    COUNTERS,
    RedisKey("lead:ROLE", "string", "the end of the role"),
    PING,
    RedisKey("none", "none", "never written"),
    QUEUE,
    RedisKey("lock:LOCK:holders", "zset", _EMPTY),
    RedisKey("lock:LOCK:queue", "zset", _EMPTY),
    RedisKey("lock:LOCK:patience", "zset", _EMPTY),
    RedisKey("lock:LOCK:tickets", "hash", _EMPTY),
    RedisKey("lock:fence", "string"),
    RedisKey("locks", "zset"),
    LOCK_WAKE,
    DESCRIPTIONS,
    RedisKey("described-changes:STORAGE", "zset", "2 min after the last change"),
    TAG_LIST,
    TAG_LISTS,
    REJECTIONS,
    LAST_USED,
)
