"""How Celery reaches the fleet's Redis: its address without a login, and the login apart from it.

kombu (5.7) and Celery show the broker's address in logs, in the answers to remote commands and so in Flower,
with the user's name and stars for the password, and whatever stands in its query. What is not in the address
cannot be shown.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

from redis.connection import parse_url
from redis.credentials import UsernamePasswordCredentialProvider

from stagefleet.connection import connect_redis

__all__ = ["Broker"]


@dataclass(frozen=True, slots=True)
class Broker:
    """The fleet's Redis as kombu reaches it.

    Attributes:
        url: Its address in kombu's spelling, without login and options.
        user: The login's user, "" for Redis's default user.
        password: The login's password, "" where there is no login.
        tls: What redis-py is told of TLS; None without TLS.
    """

    url: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    tls: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def at(cls, redis_url: str) -> Self:
        """Take a Redis URL apart, as redis-py reads it.

        Raises:
            SettingsError: It is malformed.
        """
        connect_redis(redis_url).close()  # connects to nothing, and refuses with words of our own
        found: dict[str, Any] = parse_url(redis_url)
        database = found.get("db", 0)
        if "path" in found:
            url = f"redis+socket://{quote(found['path'])}?virtual_host={database}"
        else:
            host = found.get("host", "localhost")
            host = f"[{host}]" if ":" in host else quote(host)
            url = f"{redis_url.partition(':')[0]}://{host}:{found.get('port', 6379)}/{database}"
        given = {name: value for name, value in found.items() if name.startswith("ssl_")}
        tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED} | given if url.startswith("rediss:") else None
        return cls(url, found.get("username", ""), found.get("password", ""), tls)

    @property
    def credentials(self) -> UsernamePasswordCredentialProvider | None:
        """What kombu hands on to redis-py to log in with, from connection to connection."""
        if not (self.user or self.password):
            return None
        return UsernamePasswordCredentialProvider(self.user or None, self.password or None)

    @property
    def url_with_login(self) -> str:
        """The address as Flower needs it, to count what lies in queues; never to be shown."""
        if not (self.user or self.password):
            return self.url
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{rest}"
