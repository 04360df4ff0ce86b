"""A registry that hides from strangers what a login may see, and asks for the login at `/v2/` alone."""

from __future__ import annotations

import base64
import json
import threading

import pytest

from stagefleet.errors import ForbiddenError, NotFoundError, RegistryError
from tests.unit.registry.scripted import RegistryResponse

LOGIN = base64.b64encode(b"alice:secret").decode()
TAGS = RegistryResponse(body=b'{"name": "group/app", "tags": ["one"]}')
CHALLENGE = {"WWW-Authenticate": 'Basic realm="registry"'}
UNKNOWN = b'{"errors": [{"code": "NAME_UNKNOWN"}]}'


@pytest.fixture
def log_in(tmp_path):
    def log_in(server):
        (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": LOGIN}}}))

    return log_in


def hiding(answer, *, challenge=CHALLENGE):
    """Make a registry that gives strangers an answer, and the tags to whoever logs in."""

    def script(asked):
        is_known = asked.headers.get("Authorization") == f"Basic {LOGIN}"
        if asked.path == "/v2/":
            return RegistryResponse() if is_known else RegistryResponse(401, b"{}", challenge)
        return (TAGS if asked.method == "GET" else RegistryResponse(202)) if is_known else answer

    return script


def paths(server):
    return [asked.path.partition("?")[0] for asked in server.asked]


@pytest.mark.parametrize(
    "answer",
    [
        RegistryResponse(404, UNKNOWN),
        RegistryResponse(403, b'{"errors": [{"code": "DENIED"}]}'),
        RegistryResponse(401, b"{}"),
        RegistryResponse(body=b'{"name": "group/app", "tags": []}'),
    ],
    ids=["404", "403", "401", "empty"],
)
def test_a_login_at_hand_is_sent_where_strangers_see_nothing(serve, client, log_in, repository_at, answer):
    """W9: whatever strangers are told, whoever has a login sees what there is."""
    server = serve(hiding(answer))
    log_in(server)

    assert ["one"] == list(client.tags(repository_at(server)))
    assert ["one"] == list(client.tags(repository_at(server)))
    assert 1 == paths(server).count("/v2/"), "asked once"
    assert LOGIN in server.asked[-1].headers["Authorization"]


def test_a_deletion_that_strangers_may_not_do_is_done_with_the_login(serve, client, log_in, repository_at):
    """W9: a DELETE is answered 404 to a stranger, which would count as gone already."""
    server = serve(hiding(RegistryResponse(404, UNKNOWN)))
    log_in(server)

    client.delete_manifest(repository_at(server).tagged("one"))
    assert "Basic" in server.asked[-1].headers["Authorization"]


@pytest.mark.parametrize("has_login", [True, False])
def test_a_registry_that_wants_no_login_is_asked_once_at_most(
    serve, client, log_in, repository_at, has_login
):
    """W9: no request more without a login, and with one a single one as long as the process lasts."""
    server = serve(
        lambda asked: RegistryResponse(body=b"{}") if asked.path == "/v2/" else RegistryResponse(404, UNKNOWN)
    )
    if has_login:
        log_in(server)

    for _ in range(3):
        with pytest.raises(NotFoundError):
            list(client.tags(repository_at(server)))
    assert int(has_login) == paths(server).count("/v2/")
    assert all("Authorization" not in asked.headers for asked in server.asked)


def test_a_registry_that_asks_at_the_resource_gets_no_request_more(serve, client, log_in, repository_at):
    """W9: its own challenge tells enough."""
    server = serve(hiding(RegistryResponse(401, b"{}", CHALLENGE)))
    log_in(server)

    assert ["one"] == list(client.tags(repository_at(server)))
    assert "/v2/" not in paths(server)


def test_threads_ask_once_together(serve, client, log_in, repository_at):
    """W9: the ping is one flight for all."""
    server = serve(hiding(RegistryResponse(404, UNKNOWN)))
    log_in(server)
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(client.tags(repository_at(server)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (["one"] * 8, 1) == (found, paths(server).count("/v2/"))


@pytest.mark.parametrize("where", ["redirected", "unsupported", "broken"])
def test_only_the_registry_s_own_challenge_counts(serve, client, log_in, repository_at, where):
    """W9, R1: what another origin asks for, and what cannot be had, changes nothing."""
    other = serve(lambda _: RegistryResponse(401, b"{}", CHALLENGE))
    ping = {
        "redirected": RegistryResponse(307, headers={"Location": f"http://{other.host}/v2/"}),
        "unsupported": RegistryResponse(401, b"{}", {"WWW-Authenticate": "Negotiate"}),
        "broken": RegistryResponse(503, b"{}"),
    }[where]
    server = serve(lambda asked: ping if asked.path == "/v2/" else RegistryResponse(404, UNKNOWN))
    log_in(server)

    with pytest.raises(RegistryError):
        list(client.tags(repository_at(server)))
    assert "/v2/" in paths(server)
    assert all("Authorization" not in asked.headers for asked in (*server.asked, *other.asked))


def test_a_login_that_cannot_be_read_keeps_nobody_from_what_all_may_see(
    serve, client, tmp_path, repository_at
):
    """W9: a credential helper that is not there fails only where a login is wanted."""
    server = serve(lambda _: TAGS)
    (tmp_path / "config.json").write_text('{"credsStore": "not-on-this-machine"}')

    assert ["one"] == list(client.tags(repository_at(server)))


@pytest.mark.parametrize("status", [403, 404])
def test_a_challenge_is_answered_under_any_status_that_hides(serve, client, log_in, repository_at, status):
    """Kind of W9: some name their login with a 403."""

    def script(asked):
        is_known = asked.headers.get("Authorization") == f"Basic {LOGIN}"
        return TAGS if is_known else RegistryResponse(status, b"{}", CHALLENGE)

    server = serve(script)
    log_in(server)
    assert ["one"] == list(client.tags(repository_at(server)))


def test_who_has_logged_in_is_refused_under_a_challenge_once(serve, client, log_in, repository_at):
    """Kind of W9: a right that is lacking is no login that is."""

    def script(asked):
        is_known = asked.headers.get("Authorization") == f"Basic {LOGIN}"
        return RegistryResponse(403 if is_known else 401, b"{}", CHALLENGE)

    server = serve(script)
    log_in(server)
    with pytest.raises(ForbiddenError, match=r"GET answered 403 .*: the login may not do this"):
        list(client.tags(repository_at(server)))
    assert 2 == len(server.asked)


def test_a_refusal_that_names_no_kind_of_login_gets_a_password(serve, client, log_in, repository_at):
    """Kind of W9: gateways refuse strangers, and send no challenge at all."""

    def script(asked):
        is_known = asked.headers.get("Authorization") == f"Basic {LOGIN}"
        return TAGS if is_known else RegistryResponse(401, b"<html>")

    server = serve(script)
    log_in(server)
    assert ["one"] == list(client.tags(repository_at(server)))
    assert 1 == paths(server).count("/v2/"), "asked there first"


def test_a_refusal_that_names_no_kind_of_login_says_where_logins_are_looked_for(
    serve, client, repository_at, tmp_path
):
    server = serve(lambda _: RegistryResponse(401, b"{}"))
    with pytest.raises(ForbiddenError, match=f"there is no {tmp_path}/config.json"):
        list(client.tags(repository_at(server)))
    assert 1 == len(server.asked)


def test_a_refusal_under_a_challenge_stands_where_there_is_no_login(serve, client, repository_at):
    """Kind of W9: what is not there may be answered with a challenge, too."""
    server = serve(lambda _: RegistryResponse(404, UNKNOWN, CHALLENGE))
    with pytest.raises(NotFoundError, match="NAME_UNKNOWN"):
        list(client.tags(repository_at(server)))
    assert 1 == len(server.asked)
