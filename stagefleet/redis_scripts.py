"""Lua scripts: each package keeps its own in a folder `lua/`, and each step on Redis is one of them."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from stagefleet.redis_client import map_redis_errors

if TYPE_CHECKING:
    import redis


class RedisScripts:
    """Call the scripts of a package; thread-safe.

    `lua/common.lua` stands before each of them. The first two arguments are the key prefix, and what is added
    to the server's clock.

    Args:
        client: A client that returns bytes.
        package: The package with the folder `lua`.
        prefix: Prefix of every key.

    Attributes:
        clock_offset_ms: Added to the server's clock; for tests, which cannot wait for leases.
    """

    def __init__(self, client: redis.Redis, package: str, *, prefix: str) -> None:
        self.clock_offset_ms = 0
        self._client = client
        self._folder = resources.files(package) / "lua"
        self._prefix = prefix
        self._scripts: dict[str, Any] = {}

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a script.

        Raises:
            RedisUnreachableError: Redis does not answer, or refuses for now.
            RedisConfigurationError: The server at the URL cannot be used as configured.
        """
        script = self._scripts.get(name) or self._load(name)
        with map_redis_errors(self._client):
            return script(args=[self._prefix, self.clock_offset_ms, *arguments])

    def _load(self, name: str) -> Any:
        common, text = ((self._folder / f"{part}.lua").read_text("utf-8") for part in ("common", name))
        self._scripts[name] = self._client.register_script(common + text)
        return self._scripts[name]


def milliseconds(seconds: float) -> int:
    """Convert a duration for a script."""
    return round(seconds * 1000)
