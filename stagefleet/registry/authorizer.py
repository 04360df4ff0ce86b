"""The `Authorization` header of registry requests: learned from the first 401, then cached.

A registry that is partly public hides its private part from anonymous clients by 404, 403 or an empty list,
and answers 401 at `/v2/` alone. So `/v2/` is asked if there is a login for the host, as docker and skopeo do.
"""

from __future__ import annotations

import copy
import logging
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain

from stagefleet.credentials import DockerConfig, HelperError, Login
from stagefleet.errors import CredentialsError, RegistryError, StagefleetError, UnreachableError
from stagefleet.leases import LeaseBoundLock
from stagefleet.redaction import remember_secret, words_of
from stagefleet.registry import tokens

_MARGIN_SHARE = 0.1  # of a token's life: some registries issue tokens for seconds
_LONGEST_MARGIN_SECONDS = 5.0
_PING = ("/v2/",)  # no scope
_NEXT_LOOK_SECONDS = 60.0  # a login may be added later, or /v2/ did not answer
_MOST_SLOTS = 1024  # one per repository in use; beyond it the oldest slots are dropped
_MOST_NAMED_CHARACTERS = 1024  # of the scopes in a challenge
_SCOPE = re.compile(r"repository:[A-Za-z0-9._/:-]+:[a-z*,]+")
_SCOPE_REFUSALS = frozenset({400, 403})
"""Statuses with which token servers refuse a scope, and not the login (quay #6576)."""


_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Basic:
    """Basic authentication: the registry takes user name and password."""


_Kind = _Basic | tokens.TokenServer


@dataclass(frozen=True, slots=True)
class _Grant:
    """A header, the time until which it is fresh, and the login it comes from."""

    header: str = field(repr=False)
    login: Login | None
    fresh_until: float = math.inf
    replaces_refused: bool = False


class _Slot:
    """The grant for one set of scopes at one registry; its lock serializes requests for a new one.

    `named` are further scopes that the registry's challenge named.
    """

    __slots__ = ("attempts", "error", "grant", "lock", "named")

    def __init__(self) -> None:
        self.lock = LeaseBoundLock()
        self.named: tuple[str, ...] = ()
        self.grant: _Grant | None = None
        self.attempts = 0
        self.error: StagefleetError | None = None


