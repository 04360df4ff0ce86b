"""What may be shown of addresses and of text from outside, and the last net for secrets.

No message holds a secret because none is put there: an address is shown by `masked_url` or `host_of`, what a
person typed by `quoted`, what a server said by `words_of`. Behind that stands `redact`, for secrets that were
remembered when they were read: what a library or a server repeats of them is masked all the same.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import OrderedDict
from urllib.parse import quote, quote_plus

__all__ = [
    "forget_secrets",
    "host_of",
    "masked_line",
    "masked_url",
    "quoted",
    "redact",
    "remember_secret",
    "words_of",
]

_MASK = "***"
_SHORTEST_SECRET = 8  # characters; what is shorter is a common word: masking it would tear holes everywhere
_MOST_SECRETS = 64  # of each kind: each costs time for each line, so the oldest are forgotten
_SHOWN_CHARACTERS = 100

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,20})://(?:[^/?#@\s]*(?:@[^/?#@\s]*)*@)?"
    r"(?P<host>(?:[\w.~%-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]{1,5})?)"
    r"(?P<path>/[^?#\s]*)?(?P<rest>[?#].*)?",
    re.DOTALL,
)
_DATABASE = re.compile(r"/[0-9]{1,9}")
_DIGEST = re.compile(r"sha(?:256|512):[0-9a-f]+")

# In a line that is finished already, a URL ends at a blank or a quote.
_LOGIN_IN_LINE = re.compile(r"(?<=://)([^\s/:@\"'<>]*):(?!PASSWORD@)[^\s\"'<>]*@")  # an advice shows PASSWORD
_USER_IN_LINE = re.compile(r"(?<=://)[^\s/:@\"'<>]+@")
_ECHO_IN_LINE = re.compile(
    r"(?<=with args beginning with: ).*"
)  # Redis repeats an AUTH that it does not know
_QUERY_IN_LINE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>?#]*)[?#][^\s\"'<>]*")


def masked_url(url: str) -> str:
    """Show of an address its scheme, host, port, and the database or socket of a Redis; nothing else.

    One that is malformed, as by a password that was not percent-encoded, is shown by its scheme alone: nobody
    can say where the password in it ends.

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
    """Show of an address whom it leads to, as `host[:port]`; "..." where it is malformed or leads to none."""
    return masked_url(url).partition("://")[2].partition("/")[0] or "..."


def quoted(text: str, *, limit: int = _SHOWN_CHARACTERS) -> str:
    """Quote what a person typed, for a message: on one line, of bounded length, without login and query.

    Args:
        text: What was typed where a name was due.
        limit: The most characters that are shown.
    """
    head, at, digest = text.rpartition("@")
    name, suffix = (head, at + digest) if at and _DIGEST.fullmatch(digest) else (text, "")
    if "@" in name:
        name = f"{_MASK}@{name.rpartition('@')[2]}"
    shown = re.sub(r"[?#].*", f"?{_MASK}", redact(name), count=1, flags=re.DOTALL)
    shown = repr(shown + suffix)
    return shown if len(shown) <= limit else shown[:limit] + "...'"


def words_of(text: object, *, limit: int) -> str:
    """Put what a server said on one line of bounded length, with nothing that a terminal would obey.

    What it repeats of a login is masked before the line is cut: half a token is one, too.

    Args:
        text: Its words.
        limit: The most characters.
    """
    line = re.sub(r"[^\x20-\x7e\u00a0-\ud7ff\uf900-\uffff]+", " ", str(text))
    return masked_line(" ".join(line.split()))[:limit].strip()


def masked_line(line: str) -> str:
    """Mask in a finished line what is known to be secret, and logins and queries of addresses.

    Args:
        line: As libraries write it; our own messages hold none of it.
    """
    line = _ECHO_IN_LINE.sub(_MASK, redact(line))
    if "://" not in line:
        return line
    line = _LOGIN_IN_LINE.sub(rf"\1:{_MASK}@", line)
    line = _USER_IN_LINE.sub(f"{_MASK}@", line)
    return _QUERY_IN_LINE.sub(rf"\1?{_MASK}", line)


class _Secrets:
    """Secrets that this process has read; safe to use from several threads."""

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
            # the longest first: of a secret in another, what is left would tell of it
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


_SECRETS = _Secrets()  # of the process, as its logs are


def remember_secret(*secrets: str, passes: bool = False) -> None:
    """Remember what is never to be shown; to be called where a secret is read.

    Args:
        *secrets: Passwords, tokens, keys. Those of less than 8 characters are not masked.
        passes: Whether they live for minutes, as tokens do: those never push out the others.
    """
    for secret in secrets:
        _SECRETS.add(secret, passes=passes)


def forget_secrets() -> None:
    """Forget what was remembered; for tests, which share a process."""
    _SECRETS.clear()


def redact(text: str) -> str:
    """Mask in a text the secrets that this process has read, also percent-encoded, escaped or in base64."""
    return _SECRETS.mask(text)


def _forms_of(secret: str) -> tuple[str, ...]:
    """Spell a secret as it may appear in other text."""
    content = secret.encode("utf-8", "surrogatepass")
    plain = (secret, repr(secret)[1:-1])
    escaped = [json.dumps(form, ensure_ascii=is_ascii)[1:-1] for form in plain for is_ascii in (True, False)]
    encoded = (quote(content, safe=""), quote(content), quote_plus(content))
    lower = tuple(re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in encoded)
    return (*plain, *escaped, *encoded, *lower, *_base64_forms(content))


def _base64_forms(content: bytes) -> tuple[str, ...]:
    """Spell bytes as they appear in the base64 of a longer text, at each of three offsets."""
    found = []
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + content).decode()
        loose_characters = (0, 3, 2)[(offset + len(content)) % 3]  # they depend on the text behind
        inner = whole[-(-offset * 8 // 6) : len(whole) - loose_characters]
        found += [inner, inner.translate(str.maketrans("+/", "-_"))]
    return tuple(found)
