"""The meaning of Redis errors: one table, by error code.

An error means one of three things: Redis is *out of reach for now* (failover, loading, full disk), the
*configuration is wrong* (login, rights, address, mode of the server), or there is a *bug*. All code that
talks to Redis uses this module: the library through `stagefleet.redis_client.map_redis_errors`, Celery
through `config.transport`.

Codes: https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors, and `shared` in Redis's
`server.c`. Redis 6 wraps the error of a command in a script: `ERR Error running script (call to
f_...): @user_script:1: @user_script: 1: -OOM ...`.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

import redis

from stagefleet.errors import RedisConfigurationError, RedisUnreachableError, StagefleetError
from stagefleet.redaction import redact

_FAILING_OVER = "another server takes over, or name the primary in STAGEFLEET_REDIS_URL"
_PASSING = {
    "BUSY": "wait for the script that runs in it, or end that with SCRIPT KILL",
    "CLUSTERDOWN": "wait until the cluster is whole; Stagefleet needs a Redis that is no cluster",
    "EXECABORT": "look at Redis's log",
    "LOADING": "wait until it has read its data",
    "MASTERDOWN": f"wait until its primary is back or {_FAILING_OVER}",
    "MAXCLIENTS": "raise its maxclients, or connect fewer",
    "MISCONF": "make room on its disk, and look at Redis's log",
    "NOREPLICAS": "bring its replicas back, or lower its min-replicas-to-write",
    "NOSCRIPT": "its scripts were flushed, or another server took over",
    "OOM": "raise its maxmemory, or let runs expire sooner",
    "READONLY": f"it is a replica, wait until {_FAILING_OVER}",
    "TRYAGAIN": "wait until the cluster has moved its keys; Stagefleet needs a Redis that is no cluster",
    "UNBLOCKED": f"wait until {_FAILING_OVER}",
}
"""Advice for temporary errors, by code. The refused command changed nothing and may be repeated."""

_FAILOVER_CODES = frozenset({"CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "READONLY", "UNBLOCKED"})
"""Codes of a server that is not the primary, or no longer: a new connection may lead to the primary."""

_NO_CLUSTER = "cluster mode is not supported, name a Redis with cluster-enabled no in STAGEFLEET_REDIS_URL"
_LOGIN = "correct user and password in STAGEFLEET_REDIS_URL"
_WRONG = {
    "ASK": _NO_CLUSTER,
    "CROSSSLOT": _NO_CLUSTER,
    "DATABASE": "correct DATABASE in STAGEFLEET_REDIS_URL (redis://HOST:PORT/DATABASE)",
    "DENIED": "give it a password, or let it listen to its own host alone",
    "MOVED": _NO_CLUSTER,
    "NOAUTH": _LOGIN,
    "NOPERM": "give its user these rights: ~stagefleet:* &* +@all -@dangerous +info +keys",
    "NOPROTO": "use Valkey, or Redis from 6.2 on",
    "UNKNOWN": "use a Valkey, or a Redis from 6.2 on, that is no Sentinel and renames no commands",
    "WRONGPASS": _LOGIN,
}
"""Advice for errors of the configuration, by code."""

_CODES_OF_TEXTS = tuple(
    (code, re.compile(pattern, re.IGNORECASE))
    for code, pattern in {
        "CLUSTERDOWN": r"while the cluster is down",
        "CROSSSLOT": r"non local key|hash to the same slot",
        "DATABASE": r"DB index is out of range|invalid DB index|SELECT is not allowed",
        "MAXCLIENTS": r"max number of clients",
        "NOPERM": r"ACL failure|user executing the script can't|operation not permitted",
        "UNKNOWN": r"unknown (redis |valkey )?(command|subcommand)|unsupported command",
        "WRONGPASS": r"AUTH <password> called|Client sent AUTH|invalid password|for 'auth' command",
    }.items()
)
"""Codes, some of our own, for errors whose code is only `ERR`; texts of Redis 5 to 8 and Valkey 7 to 9."""

_CODES_OF_CLASSES: dict[type[Exception], str] = {
    redis.AuthenticationError: "WRONGPASS",
    redis.BusyLoadingError: "LOADING",
}
"""Codes for errors that redis-py raises itself."""

_CODE = re.compile(r"[A-Z][A-Z0-9]{2,}(?= |$)")
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -?(?=[A-Z][A-Z0-9]{2,} )")
_IN_TRANSACTION = re.compile(r"because of: ")
_IN_PIPELINE = re.compile(r"^Command # \d+ \(.*?\) of pipeline caused error: ", re.DOTALL)
_NOISE = re.compile(
    r"^ERR |^Error running script .*?@user_script: ?\d+: -?(?!@)| script: [^ ]*(, )?on @user_script:\d+\.?$"
    r"|,? with args beginning with:.*$",
    re.DOTALL,
)
"""Parts of messages that do not help a person; the arguments of a command may also hold secrets."""
_LONGEST_REASON = 400

_PLAIN_REASONS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
_ASKS_FOR_CERTIFICATE = re.compile(r"ALERT_(UNKNOWN_CA|HANDSHAKE_FAILURE|\w*CERTIFICATE\w*)")
_TLS_ALERT = '"\\x15"'
"""redis-py's message about the first byte of a TLS alert (RFC 8446, section 5.1)."""


