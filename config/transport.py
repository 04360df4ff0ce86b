"""kombu's Redis transport with fixes: broken connections close, reconnects are quick, and messages cost less.

kombu (5.7.0) reads the reply of the pending BRPOP when it closes a channel, and lets that read's error
escape. After a restart of Redis the error escapes from the clean-up itself, and the worker dies (``'NoneType'
object has no attribute 'hostname'``); reported in other forms as celery #8091, #8947.

kombu writes the messages that it could not put back at its end to a file in the temporary directory, and
they may hold tokens. Here they are dropped: the ledger publishes them again (docs/adr/0004).

kombu takes every entry of a queue for a message, and a malformed one raises out of the worker's loop: the
process shuts down with all its items, or reconnects. Here a malformed entry is logged and dropped (see
`envelope.py`).

kombu creates a client for each message and each acknowledgement. A client is a handle on the connection pool,
and redis-py (8.1) fills a table of some 250 reply callbacks for each: a third of the time of a worker's main
loop.

kombu reconnects only after redis-py's connection errors. A replica's READONLY, a full disk's MISCONF and the
like end a worker's processes. Here a temporary error counts as a broken connection: the connection is closed,
and before the next one this module checks that the server is suitable (see `stagefleet.redis_errors`).

kombu and Celery show the broker's address in logs, in the replies to remote commands and so in Flower, with
the user's name, stars for the password, and the whole query. A login that is not in the address cannot be
shown.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty
from typing import Any, Self
from urllib.parse import quote

import redis
from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES, redis as kombu_redis
from kombu.utils.encoding import bytes_to_str
from redis.credentials import UsernamePasswordCredentialProvider

from config.envelope import CONTENT_ERRORS, MalformedMessageError, note_dropped, open_envelope
from stagefleet.backoff import jittered
from stagefleet.errors import RedisUnreachableError
from stagefleet.redaction import masked_url
from stagefleet.redis_client import connect_redis
from stagefleet.redis_errors import is_passing
from stagefleet.redis_pool import checked


@dataclass(frozen=True, slots=True)
class Broker:
    """The fleet's Redis, in kombu's terms.

    `url` is in kombu's spelling, without login and options; `user` is "" for Redis's default user, `password`
    "" without a login. `tls` are redis-py's options; None without TLS.
    """

    url: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    tls: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def at(cls, redis_url: str) -> Self:
        """Parse a Redis URL, as redis-py reads it; raises as `connect_redis`."""
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


_PAUSES = {"interval_step": 1, "interval_max": 5}  # seconds


class ResilientChannel(kombu_redis.Channel):
    """Channel that closes even with a broken connection, keeps its client, and survives malformed messages.

    `_brpop_read` and `_receive_one` are kombu 5.7's own, except for the handling of what they read.
    """

    _kept_client: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        if asynchronous:  # one each for BRPOP and for subscriptions, with connections of their own
            return super()._create_client(asynchronous=True)
        kept = self._kept_client
        if kept is None or kept.connection_pool is not self.pool:
            kept = self._kept_client = super()._create_client()
        return kept

    def _connparams(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        """Return the parameters of connections, with the login; a temporary error breaks the connection."""
        parameters = super()._connparams(asynchronous=asynchronous)
        credentials = self.connection.client.credential_provider
        if credentials is not None:  # plain values: with a socket path redis-py takes no provider
            parameters.pop("credential_provider", None)
            parameters.update(username=credentials.username or None, password=credentials.password)
        parameters["connection_class"] = checked(parameters["connection_class"], is_passing)
        return parameters

    def maybe_refresh_binding_expiry(self) -> None:
        """Refresh, as kombu does at each poll; a Redis that takes no writes for now is one that is away.

        kombu logs a traceback for what Redis refuses, and nothing while it is away: both are tried again.
        """
        try:
            super().maybe_refresh_binding_expiry()
        except redis.ResponseError as error:
            if not is_passing(error):
                raise
            raise redis.ConnectionError(str(error)) from error

    def _brpop_read(self, **options: Any) -> Any:
        """Read the reply to the pending BRPOP, and deliver its message."""
        try:
            try:
                answer = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if not answer:
                raise Empty
            key, item = answer
            queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self._deliver(item, queue)
            return True
        finally:
            self._in_poll: Any = None
            self._flush_brpop_reauth()

    def _receive_one(self, subscriber: Any) -> Any:
        """Read one reply of a subscription, and deliver its message."""
        try:
            answer = subscriber.parse_response()
        except self.connection_errors:
            self._in_listen: Any = None
            raise
        if not isinstance(answer, list | tuple):
            return False
        heard = self._handle_message(subscriber, answer)
        if not bytes_to_str(heard["type"]).endswith("message"):
            return False
        channel = bytes_to_str(heard["channel"])
        exchange = channel.partition(".")[2] if channel.startswith("/") else channel
        queue = self._fanout_to_queue.get(exchange.partition("/")[0])
        if queue is not None and isinstance(heard["data"], bytes):
            self._deliver(heard["data"], queue)
        return True

    def _deliver(self, item: bytes, queue: str) -> None:
        """Deliver a message; drop a malformed one, and one that its receiver cannot handle."""
        try:
            message = open_envelope(item, queue)
        except MalformedMessageError as error:
            note_dropped(queue, str(error), item)
            return
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001 - as kombu does
        except CONTENT_ERRORS as error:
            note_dropped(queue, f"its receiver fails over it ({type(error).__name__})", item)
            self.qos.ack(message["properties"]["delivery_tag"])

    def _restore(self, message: Any, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Put a message back; after the first failure drop the others, as each would wait for Redis."""
        if not self.do_restore:
            return
        try:
            super()._restore(message, leftmost=leftmost)
        except (*self.connection_errors, redis.RedisError):
            self.do_restore = False

    def close(self) -> None:
        """Close the channel; kombu's own restore requeues unacknowledged messages if this does not."""
        broken = (*self.connection_errors, OSError)
        try:
            super().close()
        except broken:
            # The failed read has cleared `_in_poll`: now there is nothing to read, only to clean up.
            with suppress(*broken):
                super().close()