class Authorizer:
    """Cache of `Authorization` headers for all registries; thread-safe.

    Threads that need the same header request it once: the others wait for the first, whose requests and
    helpers have time-outs, and share its failure, too.
    """

    def __init__(
        self, config: DockerConfig, send: tokens.Send, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._send = send
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}
        self._asked_until: dict[tuple[str, str], float] = {}
        self._renewed_until: dict[tuple[str, str], float] = {}
        self._slots: OrderedDict[tuple[str, tuple[str, ...]], _Slot] = OrderedDict()
        self._slots_lock = threading.Lock()

    def header(self, host: str, scopes: tuple[str, ...]) -> str | None:
        """Return the header to send with a request, None while the registry has not asked for a login.

        The host is as in repository names; scopes are `repository:PATH:ACTIONS` each, in any order. If a new
        token is needed, errors are as of `answer`.
        """
        kind = self._kinds.get(host)
        return None if kind is None else self._obtain(host, kind, scopes)

    def learn(self, host: str, scopes: tuple[str, ...], ask: Callable[[], str]) -> bool:
        """Ask a registry that sent no challenge whether it takes a login, if there is one; once per login.

        `ask` returns the `WWW-Authenticate` of the registry's `/v2/`, "" if there is none. Return True if
        `header` can return a header now.
        """
        namespace = self._namespace(host, scopes)
        with self._slot(host, _PING).lock:
            if host in self._kinds:
                return True  # another thread has asked
            if self._clock() < self._asked_until.get((host, namespace), -math.inf):
                return False
            if len(self._asked_until) >= _MOST_SLOTS:
                self._asked_until.clear()
            self._asked_until[host, namespace] = self._clock() + _NEXT_LOOK_SECONDS
            try:
                if self._config.login(host, _path(scopes)) is None:
                    return False
                challenge = ask()
                self._asked_until[host, namespace] = math.inf
                if challenge:
                    self._kinds[host] = _choose(host, tokens.parse_challenges(challenge))
            except (CredentialsError, RegistryError, UnreachableError):
                return False  # it answered without a login: that response counts
            return bool(challenge)

    def answer(self, host: str, challenge: str, scopes: tuple[str, ...], refused: str | None) -> str:
        """Return the header to send after a 401 with this challenge, to a request with the `refused` header.

        Raises:
            CredentialsError: The registry refuses the login, or wants one and there is none, or the login
                cannot be read. The message says where logins come from.
            RegistryUnreachableError: The token server does not answer.
            RegistryUnavailableError: The token server fails with a 5xx.
            RateLimitedError: The token server limits the rate.
        """
        offered = tokens.parse_challenges(challenge)
        kind = self._kinds[host] = _choose(host, offered)
        lacks_rights = any(offer.parameters.get("error") == "insufficient_scope" for offer in offered)
        if self._note_named(host, scopes, offered):
            refused, lacks_rights = None, False  # the token was for other scopes
        try:
            return self._obtain(host, kind, scopes, refused, lacks_rights=lacks_rights)
        except CredentialsError:
            if isinstance(kind, _Basic):
                self._kinds.pop(host, None)  # the next request finds out whether a login is needed
                self._asked_until.pop((host, self._namespace(host, scopes)), None)
            raise

    def names_more(self, host: str, challenge: str, scopes: tuple[str, ...]) -> bool:
        """Return True if a challenge names scopes that were not requested so far."""
        named = _named(tokens.parse_challenges(challenge), scopes)
        return bool(named) and named != self._slot(host, _sorted(scopes)).named

    def renew(self, host: str, scopes: tuple[str, ...], refused: str) -> str | None:
        """Read a login again that a registry answers as a stranger's; None unless it has changed.

        A password that is over is answered 403 or 400 without a challenge by some (ECR). The login is read
        once a minute at most: helpers may ask a cloud.
        """
        kind = self._kinds.get(host)
        if not isinstance(kind, _Basic):
            return None  # a token server reads the login for each token
        namespace = self._namespace(host, scopes)
        slot = self._slot(host, (namespace,))
        with slot.lock:
            if slot.grant is not None and slot.grant.header != refused:
                return slot.grant.header  # another thread has read it
            if self._clock() < self._renewed_until.get((host, namespace), -math.inf):
                return None
            if len(self._renewed_until) >= _MOST_SLOTS:
                self._renewed_until.clear()
            self._renewed_until[host, namespace] = self._clock() + _NEXT_LOOK_SECONDS
            try:
                slot.grant = self._read_login(host, _path(scopes), refused)
            except (CredentialsError, UnreachableError):
                return None  # the same login, or none any more: the registry's response counts
            return slot.grant.header

    def _note_named(self, host: str, scopes: tuple[str, ...], offered: list[tokens.Challenge]) -> bool:
        """Note the scopes that a challenge names besides ours; return True if they are new."""
        named, slot = _named(offered, scopes), self._slot(host, _sorted(scopes))
        if not named or named == slot.named:
            return False
        with slot.lock:
            slot.named, slot.grant = named, None
        return True

    def _obtain(
        self,
        host: str,
        kind: _Kind,
        scopes: tuple[str, ...],
        refused: str | None = None,
        *,
        lacks_rights: bool = False,
    ) -> str:
        """Return the cached grant, or a new one if that was refused or is stale."""
        key = _sorted(scopes) if isinstance(kind, tokens.TokenServer) else (self._namespace(host, scopes),)
        slot = self._slot(host, key)
        attempts = slot.attempts
        with slot.lock:
            old = slot.grant
            if old is not None and old.header != refused and self._clock() < old.fresh_until:
                return old.header
            if slot.error is not None and slot.attempts != attempts:
                raise copy.copy(slot.error)  # it failed while we waited: one retry each would take too long
            slot.grant = slot.error = None
            was_refused = old if old is not None and old.header == refused else None
            try:
                if isinstance(kind, tokens.TokenServer):
                    slot.grant = self._ask(kind, key, slot.named, was_refused, lacks_rights=lacks_rights)
                else:
                    slot.grant = self._read_login(host, _path(scopes), refused)
            except (CredentialsError, RegistryError, UnreachableError) as error:
                # Without its traceback, which holds the login. Errors of our own lease are not shared.
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

    def _namespace(self, host: str, scopes: tuple[str, ...]) -> str:
        """Return the namespace whose login counts for a request, "" for the registry's own."""
        try:
            return self._config.namespace(host, _path(scopes))
        except CredentialsError:
            return ""  # a file that cannot be read now takes no login away

    def _read_login(self, host: str, path: str, refused: str | None) -> _Grant:
        login = self._config.login(host, path)
        if login is None:
            raise self._refusal(host, login)
        if not login.password and login.identity_token:
            raise self._refusal(host, login, "it wants a password, and there is only an identity token")
        header = tokens.basic_header(login)
        remember_secret(header.removeprefix("Basic "))
        if header == refused:
            raise self._refusal(host, login)
        return _Grant(header, login)

    def _ask(
        self,
        server: tokens.TokenServer,
        scopes: tuple[str, ...],
        named: tuple[str, ...],
        was_refused: _Grant | None,
        *,
        lacks_rights: bool,
    ) -> _Grant:
        """Request a token, unless the server just refused the same login."""
        login = self._login(server.registry, scopes)
        asked_at = self._clock()
        if was_refused is not None and was_refused.login == login:
            is_second = was_refused.replaces_refused and asked_at < was_refused.fresh_until
            if lacks_rights or is_second:
                raise self._refusal(server.registry, login, f"for {' '.join(scopes) or 'anything'}")
        token = self._fetch(server, login, _spellings(scopes, named))
        margin = min(token.life_seconds * _MARGIN_SHARE, _LONGEST_MARGIN_SECONDS)
        return _Grant(
            f"Bearer {token.value}",
            login,
            fresh_until=asked_at + token.life_seconds - margin,
            replaces_refused=was_refused is not None and asked_at < was_refused.fresh_until,
        )

    def _fetch(
        self, server: tokens.TokenServer, login: Login | None, spellings: list[tuple[str, ...]]
    ) -> tokens.Token:
        """Request a token, in another spelling of the scopes if the server refuses one."""
        refusal: tokens.RefusedLoginError | None = None
        for scopes in spellings:
            try:
                return server.fetch(self._send, login, scopes)
            except tokens.RefusedLoginError as error:
                refusal = refusal or error
                if error.status not in _SCOPE_REFUSALS:
                    break
        asked = f"for {' '.join(spellings[0])}" if len(spellings) > 1 else ""
        reason = ", ".join(filter(None, [str(refusal), asked]))
        raise self._refusal(server.registry, login, reason) from None

    def _login(self, host: str, scopes: tuple[str, ...]) -> Login | None:
        """Return the login for a token; None, with a warning, if a helper fails and strangers may do as well.

        A configuration file that was copied from elsewhere names helpers that are not on this machine
        (podman-desktop #5375), and most images are for everybody to pull.
        """
        try:
            return self._config.login(host, _path(scopes))
        except HelperError as error:
            if not scopes or any(_actions(scope) - {"pull"} for scope in scopes):
                raise
            _LOGGER.warning("registry %s is read without a login: %s", host, error)
            return None

    def _refusal(self, host: str, login: Login | None, reason: str = "") -> CredentialsError:
        what = "wants a login and there is none for it" if login is None else "refuses the login"
        because = f" ({reason})" if reason else ""
        where = self._config.origin()
        return CredentialsError(f"registry {host} {what}{because}: {where}; run: docker login {host}")


