"""Who may change what through Flower's server."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from flower.urls import handlers
from pydantic import SecretStr, ValidationError
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import create_signed_value

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
    assert not access.refuses(request("POST", "/tasks/datatable", "see:see-sécret"))
    below = Access(TWO.model_copy(update={"url_prefix": "flower/"}))
    assert not below.refuses(request("POST", "/flower/tasks/datatable", "see:see-sécret"))


def test_only_the_table_itself_is_posted_to_by_a_viewer():
    """Flower's own routes take the rest of a path as a name, whatever it looks like."""
    for path in flower_s_own_paths():
        if path.endswith("/x"):
            assert Access(TWO).refuses(request("POST", f"{path}/tasks/datatable", "see:see-sécret")), path


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


SECRET = "a secret of Flower's"


@pytest.mark.parametrize(
    ("operators", "address", "kind"),
    [
        ("", "any@a.test", LoginKind.OPERATOR),
        ("op@a.test", "op@a.test", LoginKind.OPERATOR),
        ("op@a.test", "see@a.test", LoginKind.VIEWER),
        ("op@a.test", "op@a.test.evil.test", LoginKind.VIEWER),
        ("boss@a.test|op@a.test", "op@a.test", LoginKind.OPERATOR),
        (".*@ops.test", "x@ops.test", LoginKind.OPERATOR),
        (".*@ops.test", "x@a.test", LoginKind.VIEWER),
    ],
)
def test_a_login_by_oauth_is_an_operator_s_if_the_settings_say_so(operators, address, kind):
    access = Access(FlowerSettings(operators=operators, options={"auth": ".*@a.test"}), SECRET)
    cookie = create_signed_value(SECRET, "user", address).decode()
    assert kind is access.kind_of(request("POST", "/x", Cookie=f"user={cookie}"))
    assert (kind is LoginKind.VIEWER) is access.refuses(request("POST", "/x", Cookie=f"user={cookie}"))


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


def test_a_cookie_of_another_signature_is_no_operator_s():
    access = Access(FlowerSettings(operators="op@a.test", options={"auth": ".*@a.test"}), SECRET)
    for cookie in ("op@a.test", create_signed_value("guessed", "user", "op@a.test").decode(), ""):
        assert access.refuses(request("POST", "/x", Cookie=f"user={cookie}"))
    assert access.refuses(request("POST", "/x"))