class ResilientTransport(kombu_redis.Transport):
    """kombu's Redis transport with `ResilientChannel`, for a server that takes writes."""

    Channel = ResilientChannel

    def establish_connection(self) -> Any:
        """Connect to a suitable server; kombu alone would notice at its first BRPOP.

        A server that is unsuitable for now is a connection error: kombu tries again.
        """
        try:
            getattr(self.client, "check", FastReconnectConnection.check)()
        except RedisUnreachableError as error:
            raise redis.ConnectionError(str(error)) from error
        return super().establish_connection()


class FastReconnectConnection(Connection):
    """Connection that reconnects soon after an outage: kombu's own pauses grow to 30 s.

    `check` is called before each connection, and raises if the server is unsuitable; see `check_redis`.
    """

    check: Callable[[], None] = staticmethod(lambda: None)

    @classmethod
    def checking(cls, check: Callable[[], None]) -> type[FastReconnectConnection]:
        """Create a class of connections with a check; kombu clones connections by their class."""
        return type(cls.__name__, (cls,), {"check": staticmethod(check)})

    def as_uri(self, *args: Any, **kwargs: Any) -> Any:
        """Return the URL; kombu would show a masked password even without one."""
        shown = super().as_uri(*args, **kwargs)
        return shown if self.userid or self.password else shown.replace("://:**@", "://", 1)

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Connect, with pauses of 1 to 5 s between attempts, with jitter between workers."""
        return super().ensure_connection(*args, **(_PAUSES | {"interval_start": jittered(1)} | kwargs))

    def info(self) -> dict[str, Any]:
        """Return the connection's part of a worker's reply to remote commands."""
        told: dict[str, Any] = super().info() | {"ssl": bool(self.ssl), "credential_provider": None}
        return told


def connection_to(broker: Broker) -> type[FastReconnectConnection]:
    """Create the class of connections to a broker, which log in and do not show the login."""

    class BrokerConnection(FastReconnectConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # as an argument: a pool's connections are kombu's own, created from these arguments
            super().__init__(*args, **({"credential_provider": broker.credentials} | kwargs))

        def as_uri(self, include_password: bool = False, *_args: Any, **_kwargs: Any) -> str:  # noqa: FBT001, FBT002 - kombu's signature
            """Return the address; with the login for Flower alone, which asks Redis itself."""
            return broker.url_with_login if include_password else masked_url(broker.url)

    return BrokerConnection


def install() -> None:
    """Make kombu use this transport for Redis URLs, `redis+socket` included.

    kombu chooses a transport by the URL's scheme, and ignores one passed as a class if the scheme has a `+`.
    The name below is resolved in `sys.modules`: nothing is imported from the current directory.
    """
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{ResilientTransport.__name__}"