class RefusedError(redis.ConnectionError):
    """An error answer after which the connection is closed: the next one may reach another server."""

    def __repr__(self) -> str:
        """Show the reason: Celery logs the repr, and redis-py's has none."""
        return f"{type(self).__name__}({str(self)!r})"


class TlsError(redis.RedisError):
    """The URL is wrong about TLS: none, some, or a client certificate; the message says what to do."""


def means_failover(error: BaseException) -> bool:
    """Return True for an answer of a server that is not the primary; another connection may reach that."""
    return code_of(error) in _FAILOVER_CODES


def is_passing(error: BaseException) -> bool:
    """Return True for an error that means that Redis is out of reach for now."""
    return code_of(error) in _PASSING


def code_of(error: BaseException) -> str:
    """Return the code of a Redis error: Redis's own, or ours for a text without one; "" for other errors."""
    if not isinstance(error, redis.RedisError):
        return ""
    text = _text_of(error)
    for start in (_IN_SCRIPT, _IN_TRANSACTION):
        found = start.search(text)
        code = _CODE.match(text, found.end()) if found is not None else None
        if code is not None:
            return code[0]
    code = _CODE.match(text)
    for written in (error.status_code, code and code[0]):
        if written in _PASSING or written in _WRONG:
            return str(written)
    for own, pattern in _CODES_OF_TEXTS:
        if pattern.search(text):
            return own
    return _CODES_OF_CLASSES.get(type(error), error.status_code or "")


def reason_of(error: BaseException) -> str:
    """Return Redis's own message in one bounded line, without the arguments of the command."""
    text = _text_of(error)
    if isinstance(error, redis.RedisError) and error.status_code not in {None, "ERR"}:
        text = f"{error.status_code} {text.removeprefix(f'{error.status_code} ')}"
    line = redact(" ".join(_NOISE.sub("", text).split()))
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


def _text_of(error: BaseException) -> str:
    return _IN_PIPELINE.sub("", str(error))


def explain(error: Exception, address: str) -> StagefleetError | None:
    """Convert an error of redis-py to a Stagefleet error, with the address of Redis; None for a bug."""
    wrong = _what_is_wrong(error)
    if wrong is not None:
        return RedisConfigurationError(f"Redis at {address} {wrong}")
    reason = reason_of(error)
    if is_passing(error):
        advice = _PASSING[code_of(error)]
        return RedisUnreachableError(f"Redis at {address} refuses for now ({reason}): {advice}")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        advice = "start it or correct STAGEFLEET_REDIS_URL"
        return RedisUnreachableError(f"Redis at {address} does not answer ({reason}): {advice}")
    return None


def _what_is_wrong(error: Exception) -> str | None:
    """Return advice for an error of the configuration; None for any other error."""
    reason, code = reason_of(error), code_of(error)
    if isinstance(error, TlsError):
        return reason
    if code in _WRONG:
        verb = "refuses the login" if _WRONG[code] is _LOGIN else "refuses"
        return f"{verb} ({reason}): {_WRONG[code]}"
    if isinstance(error, redis.InvalidResponse):
        if _TLS_ALERT in reason:
            return f"speaks TLS ({reason}): write rediss:// in STAGEFLEET_REDIS_URL"
        return (
            f"does not speak Redis's protocol ({reason}): it is something else, correct STAGEFLEET_REDIS_URL"
        )
    if isinstance(error, UnicodeError) and "idna" in reason:  # the error of getaddrinfo for a malformed name
        return f"has a host name that is none ({reason}): correct STAGEFLEET_REDIS_URL"
    return None


def advice_on_tls(error: BaseException) -> str | None:
    """Return advice for a TLS error; None for any other error."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            verdict = cause.verify_message
            return f"has a certificate that is not trusted ({verdict}): add ?ssl_ca_certs=FILE to the URL"
        if isinstance(cause, ssl.SSLError):
            return advice_for(cause.reason or "")
        if isinstance(cause, FileNotFoundError | PermissionError | IsADirectoryError):
            return f"needs a file that is not readable ({cause}): correct the ssl_... options of the URL"
    return None


def advice_for(reason: str) -> str | None:
    """Return advice for OpenSSL's reason, for the author of the URL; None if the error may be temporary."""
    if reason in _PLAIN_REASONS:
        return f"does not speak TLS ({reason}): write redis:// in STAGEFLEET_REDIS_URL"
    if _ASKS_FOR_CERTIFICATE.search(reason):
        options = "?ssl_certfile=FILE&ssl_keyfile=FILE"
        return f"asks for a certificate of its client ({reason}): add {options} to the URL"
    if not reason or "ALERT" in reason or "EOF" in reason:
        return None
    return f"cannot be spoken to by TLS ({reason}): correct the ssl_... options of the URL"


def never_got_through(error: BaseException) -> bool:
    """Return True if no connection was made: nothing listens at the address, or it does not exist."""
    return any(isinstance(cause, ConnectionRefusedError | socket.gaierror) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and its causes."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
