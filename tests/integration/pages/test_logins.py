"""Logins, and a path of a proxy, before the pages of a real Flower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests
from tornado.web import create_signed_value

from tests.integration.pages.conftest import OPERATOR, VIEWER, Pages, Runs
from tests.integration.workers.test_flower import start_flower

SECONDS = 30
COOKIE_SECRET = "a secret that only this server knows"
BOSS, GUEST, STRANGER = "boss@a.test", "guest@a.test", "stranger@b.test"
VIEWER_SETTINGS = {"FLOWER__VIEWER_USER": VIEWER[0], "FLOWER__VIEWER_PASSWORD": VIEWER[1]}


def test_below_a_path_pages_and_api_are_whole(browser: Any, runs: Runs, tmp_path: Path):
    run_id = runs.start("a", "b")
    runs.fail(run_id, 0, "it is broken")
    with start_flower(runs.redis.url, tmp_path, FLOWER__URL_PREFIX="/watch/", **VIEWER_SETTINGS) as address:
        pages = Pages(browser, f"{address}/watch")
        pages.log_in()
        pages.open("runs")
        pages.wait_for(
            f"return document.querySelector('a[href=\"/watch/runs/{run_id}\"]') !== null", "a link"
        )
        text = pages.show_run(run_id, "running")
        assert "BrokenStageError: it is broken" in text
        links = "return [...document.querySelectorAll('a[href], link[href], script[src]')].map("
        links += "element => element.getAttribute('href') || element.getAttribute('src'))"
        local = [link for link in browser.run(links) if link.startswith("/")]
        assert local
        assert [] == [link for link in local if not link.startswith("/watch/")]
        pages.browser.run("document.querySelector('[data-action=pause]').click()")
        pages.wait_for("return document.getElementById('state').innerText === 'paused'", "it is paused")

        def post(path: str, login: tuple[str, str], **options: Any) -> int:
            url = f"{address}{path}"
            return requests.post(url, auth=login, timeout=SECONDS, **options).status_code

        assert 403 == post(f"/watch/api/runs/{run_id}/resume", VIEWER, json={})
        assert 403 == post("/watch/api/task/revoke/x/tasks/datatable", VIEWER, json={})
        asked = {"draw": 1, "start": 0, "length": 15, "columns[0][data]": "name", "order[0][column]": 0}
        assert 200 == post("/watch/tasks/datatable", VIEWER, data=asked)
        assert 200 == post(f"/watch/api/runs/{run_id}/cancel", OPERATOR, json={})
        for path in ("/runs", "/api/runs"):
            assert 404 == requests.get(f"{address}{path}", auth=OPERATOR, timeout=SECONDS).status_code


@pytest.mark.parametrize(
    ("login", "looks", "cancels"), [(BOSS, 200, 200), (GUEST, 200, 403), (STRANGER, 401, 401), ("", 401, 401)]
)
def test_a_login_by_oauth_may_only_look_if_the_settings_say_so(
    oauth_flower: str, runs: Runs, login: str, looks: int, cancels: int
):
    """Flower signs the address of a login in a cookie, whichever provider it is of."""
    run_id = runs.start("a")
    cookies = {"user": create_signed_value(COOKIE_SECRET, "user", login).decode()} if login else {}
    api = f"{oauth_flower}/api/runs/{run_id}"
    assert looks == requests.get(api, cookies=cookies, timeout=SECONDS).status_code
    assert cancels == requests.post(f"{api}/cancel", json={}, cookies=cookies, timeout=SECONDS).status_code
    shown = requests.get(
        f"{oauth_flower}/runs/{run_id}", cookies=cookies, timeout=SECONDS, allow_redirects=False
    )
    assert (200 if looks == 200 else 302) == shown.status_code
    assert (login == BOSS) == ("data-action" in shown.text)
    runs.ledger.cancel(run_id)


def test_a_cookie_that_flower_has_not_signed_is_nobody_s(oauth_flower: str, runs: Runs):
    run_id = runs.start("a")
    for secret in ("guessed", ""):
        cookies = {"user": create_signed_value(secret, "user", BOSS).decode()}
        answer = requests.post(
            f"{oauth_flower}/api/runs/{run_id}/cancel", json={}, cookies=cookies, timeout=SECONDS
        )
        assert 401 == answer.status_code
    runs.ledger.cancel(run_id)


@pytest.fixture(scope="module")
def oauth_flower(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = {
        "auth": ".*@a.test",
        "auth_provider": "flower.views.auth.GithubLoginHandler",
        "oauth2_key": "an-id",
        "oauth2_secret": "a-secret",
        "oauth2_redirect_uri": "http://127.0.0.1/login",
        "cookie_secret": COOKIE_SECRET,
    }
    settings = {
        "FLOWER__USER": "",
        "FLOWER__PASSWORD": "",
        "FLOWER__OPERATORS": BOSS,
        "FLOWER__OPTIONS": json.dumps(options),
    }
    with start_flower(runs.redis.url, tmp_path_factory.mktemp("oauth"), **settings) as address:
        yield address


def test_who_has_no_login_is_sent_to_the_provider(oauth_flower: str):
    sent = requests.get(f"{oauth_flower}/login", timeout=SECONDS, allow_redirects=False)
    assert 302 == sent.status_code
    assert sent.headers["Location"].startswith("https://github.com/login/oauth/authorize?")
    assert "client_id=an-id" in sent.headers["Location"]
