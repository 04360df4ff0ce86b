"""What to log in with is learnt once, kept while it is good, and given to nobody that it is not for."""

from __future__ import annotations

import base64
import io
import json
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
import urllib3
from requests.structures import CaseInsensitiveDict

from stagefleet.credentials import DockerConfig, Login
from stagefleet.errors import (
    CredentialsError,
    RateLimitedError,
    RegistryUnavailableError,
    StagefleetError,
)
from stagefleet.registry.authorizer import Authorizer

HOST = "reg.example"
SECRET = "hunter2"
BASIC = "Basic " + base64.b64encode(b"ann:hunter2").decode()
BASIC_CHALLENGE = 'Basic realm="Registry"'
REALM = "https://auth.example/token"
BEARER_CHALLENGE = f'Bearer realm="{REALM}",service="registry",scope="ignored"'
PULL = ("repository:a/b:pull",)


@dataclass(frozen=True)
class Request:
    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.url).query)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server:
    """A token server that hands out T1, T2, ... or what it is told to."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.document: dict[str, Any] = {"expires_in": 300}
        self.body: bytes | None = None
        self.before: Callable[[], None] = lambda: None

    def __call__(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> requests.Response:
        self.requests.append(Request(method, url, headers, body))
        number = len(self.requests)
        self.before()
        response = requests.Response()
        response.status_code, response.url = self.status, url
        response.headers = CaseInsensitiveDict(self.headers)
        document = {"token": f"T{number}", **self.document} if self.status == 200 else self.document
        content = json.dumps(document).encode() if self.body is None else self.body
        response.raw = urllib3.HTTPResponse(io.BytesIO(content), preload_content=False)
        return response


class Config(DockerConfig):
    """A configuration file in memory."""

    def __init__(self, login: Login | None) -> None:
        super().__init__(Path("/nowhere/config.json"))
        self.kept = login
        self.asked = 0

    def login(self, host: str, path: str = "") -> Login | None:
        self.asked += 1
        return self.kept


@pytest.fixture
def config() -> Config:
    return Config(Login("ann", SECRET))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authorizer(config: Config, server: Server, clock: Clock) -> Authorizer:
    return Authorizer(config, server, clock=clock)


def refusal(call: Callable[[], object]) -> CredentialsError:
    """The error of a call, which must hold no secret, also not after a way through pickling."""
    with pytest.raises(CredentialsError) as caught:
        call()
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):  # noqa: S301 - our own bytes
        assert SECRET not in repr(error) + str(error)
        assert BASIC.split()[1] not in repr(error) + str(error)
    return caught.value


class TestBasic:
    def test_nothing_is_sent_before_the_registry_asks(self, authorizer: Authorizer, config: Config):
        assert authorizer.header(HOST, PULL) is None
        assert 0 == config.asked

    def test_the_login_is_read_once_and_sent_from_then_on(self, authorizer: Authorizer, config: Config):
        assert BASIC == authorizer.answer(HOST, BASIC_CHALLENGE, PULL, None)
        assert BASIC == authorizer.header(HOST, ("repository:c:push",))
        assert authorizer.header("other.example", PULL) is None
        assert 1 == config.asked

    def test_user_name_and_password_are_utf_8(self, authorizer: Authorizer, config: Config):
        config.kept = Login("ännchen", "pässword")
        expected = "Basic " + base64.b64encode("ännchen:pässword".encode()).decode()
        assert expected == authorizer.answer(HOST, BASIC_CHALLENGE, PULL, None)

    def test_a_refused_login_names_the_file_and_the_remedy(self, authorizer: Authorizer):
        error = refusal(lambda: authorizer.answer(HOST, BASIC_CHALLENGE, PULL, BASIC))

        told = "there is no /nowhere/config.json; run: docker login reg.example"
        assert f"registry reg.example refuses the login: {told}" == str(error)

    def test_a_missing_login_is_said(self, authorizer: Authorizer, config: Config):
        config.kept = None
        error = refusal(lambda: authorizer.answer(HOST, BASIC_CHALLENGE, PULL, None))

        assert str(error).startswith(
            "registry reg.example wants a login and there is none for it: there is no"
        )

    def test_a_login_that_changed_replaces_the_refused_one(self, authorizer: Authorizer, config: Config):
        authorizer.answer(HOST, BASIC_CHALLENGE, PULL, None)
        config.kept = Login("ann", "new")
        new = authorizer.answer(HOST, BASIC_CHALLENGE, PULL, BASIC)

        assert BASIC != new
        assert new == authorizer.header(HOST, PULL)

    def test_after_a_refusal_the_next_request_asks_anew(self, authorizer: Authorizer):
        authorizer.answer(HOST, BASIC_CHALLENGE, PULL, None)
        refusal(lambda: authorizer.answer(HOST, BASIC_CHALLENGE, PULL, BASIC))

        assert authorizer.header(HOST, PULL) is None

    def test_an_identity_token_is_no_password(self, authorizer: Authorizer, config: Config):
        config.kept = Login("", "", SECRET)
        error = refusal(lambda: authorizer.answer(HOST, BASIC_CHALLENGE, PULL, None))

        assert "it wants a password, and there is only an identity token" in str(error)


class TestChoice:
    def test_tokens_come_before_passwords(self, authorizer: Authorizer):
        assert "Bearer T1" == authorizer.answer(HOST, f"{BASIC_CHALLENGE}, {BEARER_CHALLENGE}", PULL, None)

    def test_bearer_without_a_realm_counts_for_nothing(self, authorizer: Authorizer):
        assert BASIC == authorizer.answer(HOST, f"Bearer, {BASIC_CHALLENGE}", PULL, None)

    @pytest.mark.parametrize(
        ("challenge", "named"),
        [("Negotiate, Digest realm=x", "negotiate, digest"), ("", "one that it does not name")],
    )
    def test_other_kinds_are_refused_by_name(self, authorizer: Authorizer, challenge: str, named: str):
        assert str(refusal(lambda: authorizer.answer(HOST, challenge, PULL, None))).endswith(named)


class TestTokens:
    def test_a_token_is_asked_for_with_the_login_and_sorted_scopes(
        self, authorizer: Authorizer, server: Server
    ):
        scopes = ("repository:c:push,pull", "repository:a/b:pull")

        assert "Bearer T1" == authorizer.answer(HOST, BEARER_CHALLENGE, scopes, None)
        request = server.requests[0]
        assert ("GET", {"Authorization": BASIC}, None) == (request.method, request.headers, request.body)
        assert request.url.startswith(f"{REALM}?")
        assert [
            ("service", "registry"),
            ("scope", "repository:a/b:pull"),
            ("scope", "repository:c:pull,push"),
        ] == request.query

    def test_one_token_serves_the_same_scopes_in_any_order(self, authorizer: Authorizer, server: Server):
        authorizer.answer(HOST, BEARER_CHALLENGE, ("repository:c:push,pull", *PULL), None)

        assert "Bearer T1" == authorizer.header(HOST, (*PULL, "repository:c:pull,push"))
        assert "Bearer T2" == authorizer.header(HOST, PULL)
        assert 2 == len(server.requests)

    def test_without_a_login_a_token_is_asked_for_as_nobody(
        self, authorizer: Authorizer, config: Config, server: Server
    ):
        config.kept = None

        assert "Bearer T1" == authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        assert {} == server.requests[0].headers

    def test_a_realm_with_a_query_keeps_it(self, authorizer: Authorizer, server: Server):
        authorizer.answer(HOST, f'Bearer realm="{REALM}?tenant=7"', PULL, None)
        assert [("tenant", "7"), ("scope", "repository:a/b:pull")] == server.requests[0].query

    def test_without_service_and_scopes_the_realm_is_asked_alone(
        self, authorizer: Authorizer, server: Server
    ):
        authorizer.answer(HOST, f'Bearer realm="{REALM}"', (), None)
        assert REALM == server.requests[0].url

    def test_an_identity_token_is_exchanged(self, authorizer: Authorizer, config: Config, server: Server):
        config.kept = Login("ann", "", SECRET)
        server.document = {"token": None, "access_token": "A1"}

        assert "Bearer A1" == authorizer.answer(HOST, BEARER_CHALLENGE, (*PULL, "repository:c:pull"), None)
        request = server.requests[0]
        assert ("POST", REALM) == (request.method, request.url)
        assert {"Content-Type": "application/x-www-form-urlencoded"} == request.headers
        assert {
            "grant_type": "refresh_token",
            "service": "registry",
            "scope": "repository:a/b:pull repository:c:pull",
            "client_id": "stagefleet",
            "refresh_token": SECRET,
        } == dict(parse_qsl((request.body or b"").decode()))


class TestLife:
    @pytest.mark.parametrize(
        ("document", "fresh_seconds"),
        [
            ({"expires_in": 300}, 295),
            ({"expires_in": 3}, 2.7),
            ({"expires_in": 1e300}, 24 * 3600 - 5),
            ({}, 55),
            ({"expires_in": "soon"}, 55),
            ({"expires_in": True}, 55),
            ({"expires_in": float("inf")}, 55),
            (
                {"expires_in": 300, "issued_at": "2026-01-01T00:00:00Z"},
                235,
            ),  # handed out a minute after its issue
            ({"expires_in": 300, "issued_at": "2027-01-01T00:00:00Z"}, 295),
            ({"expires_in": 300, "issued_at": "2025-12-31T20:00:00Z"}, 295),  # by a clock that is hours off
            ({"expires_in": 300, "issued_at": "yesterday"}, 295),
            ({"expires_in": 300, "issued_at": "2026-01-01T00:00:00"}, 295),
        ],
    )
    def test_a_token_is_kept_until_shortly_before_its_end(
        self,
        authorizer: Authorizer,
        server: Server,
        clock: Clock,
        document: dict[str, Any],
        fresh_seconds: float,
    ):
        server.document = document
        server.headers = {"Date": "Thu, 01 Jan 2026 00:01:00 GMT"}
        authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)

        clock.now += fresh_seconds - 0.01
        assert "Bearer T1" == authorizer.header(HOST, PULL)
        clock.now += 0.02
        assert "Bearer T2" == authorizer.header(HOST, PULL)

    @pytest.mark.parametrize("life", [0, -5])
    def test_a_token_without_a_life_serves_once(self, authorizer: Authorizer, server: Server, life: int):
        server.document = {"expires_in": life}

        assert "Bearer T1" == authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        assert "Bearer T2" == authorizer.header(HOST, PULL)

    def test_many_repositories_are_kept_up_to_a_bound(self, authorizer: Authorizer, server: Server):
        authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        for number in range(1100):
            authorizer.header(HOST, (f"repository:r{number}:pull",))

        assert 1024 == len(authorizer._slots)
        assert "Bearer T1102" == authorizer.header(HOST, PULL)


class TestRefusedTokens:
    def test_a_refused_token_is_replaced(self, authorizer: Authorizer):
        first = authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)

        assert "Bearer T2" == authorizer.answer(HOST, BEARER_CHALLENGE, PULL, first)
        assert "Bearer T2" == authorizer.header(HOST, PULL)

    def test_who_comes_late_with_the_refused_token_gets_the_new_one(
        self, authorizer: Authorizer, server: Server
    ):
        first = authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        authorizer.answer(HOST, BEARER_CHALLENGE, PULL, first)

        assert "Bearer T2" == authorizer.answer(HOST, BEARER_CHALLENGE, PULL, first)
        assert 2 == len(server.requests)

    def test_two_fresh_tokens_refused_in_a_row_are_a_refused_login(self, authorizer: Authorizer):
        first = authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        second = authorizer.answer(HOST, BEARER_CHALLENGE, PULL, first)
        error = refusal(lambda: authorizer.answer(HOST, BEARER_CHALLENGE, PULL, second))

        assert str(error).startswith("registry reg.example refuses the login (for repository:a/b:pull): ")
        assert "Bearer T3" == authorizer.header(HOST, PULL)

    def test_a_token_that_ended_is_replaced_as_often_as_it_ends(self, authorizer: Authorizer, clock: Clock):
        header = authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        for number in range(2, 6):
            clock.now += 300
            header = authorizer.answer(HOST, BEARER_CHALLENGE, PULL, header)
            assert f"Bearer T{number}" == header

    def test_a_token_without_the_right_is_not_asked_for_again(
        self, authorizer: Authorizer, config: Config, server: Server
    ):
        config.kept = None
        first = authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        challenge = f'{BEARER_CHALLENGE},error="insufficient_scope"'
        error = refusal(lambda: authorizer.answer(HOST, challenge, PULL, first))

        assert "wants a login and there is none for it (for repository:a/b:pull)" in str(error)
        assert 1 == len(server.requests)

    def test_a_login_made_meanwhile_is_tried(self, authorizer: Authorizer, config: Config):
        config.kept = None
        first = authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        config.kept = Login("ann", SECRET)
        challenge = f'{BEARER_CHALLENGE},error="insufficient_scope"'

        assert "Bearer T2" == authorizer.answer(HOST, challenge, PULL, first)

    def test_a_registry_that_moves_its_token_server_is_followed(self, authorizer: Authorizer, server: Server):
        first = authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        authorizer.answer(HOST, 'Bearer realm="https://moved.example/token"', PULL, first)

        assert server.requests[1].url.startswith("https://moved.example/token?")


class TestHostileServers:
    @pytest.mark.parametrize(
        "realm", ["http://auth.example/token", "http://127.0.0.1.auth.example/", "HTTP://10.0.0.1/t"]
    )
    @pytest.mark.parametrize("login", [Login("ann", SECRET), Login("", "", SECRET)])
    def test_no_login_goes_to_a_realm_without_tls(
        self, authorizer: Authorizer, config: Config, server: Server, realm: str, login: Login
    ):
        config.kept = login
        error = refusal(lambda: authorizer.answer(HOST, f'Bearer realm="{realm}"', PULL, None))

        assert "without TLS" in str(error)
        assert [] == server.requests

    def test_who_has_no_login_may_ask_a_realm_without_tls(self, authorizer: Authorizer, config: Config):
        config.kept = None
        assert "Bearer T1" == authorizer.answer(HOST, 'Bearer realm="http://auth.example/token"', PULL, None)

    @pytest.mark.parametrize(
        "realm", ["http://127.0.0.1:5001/token", "http://localhost/token", "http://[::1]:5001/t"]
    )
    def test_loopback_needs_no_tls(self, authorizer: Authorizer, server: Server, realm: str):
        assert "Bearer T1" == authorizer.answer(HOST, f'Bearer realm="{realm}"', PULL, None)
        assert {"Authorization": BASIC} == server.requests[0].headers

    @pytest.mark.parametrize(
        "realm",
        [
            "",
            "/token",
            "auth.example/token",
            "//auth.example/token",
            "ftp://auth.example/",
            "file:///etc/passwd",
            "https://",
            "https://user:pw@auth.example/",
            r"http://localhost\@auth.example/",
            "http://localhost#@auth.example/",
            "https://auth.example/a b",
            "https://auth.example/\x00",
            "https://auth.example:port/",
            "https://é.example/",
        ],
    )
    def test_a_malformed_realm_is_asked_nothing(self, authorizer: Authorizer, server: Server, realm: str):
        quoted = realm.replace("\\", "\\\\")
        error = refusal(lambda: authorizer.answer(HOST, f'Bearer realm="{quoted}"', PULL, None))

        assert "registry reg.example names no usable token server: its realm is no absolute URL" == str(error)
        assert [] == server.requests

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"[1]",
            b"\xff",
            b"[" * 100_000,
            b'{"token": 5}',
            b'{"token": ""}',
            b'{"token": "a\\r\\nX: y"}',
            b'{"token": "' + b"a" * 300_000 + b'"}',
        ],
        ids=lambda body: body[:16].decode("latin-1"),
    )
    def test_an_answer_without_a_token_is_refused(self, authorizer: Authorizer, server: Server, body: bytes):
        server.body = body
        error = refusal(lambda: authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None))

        assert "the token server auth.example of registry reg.example answered without a token" == str(error)

    @pytest.mark.parametrize("status", [400, 401, 403])
    def test_a_refusal_is_told_in_the_servers_own_words(
        self, authorizer: Authorizer, server: Server, status: int
    ):
        server.status, server.document = status, {"details": "incorrect\nusername", "token": "T"}
        error = refusal(lambda: authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None))

        assert "registry reg.example refuses the login (incorrect username): there is no" in str(error)

    @pytest.mark.parametrize("details", [f"no {SECRET} here", f"got {BASIC}", ["x"], None])
    def test_words_that_repeat_a_secret_are_not_told(
        self, authorizer: Authorizer, server: Server, details: object
    ):
        server.status, server.document = 401, {"details": details}
        error = refusal(lambda: authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None))

        assert str(error).startswith("registry reg.example refuses the login: there is no")

    @pytest.mark.parametrize("status", [301, 404])
    def test_other_answers_are_told_by_their_status(
        self, authorizer: Authorizer, server: Server, status: int
    ):
        server.status = status
        error = refusal(lambda: authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None))

        assert f"the token server auth.example of registry reg.example answered {status}" == str(error)

    def test_a_server_that_fails_or_is_busy_may_be_asked_again_later(
        self, authorizer: Authorizer, server: Server
    ):
        server.status = 503
        with pytest.raises(RegistryUnavailableError, match="answered 503"):
            authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        server.status, server.headers = 429, {"Retry-After": "7"}
        with pytest.raises(RateLimitedError) as caught:
            authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        server.status = 200

        assert 7 == caught.value.retry_after_seconds
        assert "Bearer T3" == authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)


class CountingLock:
    """A lock that counts who has come to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.arrivals = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.arrivals.release()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class TestThreads:
    COUNT = 32

    def gather(self, authorizer: Authorizer, server: Server, refused: str | None = None) -> list[object]:
        """Answer in many threads; the token server answers once all the others wait."""
        slot = authorizer._slot(HOST, PULL)
        lock = CountingLock()
        slot.lock = lock  # type: ignore[assignment]  # to see who waits

        def hold_back() -> None:
            server.before = lambda: None
            for _ in range(self.COUNT):
                assert lock.arrivals.acquire(timeout=10)

        def attempt() -> object:
            try:
                return authorizer.answer(HOST, BEARER_CHALLENGE, PULL, refused)
            except StagefleetError as error:
                return error

        server.before = hold_back
        with ThreadPoolExecutor(self.COUNT) as pool:
            return [future.result(timeout=20) for future in [pool.submit(attempt) for _ in range(self.COUNT)]]

    def test_many_threads_ask_for_a_token_once(self, authorizer: Authorizer, server: Server, config: Config):
        assert ["Bearer T1"] * self.COUNT == self.gather(authorizer, server)
        assert (1, 1) == (len(server.requests), config.asked)

    def test_many_threads_replace_a_refused_token_once(self, authorizer: Authorizer, server: Server):
        first = authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)

        assert ["Bearer T2"] * self.COUNT == self.gather(authorizer, server, first)
        assert 2 == len(server.requests)

    def test_who_waited_for_a_failure_shares_it(self, authorizer: Authorizer, server: Server):
        server.status = 503
        errors = self.gather(authorizer, server)

        assert {RegistryUnavailableError} == {type(error) for error in errors}
        assert self.COUNT == len({id(error) for error in errors})  # each its own, with its own traceback
        assert 1 == len(server.requests)

    def test_who_comes_after_a_failure_asks_anew(self, authorizer: Authorizer, server: Server):
        server.status = 503
        self.gather(authorizer, server)
        server.status = 200

        assert "Bearer T2" == authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)

    def test_one_repository_does_not_wait_for_another(self, authorizer: Authorizer, server: Server):
        others: list[str | None] = []

        def ask_for_another() -> None:
            server.before = lambda: None
            with ThreadPoolExecutor(1) as pool:
                others.append(pool.submit(authorizer.header, HOST, ("repository:c:pull",)).result(timeout=10))

        server.before = ask_for_another

        assert "Bearer T1" == authorizer.answer(HOST, BEARER_CHALLENGE, PULL, None)
        assert ["Bearer T2"] == others
