"""What is kept in Redis and may be lost: whoever asks goes on without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
import structlog

from stagefleet.connection import reaching
from stagefleet.errors import RedisUnreachableError

__all__ = ["Lossy"]

_log = structlog.get_logger(__name__)


class Lossy:
    """Calls whose failure loses nothing; warns once of each outage, not of each call.

    Args:
        client: The Redis.
        what: What is kept there, for the warning.
    """

    def __init__(self, client: redis.Redis, what: str) -> None:
        self._redis = client
        self._what = what
        self._was_told = False

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Make calls to Redis; one that fails ends the block, and nothing more."""
        try:
            with reaching(self._redis):
                yield
        except (RedisUnreachableError, redis.RedisError) as error:
            if not self._was_told:
                self._was_told = True
                _log.warning(f"{self._what}_out_of_reach", action="cache", error=str(error))
        else:
            self._was_told = False
