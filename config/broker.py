"""Celery's connection to the fleet's Redis, with the login kept out of the address.

kombu (5.7) and Celery show the broker's address in logs, in the replies to remote commands and so in Flower,
with the user's name, stars for the password, and the whole query. A login that is not in the address cannot
be shown.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

from redis.credentials import UsernamePasswordCredentialProvider

from stagefleet.redis_client import connect_redis


@dataclass(frozen=True, slots=True)
class Broker:
    """The fleet's Redis, in kombu's terms.

    Attributes:
        url: The address in kombu's spelling, without login and options.
        user: The login's user, "" for Redis's default user.
        password: The login's password, "" without a login.
        tls: redis-py's TLS options; None without TLS.
    """

    url: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    tls: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def at(cls, redis_url: str) -> Self:
        """Parse a Redis URL, as redis-py reads it.

        Raises:
            SettingsError: It is malformed.
        """
        with connect_redis(redis_url) as client:  # does not connect; raises errors with our own texts
            found: dict[str, Any] = client.connection_pool.connection_kwargs
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
        """Return the login for redis-py, which uses it for each connection."""
        if not (self.user or self.password):
            return None
        return UsernamePasswordCredentialProvider(self.user or None, self.password or None)

    @property
    def url_with_login(self) -> str:
        """Return the address with the login, for Flower's queue counts; never show it."""
        if not (self.user or self.password):
            return self.url
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{rest}"
