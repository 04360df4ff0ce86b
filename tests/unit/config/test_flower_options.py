"""Settings that reach Flower's own options."""

import asyncio
import os

import pytest
from flower.options import options as flower_options

from config.celery import make_app
from config.flower import _refuse_to_be_open, make_flower
from stagefleet.errors import SettingsError
from stagefleet.setting_types import FlowerSettings
from stagefleet.settings import Settings


@pytest.fixture
def make(monkeypatch):
    """Makes Flower's application; its options are those of the whole process."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    with make_app(Settings(redis_url="redis://127.0.0.1:1/0")) as app:
        before = flower_options.as_dict()
        yield lambda **settings: make_flower(app, FlowerSettings(**settings))
        for name, value in before.items():
            if getattr(flower_options, name.replace("-", "_")) != value:
                setattr(flower_options, name.replace("-", "_"), value)
    asyncio.set_event_loop(None)
    loop.close()


def test_by_default_tasks_tell_what_they_are_and_dead_workers_leave(make):
    """O-A4: arguments, result and exception are columns; a worker that is gone leaves."""
    make()
    assert {"kwargs", "result", "exception"} <= set(flower_options.tasks_columns.split(","))
    assert 600 == flower_options.purge_offline_workers


def test_options_of_flowers_own_are_set_by_name(make):
    make(options={"auto_refresh": False, "natural_time": True, "max_workers": 7})
    assert (False, True, 7) == (
        flower_options.auto_refresh,
        flower_options.natural_time,
        flower_options.max_workers,
    )


def test_below_a_path_every_link_has_it(make):
    application = make(url_prefix="/flower/")
    assert "flower" == flower_options.url_prefix
    assert application.settings["static_url_prefix"].startswith("/flower/")
    assert application.settings["login_url"].startswith("/flower/")


OAUTH: dict[str, str | int | float | bool] = {
    "auth": ".*@a.test",
    "oauth2_key": "k",
    "oauth2_secret": "s",
    "oauth2_redirect_uri": "http://a.test/login",
}


def test_logins_by_oauth_have_what_flower_s_own_command_gives_them(make):
    application = make(options=OAUTH | {"cookie_secret": "c"}, operators="op@a.test")
    assert "c" == application.settings["cookie_secret"]
    expected = {"key": "k", "secret": "s", "redirect_uri": "http://a.test/login"}
    assert expected == application.settings["oauth"]


EVERYWHERE = "0.0.0.0"  # noqa: S104 - what needs a login


def test_a_login_by_oauth_is_a_login_where_everybody_can_ask():
    _refuse_to_be_open(FlowerSettings(address=EVERYWHERE, options=OAUTH))
    with pytest.raises(SettingsError, match="without a login"):
        _refuse_to_be_open(FlowerSettings(address=EVERYWHERE))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"operators": "op@a.test"}, "set flower.options.auth"),
        ({"operators": "op@*", "options": OAUTH}, "flower.operators: write addresses"),
        ({"options": {"auth": ".*@*"}}, "flower.options.auth: write addresses"),
    ],
)
def test_addresses_that_admit_anybody_are_refused(make, settings, told):
    with pytest.raises(SettingsError, match=told):
        make(**settings)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"auto_refrehs": True}, "did you mean auto_refresh"),
        ({"basic_auth": "me:hunter2"}, "set flower.user and flower.password"),
        ({"max_workers": "many"}, "flower.options.max_workers"),
        ({"conf": "x.py"}, "not read"),
    ],
)
def test_what_cannot_be_set_is_refused_with_advice(make, options, told):
    with pytest.raises(SettingsError, match=told) as refused:
        make(options=options)
    assert "hunter2" not in str(refused.value)


def test_no_variable_opens_the_api_without_a_login(make, monkeypatch):
    """Flower reads this one at each request, beside its options."""
    monkeypatch.setenv("FLOWER_UNAUTHENTICATED_API", "true")
    make()
    assert "FLOWER_UNAUTHENTICATED_API" not in os.environ
