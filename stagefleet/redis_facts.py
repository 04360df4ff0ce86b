"""Facts about the server at the Redis URL: kind, version, role, writability, and the rights of its user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from stagefleet.errors import RedisConfigurationError
from stagefleet.redis_client import address_of, connect_redis, map_redis_errors
from stagefleet.redis_errors import code_of
from stagefleet.redis_keys import PING

MINIMUM_VERSION = (6, 2)
"""The minimum Redis version, or version that Valkey is compatible with: kombu needs `ZADD ... GT`, the caches
`HRANDFIELD`."""

_ANSWER_SECONDS = 2.0
_PING_MS = 100

_COMMANDS = """
INFO server
TIME
PUBLISH $ x
MULTI
EXEC
EVAL return(1) 0
SCRIPT LOAD return(1)
EVALSHA 0000000000000000000000000000000000000000 0
SET $text 1 PX 1000
GET $text
INCR $text
EXISTS $text
EXPIRE $text 1
PEXPIRE $text 1000
TTL $text
PTTL $text
DEL $text
HSET $hash a 1
HSETNX $hash a 1
HINCRBY $hash a 1
HGET $hash a
HMGET $hash a
HGETALL $hash
HLEN $hash
HKEYS $hash
HEXISTS $hash a
HRANDFIELD $hash 1
HDEL $hash a
LPUSH $list 1
RPUSH $list 1
LLEN $list
RPOP $list
BRPOP $list 0.01
SADD $set a
SMEMBERS $set
SREM $set a
ZADD $zset GT 1 a
ZINCRBY $zset 1 a
ZCARD $zset
ZCOUNT $zset 0 0
ZSCORE $zset a
ZRANGE $zset 0 -1
ZREVRANGE $zset 0 -1
ZREVRANK $zset a
ZRANGEBYSCORE $zset 0 0
ZREMRANGEBYRANK $zset 9 9
ZREMRANGEBYSCORE $zset 0 0
ZUNIONSTORE $zset 1 $zset
ZPOPMIN $zset 1
ZREM $zset a
ZSCAN $zset 0
XADD $stream * a 1
XRANGE $stream - +
XREAD STREAMS $stream 0
UNLINK $text $hash $list $set $zset $stream
"""
"""Commands of our scripts, our calls and kombu, each on keys that the last one deletes; `$` is the prefix."""


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """The facts in a server's INFO, all of which is `info`.

    Attributes:
        name: `Redis` or `Valkey`.
        mode: `standalone`, `sentinel` or `cluster`.
        primary: For a replica, the address of its primary, `HOST:PORT`; None for a primary.
    """

    name: str
    version: str
    mode: str
    primary: str | None
    info: Mapping[str, Any]

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> RedisFacts:
        """Read the answer to INFO, with the field names of Redis or Valkey."""
        name = "Valkey" if info.get("server_name") == "valkey" or "valkey_version" in info else "Redis"
        mode = str(info.get("redis_mode") or info.get("server_mode") or "standalone")
        is_replica = info.get("role") in {"slave", "replica"}
        return cls(
            name=name,
            version=str(info.get("valkey_version") or info.get("redis_version") or "?"),
            mode="cluster" if info.get("cluster_enabled") else mode,
            primary=f"{info.get('master_host')}:{info.get('master_port')}" if is_replica else None,
            info=info,
        )

    @property
    def problem(self) -> tuple[str, str] | None:
        """The reason why a fleet cannot use this server, and what to do; None if it can."""
        if self.mode == "sentinel":
            return (
                "is a Sentinel, which is not supported",
                "name the primary, or an address that always leads to it, in STAGEFLEET_REDIS_URL",
            )
        if self.mode == "cluster":
            return (
                "is in cluster mode, which is not supported",
                "name a Redis with cluster-enabled no in STAGEFLEET_REDIS_URL",
            )
        compatible = re.match(r"(\d+)\.(\d+)", str(self.info.get("redis_version", "")))
        if compatible is not None and tuple(map(int, compatible.groups())) < MINIMUM_VERSION:
            least = ".".join(map(str, MINIMUM_VERSION))
            return f"is of version {self.version}, which is too old", f"use Valkey, or Redis from {least} on"
        return None


def read_facts(client: redis.Redis) -> RedisFacts | None:
    """Ask a server for its facts; None if its user may not ask. Raises as `map_redis_errors`."""
    with map_redis_errors(client):
        try:
            info: Any = client.info()
        except redis.ResponseError as error:
            if code_of(error) == "NOPERM":
                return None
            raise
    return RedisFacts.of(info)


def check_writes(client: redis.Redis, prefix: str) -> None:
    """Check that a server accepts writes, with a write that changes nothing and needs no memory.

    A replica and a full disk accept none for now (RedisUnreachableError).
    """
    with map_redis_errors(client):
        client.delete(PING.of(prefix))


def check_redis(redis_url: str, prefix: str, *, rights: bool = False) -> None:
    """Check that a fleet can use the server at a URL; for programs that would otherwise fail repeatedly.

    With `rights`, try each command that a fleet needs. Errors are as of `connect_redis` and
    `map_redis_errors`.
    """
    with connect_redis(redis_url) as client:
        facts = read_facts(client)
        if facts is not None and facts.problem is not None:
            raise RedisConfigurationError(f"Redis at {address_of(client)} {': '.join(facts.problem)}")
        check_writes(client, prefix)
        with map_redis_errors(client):  # a new subscriber writes its binding, and memory may be full
            client.set(PING.of(prefix), b"", px=_PING_MS)
        missing = [name for name in missing_rights(client, prefix) if name != "info"] if rights else []
        if missing:
            raise RedisConfigurationError(
                f"Redis at {address_of(client)} does not let its user run {missing[0]} and what else a fleet "
                f"needs: give it these rights: {rights_rule(prefix)}"
            )


def rights_rule(prefix: str) -> str:
    """Format the rights of a fleet's user as arguments of ACL SETUSER."""
    return f"~{prefix}* &* +@all -@dangerous +info +keys"


def missing_rights(client: Any, prefix: str) -> list[str]:
    """Name the commands that a fleet needs and a server does not know or allow; tried on temporary keys."""
    commands = [line.replace("$", f"{prefix}probe:").split() for line in _COMMANDS.strip().splitlines()]
    with map_redis_errors(client):
        with client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers = pipe.execute(raise_on_error=False)
        missing = [
            command[0].lower()
            for command, answer in zip(commands, answers, strict=True)
            if isinstance(answer, redis.ResponseError) and code_of(answer) in {"NOPERM", "UNKNOWN"}
        ]
        if not _may_subscribe(client, f"{prefix}probe:*"):
            missing.append("psubscribe")
    return missing


def _may_subscribe(client: Any, pattern: str) -> bool:
    try:
        with client.pubsub() as subscription:
            subscription.psubscribe(pattern)
            subscription.get_message(timeout=_ANSWER_SECONDS)
    except redis.ResponseError as error:
        if code_of(error) == "NOPERM":
            return False
        raise
    return True
