"""Which `Authorization` header a request to a registry carries: learnt from its first 401, then kept.

A registry that anybody may read in part hides the rest from strangers, by 404, 403 or an empty list, and asks
for a login at `/v2/` alone: there it is looked for where a login is at hand, as docker and skopeo do.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from stagefleet.errors import CredentialsError, RegistryError, StagefleetError, UnreachableError
from stagefleet.redaction import remember_secret, words_of
from stagefleet.registry.challenge import Challenge, parse_challenges
from stagefleet.registry.docker_config import DockerConfig, Login
from stagefleet.registry.leash import LeashedLock
from stagefleet.registry.tokens import RefusedLoginError, Send, TokenServer, basic_header

__all__ = ["Authorizer"]

_MARGIN_SHARE = 0.1  # of a token's life: the tokens of some registries live for seconds
_LONGEST_MARGIN_SECONDS = 5.0
_PING = ("/v2/",)  # no scope
_NEXT_LOOK_SECONDS = 60.0  # a login may be put there later, or /v2/ not have answered
_MOST_SLOTS = 1024  # one a repository in use; more of them, and the oldest ask for a token again


@dataclass(frozen=True, slots=True)
class _Basic:
    """The registry takes user name and password."""


_Kind = _Basic | TokenServer


@dataclass(frozen=True, slots=True)
class _Grant:
    """A header that may be sent, until when it is fresh, and whose login it comes from."""

    header: str = field(repr=False)
    login: Login | None
    fresh_until: float = math.inf
    replaces_refused: bool = False


class _Slot:
    """The grant for one set of scopes at one registry; whoever has the lock may ask for a new one."""

    __slots__ = ("attempts", "error", "grant", "lock")

    def __init__(self) -> None:
        self.lock = LeashedLock()
        self.grant: _Grant | None = None
        self.attempts = 0
        self.error: StagefleetError | None = None


class Authorizer:
    """Knows what to log in with, for all registries; thread-safe.

    Threads that need the same header ask for it once: the others wait for the first, whose requests and
    helpers have time-outs, and share its failure too.

    Args:
        config: Where the logins are.
        send: Sends requests to token servers.
        clock: The monotonic clock that tokens live by, in seconds.
    """

    def __init__(
        self, config: DockerConfig, send: Send, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._send = send
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}
        self._asked_until: dict[str, float] = {}
        self._slots: OrderedDict[tuple[str, tuple[str, ...]], _Slot] = OrderedDict()
        self._slots_lock = threading.Lock()

    def header(self, host: str, scopes: tuple[str, ...]) -> str | None:
        """The header to send with a request.

        Args:
            host: The registry's `host[:port]`, as it stands in repository names.
            scopes: What the request needs, `repository:PATH:ACTIONS` each, in any order.

        Returns:
            The header's value, None while the registry has not asked for a login.

        Raises:
            CredentialsError: As in `answer`, where a new token has to be asked for.
        """
        kind = self._kinds.get(host)
        return None if kind is None else self._obtain(host, kind, scopes)

    def learn(self, host: str, ask: Callable[[], str]) -> bool:
        """Find out whether a registry that did not ask for a login wants one, if there is one; asked once.

        Args:
            host: As in `header`.
            ask: Gives the `WWW-Authenticate` of its `/v2/`, "" if it wants none.

        Returns:
            Whether a header can be had now.
        """
        with self._slot(host, _PING).lock:
            if host in self._kinds:
                return True  # another thread has asked
            if self._clock() < self._asked_until.get(host, -math.inf):
                return False
            if len(self._asked_until) >= _MOST_SLOTS:
                self._asked_until.clear()
            self._asked_until[host] = self._clock() + _NEXT_LOOK_SECONDS
            try:
                if self._config.login(host) is None:
                    return False
                challenge = ask()
                self._asked_until[host] = math.inf
                if challenge:
                    self._kinds[host] = _choose(host, parse_challenges(challenge))
            except (CredentialsError, RegistryError, UnreachableError):
                return False  # it has answered without a login: that answer counts
            return bool(challenge)

    def answer(self, host: str, challenge: str, scopes: tuple[str, ...], refused: str | None) -> str:
        """The header to send after a 401.

        Args:
            host: As in `header`.
            challenge: The answer's `WWW-Authenticate`.
            scopes: As in `header`.
            refused: The header that was sent, None if none was.

        Raises:
            CredentialsError: The login is refused, there is none and the registry wants one, or it cannot be
                read; says where logins come from.
            RegistryUnreachableError: The token server does not answer.
            RegistryUnavailableError: The token server fails inside.
            RateLimitedError: The token server asks to slow down.
        """
        offered = parse_challenges(challenge)
        kind = self._kinds[host] = _choose(host, offered)
        lacks_rights = any(offer.parameters.get("error") == "insufficient_scope" for offer in offered)
        try:
            return self._obtain(host, kind, scopes, refused, lacks_rights=lacks_rights)
        except CredentialsError:
            if isinstance(kind, _Basic):
                self._kinds.pop(host, None)  # the next request asks whether a login is wanted at all
                self._asked_until.pop(host, None)
            raise

    def _obtain(
        self,
        host: str,
        kind: _Kind,
        scopes: tuple[str, ...],
        refused: str | None = None,
        *,
        lacks_rights: bool = False,
    ) -> str:
        """The grant that is kept unless it was refused or is old, else a new one."""
        scopes = _sorted(scopes) if isinstance(kind, TokenServer) else ()
        slot = self._slot(host, scopes)
        attempts = slot.attempts
        with slot.lock:
            old = slot.grant
            if old is not None and old.header != refused and self._clock() < old.fresh_until:
                return old.header
            if slot.error is not None and slot.attempts != attempts:
                raise copy.copy(slot.error)  # it failed while we waited: one by one would wait for ever
            slot.grant = slot.error = None
            was_refused = old if old is not None and old.header == refused else None
            try:
                if isinstance(kind, TokenServer):
                    slot.grant = self._ask(kind, scopes, was_refused, lacks_rights=lacks_rights)
                else:
                    slot.grant = self._read_login(host, refused)
            except (CredentialsError, RegistryError, UnreachableError) as error:
                # Without its traceback, which holds the login. Not what our own leash said: others may go on.
                slot.error = copy.copy(error)
                raise
            finally:
                slot.attempts += 1
            return slot.grant.header

    def _slot(self, host: str, scopes: tuple[str, ...]) -> _Slot:
        with self._slots_lock:
            slot = self._slots.setdefault((host, scopes), _Slot())
            self._slots.move_to_end((host, scopes))
            if len(self._slots) > _MOST_SLOTS:
                self._slots.popitem(last=False)
            return slot

    def _read_login(self, host: str, refused: str | None) -> _Grant:
        login = self._config.login(host)
        if login is None:
            raise self._refusal(host, login)
        if not login.password and login.identity_token:
            raise self._refusal(host, login, "it wants a password, and there is only an identity token")
        header = basic_header(login)
        remember_secret(header.removeprefix("Basic "))
        if header == refused:
            raise self._refusal(host, login)
        return _Grant(header, login)

    def _ask(
        self,
        server: TokenServer,
        scopes: tuple[str, ...],
        was_refused: _Grant | None,
        *,
        lacks_rights: bool,
    ) -> _Grant:
        """Ask for a token, unless it is plain that it would be refused as the last one was."""
        login = self._config.login(server.registry)
        asked_at = self._clock()
        if was_refused is not None and was_refused.login == login:
            is_second = was_refused.replaces_refused and asked_at < was_refused.fresh_until
            if lacks_rights or is_second:
                raise self._refusal(server.registry, login, f"for {' '.join(scopes) or 'anything'}")
        try:
            token = server.fetch(self._send, login, scopes)
        except RefusedLoginError as error:
            raise self._refusal(server.registry, login, str(error)) from None
        margin = min(token.life_seconds * _MARGIN_SHARE, _LONGEST_MARGIN_SECONDS)
        return _Grant(
            f"Bearer {token.value}",
            login,
            fresh_until=asked_at + token.life_seconds - margin,
            replaces_refused=was_refused is not None and asked_at < was_refused.fresh_until,
        )

    def _refusal(self, host: str, login: Login | None, reason: str = "") -> CredentialsError:
        what = f"registry {host} refuses the login"
        if login is None:
            what = f"registry {host} wants a login and there is none for it"
        because = f" ({reason})" if reason else ""
        return CredentialsError(f"{what}{because}: {self._config.origin()}; run: docker login {host}")


def _choose(host: str, offered: list[Challenge]) -> _Kind:
    """The kind of login to use, of those that a registry offers: tokens before passwords."""
    for offer in offered:
        if offer.scheme == "bearer" and "realm" in offer.parameters:
            return TokenServer(host, offer.parameters["realm"], offer.parameters.get("service", ""))
    schemes = [offer.scheme for offer in offered]
    if "basic" in schemes:
        return _Basic()
    named = ", ".join(words_of(scheme, limit=20) for scheme in schemes[:5]) or "one that it does not name"
    raise CredentialsError(f"registry {host} wants a kind of login that is not supported: {named}")


def _sorted(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """The same scopes in the one order that they are kept under."""
    return tuple(sorted({_sorted_actions(scope) for scope in scopes}))


def _sorted_actions(scope: str) -> str:
    resource, _, actions = scope.rpartition(":")
    return f"{resource}:{','.join(sorted(set(actions.split(','))))}"
