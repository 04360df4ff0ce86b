"""Redaction of addresses and of text from outside, and of secrets in finished lines.

Messages are written without secrets: `masked_url` and `host_of` show addresses, `quoted` shows text that a
person typed, `words_of` shows text from a server, `plain_text` what a terminal is to show. As a second line
of defence, `redact` masks secrets that were registered when they were read, since a library or a server may
repeat them.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import OrderedDict
from urllib.parse import quote, quote_plus

_MASK = "***"
_SHORTEST_SECRET = 8  # characters; shorter secrets may be common words, which must stay readable
_MOST_SECRETS = 64  # of each kind: each costs time per line, so the oldest are forgotten
_SHOWN_CHARACTERS = 100

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,20})://(?:[^/?#@\s]*(?:@[^/?#@\s]*)*@)?"
    r"(?P<host>(?:[\w.~%-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]{1,5})?)"
    r"(?P<path>/[^?#\s]*)?(?P<rest>[?#].*)?",
    re.DOTALL,
)
_DATABASE = re.compile(r"/[0-9]{1,9}")
_DIGEST = re.compile(r"sha(?:256|512):[0-9a-f]+")

# In a finished line, a URL ends at a blank or a quote.
# Advice in messages shows PASSWORD.
_LOGIN_IN_LINE = re.compile(r"(?<=://)([^\s/:@\"'<>]*):(?!PASSWORD@)[^\s\"'<>]*@")
_USER_IN_LINE = re.compile(r"(?<=://)[^\s/:@\"'<>]+@")
# Redis repeats an AUTH command that it rejects.
_ECHO_IN_LINE = re.compile(r"(?<=with args beginning with: ).*")
_QUERY_IN_LINE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>?#]*)[?#][^\s\"'<>]*")


def masked_url(url: str) -> str:
    """Format a URL with its scheme, host and port only, and for Redis the database or socket.

    A malformed URL, for example with a password that is not percent-encoded, is reduced to its scheme, since
    nobody can say where its password ends.

    >>> masked_url("redis://me:hunter2@redis.test:6379/0?password=x")
    'redis://redis.test:6379/0'
    >>> masked_url("redis://me:hunt/er2@redis.test/0")
    'redis://...'
    """
    url = url.strip()
    match = _URL.fullmatch(url)
    if match is None or "@" in f"{match['path']}{match['rest']}":
        start = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://", url)
        return f"{start[0] if start else ''}..."
    scheme, host, path = match["scheme"], match["host"], match["path"] or ""
    if scheme in {"unix", "redis+socket"}:
        return f"{scheme}://{path}"
    is_redis = scheme in {"redis", "rediss"}
    return f"{scheme}://{host}{path if is_redis and _DATABASE.fullmatch(path) else ''}"


def host_of(url: str) -> str:
    """Return the host of a URL as `host[:port]`; "..." if the URL is malformed or has none."""
    return masked_url(url).partition("://")[2].partition("/")[0] or "..."


def quoted(text: str, *, limit: int = _SHOWN_CHARACTERS) -> str:
    """Quote text that a person typed: on one line, of bounded length, without login and query."""
    head, at, digest = text.rpartition("@")
    name, suffix = (head, at + digest) if at and _DIGEST.fullmatch(digest) else (text, "")
    if "@" in name:
        name = f"{_MASK}@{name.rpartition('@')[2]}"
    shown = re.sub(r"[?#].*", f"?{_MASK}", redact(name), count=1, flags=re.DOTALL)
    shown = repr(shown + suffix)
    return shown if len(shown) <= limit else shown[:limit] + "...'"


def words_of(text: object, *, limit: int) -> str:
    """Format text from a server: on one line, of bounded length, without terminal control characters.

    Logins are masked before the line is cut: half a token is a secret, too.
    """
    line = plain_text(str(text), keep="")
    return masked_line(" ".join(line.split()))[:limit].strip()


def plain_text(text: str, *, instead: str = " ", keep: str = "\n\t") -> str:
    r"""Replace what steers a terminal or the direction of text, and what has no picture.

    That is all that Unicode calls other than printable: controls, formats, separators, what it has no
    character for.

    >>> plain_text("a\x1b[0mb\u202egpj.exe")
    'a [0mb gpj.exe'
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else instead for character in text
    )


def masked_line(line: str) -> str:
    """Mask known secrets, and the logins and queries of URLs, in a line that a library wrote."""
    line = _ECHO_IN_LINE.sub(_MASK, redact(line))
    if "://" not in line:
        return line
    line = _LOGIN_IN_LINE.sub(rf"\1:{_MASK}@", line)
    line = _USER_IN_LINE.sub(f"{_MASK}@", line)
    return _QUERY_IN_LINE.sub(rf"\1?{_MASK}", line)


class _Secrets:
    """The secrets that this process has read; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lasting: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._passing: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._all: tuple[str, ...] = ()

    def add(self, secret: str, *, passes: bool) -> None:
        if len(secret) < _SHORTEST_SECRET:
            return
        with self._lock:
            forms = self._passing if passes else self._lasting
            if secret in forms:
                forms.move_to_end(secret)
                return
            forms[secret] = _forms_of(secret)
            if len(forms) > _MOST_SECRETS:
                forms.popitem(last=False)
            known = {
                form for kept in (self._lasting, self._passing) for found in kept.values() for form in found
            }
            # the longest first: where one secret contains another, the rest would stay visible
            self._all = tuple(sorted(known, key=len, reverse=True))

    def mask(self, text: str) -> str:
        for form in self._all:
            if form in text:
                text = text.replace(form, _MASK)
        return text

    def clear(self) -> None:
        with self._lock:
            self._lasting.clear()
            self._passing.clear()
            self._all = ()


_SECRETS = _Secrets()  # one per process, as logs are


def remember_secret(*secrets: str, passes: bool = False) -> None:
    """Register secrets to mask; call this wherever one is read.

    Those of less than 8 characters are not masked. Short-lived ones such as tokens, which `passes` tells,
    never displace the others.
    """
    for secret in secrets:
        _SECRETS.add(secret, passes=passes)


def forget_secrets() -> None:
    """Forget all secrets; for tests, which share a process."""
    _SECRETS.clear()


def redact(text: str) -> str:
    """Mask registered secrets in a text, also percent-encoded, escaped or in base64."""
    return _SECRETS.mask(text)


def _forms_of(secret: str) -> tuple[str, ...]:
    """List the forms in which a secret may appear in other text."""
    content = secret.encode("utf-8", "surrogatepass")
    plain = (secret, repr(secret)[1:-1])
    escaped = [json.dumps(form, ensure_ascii=is_ascii)[1:-1] for form in plain for is_ascii in (True, False)]
    encoded = (quote(content, safe=""), quote(content), quote_plus(content))
    lower = tuple(re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in encoded)
    return (*plain, *escaped, *encoded, *lower, *_base64_forms(content))


def _base64_forms(content: bytes) -> tuple[str, ...]:
    """Encode bytes as they appear in the base64 of a longer text, at each of three offsets."""
    found = []
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + content).decode()
        loose_characters = (0, 3, 2)[(offset + len(content)) % 3]  # they depend on the text that follows
        inner = whole[-(-offset * 8 // 6) : len(whole) - loose_characters]
        found += [inner, inner.translate(str.maketrans("+/", "-_"))]
    return tuple(found)