def _choose(host: str, offered: list[tokens.Challenge]) -> _Kind:
    """Choose among the login schemes that a registry offers: tokens before passwords."""
    for offer in offered:
        if offer.scheme == "bearer" and "realm" in offer.parameters:
            return tokens.TokenServer(host, offer.parameters["realm"], offer.parameters.get("service", ""))
    schemes = [offer.scheme for offer in offered]
    if "basic" in schemes:
        return _Basic()
    named = ", ".join(words_of(scheme, limit=20) for scheme in schemes[:5]) or "one that it does not name"
    raise CredentialsError(f"registry {host} wants a kind of login that is not supported: {named}")


def _sorted(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Sort scopes into the order used as cache key."""
    return tuple(sorted({f"{_resource(scope)}:{','.join(sorted(_actions(scope)))}" for scope in scopes}))


def _named(offered: list[tokens.Challenge], scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the scopes that a challenge names and that are not among ours.

    A gateway that renames repositories passes on the challenge of the registry behind it, which takes no
    token for the name that we know (oras-go #650, containerd #5503).
    """
    text = next((offer.parameters.get("scope", "") for offer in offered if offer.scheme == "bearer"), "")
    found = text.split() if scopes and len(text) <= _MOST_NAMED_CHARACTERS else []
    if not all(map(_SCOPE.fullmatch, found)):
        return ()
    return tuple(
        scope
        for scope in _sorted(tuple(found))
        if not any(_resource(scope) == _resource(own) and _actions(scope) <= _actions(own) for own in scopes)
    )


def _spellings(scopes: tuple[str, ...], named: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the sets of scopes to request in turn: ours with those named, those, ours, and other deletions.

    Token servers differ over the name of a deletion: `delete`, `*`, or the right to push.
    """
    found = [_merged((*scopes, *named)), *([named, scopes] if named else [])]
    if any("delete" in _actions(scope) for scope in scopes):
        resources = [_resource(scope) for scope in scopes]
        found += [tuple(f"{name}:{actions}" for name in resources) for actions in ("*", "pull,push")]
    return found


def _merged(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Join the actions of each resource."""
    actions: dict[str, set[str]] = {}
    for scope in scopes:
        actions.setdefault(_resource(scope), set()).update(_actions(scope))
    return _sorted(tuple(f"{resource}:{','.join(named)}" for resource, named in actions.items()))


def _path(scopes: tuple[str, ...]) -> str:
    """Return the path of the repository whose login counts: the one that is written to, if any."""
    written = (scope for scope in scopes if "push" in _actions(scope))
    return next(chain(written, scopes), "").partition(":")[2].rpartition(":")[0]


def _resource(scope: str) -> str:
    return scope.rpartition(":")[0]


def _actions(scope: str) -> set[str]:
    return set(scope.rpartition(":")[2].split(","))
