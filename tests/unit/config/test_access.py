"""Who may change what through Flower's server."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from flower.urls import handlers
from pydantic import SecretStr, ValidationError
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from config.pages.access import Access, LoginKind, is_same_origin
from stagefleet.setting_types import FlowerSettings

OPEN = FlowerSettings()
ONE = FlowerSettings(user="op", password=SecretStr("op-secret"))
TWO = FlowerSettings(
    user="op",
    password=SecretStr("op-secret"),
    viewer_user="see",
    viewer_password=SecretStr("see-sécret"),
)


class Connection:
    """The least that Tornado's request asks of its connection."""

    context = None

    def set_close_callback(self, _: Any) -> None: ...


def request(method: str, path: str, login: str = "", **headers: str) -> HTTPServerRequest:
    given = HTTPHeaders({"Host": "flower.test"})
    for name, text in headers.items():
        given[name.replace("_", "-")] = text
    if login:
        given["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    line = RequestStartLine(method, path, "HTTP/1.1")
    return HTTPServerRequest(headers=given, start_line=line, connection=Connection())  # type: ignore[arg-type]


def flower_s_own_paths() -> list[str]:
    patterns = [entry.regex.pattern if hasattr(entry, "regex") else entry[0] for entry in handlers]
    return [pattern.rstrip("$").replace("(.+)", "x").replace("(.*)", "x") for pattern in patterns]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "NONSENSE"])
def test_a_viewer_changes_nothing_on_any_route(method):
    access = Access(TWO)
    for path in (*flower_s_own_paths(), "/api/runs", "/api/runs/a/cancel"):
        if path != "/tasks/datatable":
            assert access.refuses(request(method, path, "see:see-sécret")), path
            assert not access.refuses(request(method, path, "op:op-secret")), path


def test_a_viewer_looks_at_everything():
    access = Access(TWO)
    for path in (*flower_s_own_paths(), "/runs", "/api/runs"):
        assert not access.refuses(request("GET", path, "see:see-sécret"))
    assert not access.refuses(request("POST", "/flower/tasks/datatable", "see:see-sécret"))


@pytest.mark.parametrize("login", ["", "op:", "op:guess", ":", "op", "op:op-secret:more", "see:see-sécret"])
def test_who_is_not_known_as_an_operator_changes_nothing(login):
    assert Access(TWO).refuses(request("POST", "/api/runs", login))


OPERATOR = base64.b64encode(b"op:op-secret").decode()


@pytest.mark.parametrize("header", [f"Basic {OPERATOR}", f"Basic   {OPERATOR}", f"Basic\t{OPERATOR} "])
def test_a_login_is_read_as_flower_reads_it(header):
    assert LoginKind.OPERATOR is Access(TWO).kind_of(request("POST", "/x", Authorization=header))


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", f"Bearer {OPERATOR}", "Basic /w==", f"basic {OPERATOR}"]
)
def test_a_malformed_login_is_nobody_s(header):
    assert LoginKind.VIEWER is Access(TWO).kind_of(request("POST", "/x", Authorization=header))


def test_without_a_login_everybody_looks_and_nobody_changes():
    assert LoginKind.VIEWER is Access(OPEN).kind_of(request("GET", "/runs"))
    assert LoginKind.OPERATOR is Access(ONE).kind_of(request("GET", "/runs", "op:op-secret"))
    elsewhere = FlowerSettings(options={"auth": ".*@a.test"})
    assert LoginKind.OPERATOR is Access(elsewhere).kind_of(request("GET", "/"))


@pytest.mark.parametrize(
    ("headers", "is_same"),
    [
        ({}, True),
        ({"Sec_Fetch_Site": "same-origin"}, True),
        ({"Sec_Fetch_Site": "none"}, True),
        ({"Sec_Fetch_Site": "cross-site"}, False),
        ({"Sec_Fetch_Site": "same-site"}, False),
        ({"Origin": "http://flower.test"}, True),
        ({"Origin": "http://evil.test"}, False),
        ({"Origin": "null"}, False),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "http://flower.test"}, False),
    ],
)
def test_another_site_s_request_is_known(headers, is_same):
    assert is_same is is_same_origin(request("POST", "/api/runs", **headers))


@pytest.mark.parametrize(
    "fields",
    [
        {"viewer_user": "see"},
        {"viewer_password": "x"},
        {"viewer_user": "see", "viewer_password": "x"},
        {"user": "a", "password": "b", "viewer_user": "a", "viewer_password": "x"},
    ],
)
def test_a_viewer_s_login_is_whole_and_the_second_one(fields):
    with pytest.raises(ValidationError, match="viewer"):
        FlowerSettings(**fields)
