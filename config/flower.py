"""Flower for this fleet: `python -I -m config.flower` [--address A] [--port P].

Flower's own command would read `flowerconfig.py` from the current directory, options from any `FLOWER_*`
variable, and the password from its arguments, where every user of the host sees it. So its application is
started here, with options from the settings alone.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from celery import Task
from flower.app import Flower
from flower.options import options as flower_options
from flower.urls import settings as flower_web_settings
from flower.utils.authentication import validate_auth_option
from flower.views.error import NotFoundErrorHandler
from tornado.escape import xhtml_escape
from tornado.httputil import HTTPServerRequest
from tornado.options import Error as TornadoError
from tornado.web import TemplateModule

from config.celery import make_app
from config.logging import configure_logging
from config.pages.access import Access
from config.pages.handlers import PathRefusalHandler, RefusalHandler, Services, base_of, routes
from config.pages.observer import RunObserver, SharedReads
from stagefleet.errors import RedisUnreachableError, SettingsError, StagefleetError
from stagefleet.logs import EventLogger
from stagefleet.redis_facts import check_redis
from stagefleet.registry.http.origins import is_loopback
from stagefleet.runs.messages import task_name
from stagefleet.setting_types import FlowerSettings
from stagefleet.settings import Settings, load_settings
from stagefleet.streams import prepare_streams

_log = EventLogger(__name__)

_OURS = {
    "address": "set flower.address",
    "port": "set flower.port",
    "max_tasks": "set flower.max_tasks",
    "tasks_columns": "set flower.tasks_columns",
    "purge_offline_workers": "set flower.purge_offline_workers_seconds",
    "url_prefix": "set flower.url_prefix",
    "basic_auth": "set flower.user and flower.password, and flower.viewer_user for who may only look",
    "conf": "Flower's own file is not read: set its options here",
    "broker_api": "Redis has none",
}
"""Flower options that have a setting of ours."""
_OPENS_API = "FLOWER_UNAUTHENTICATED_API"
"""The one variable that Flower reads beside its options: it opens the API to everybody."""
_KNOWN = frozenset(name.replace("-", "_") for name in flower_options)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run Flower until a signal stops it."""
    prepare_streams()
    parser = argparse.ArgumentParser(prog="stagefleet flower")
    parser.add_argument("--address", help="where to listen")
    parser.add_argument("--port", type=int, help="0 takes a free one")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    try:
        settings = load_settings()
        configure_logging(settings.log)
        app = make_app(settings)
        app.register_task(_StartRun())
        chosen = settings.flower.model_copy(update=given)
        _refuse_to_be_open(chosen)
        asyncio.set_event_loop(asyncio.new_event_loop())
        flower = make_flower(app, chosen)
        add_pages(flower, settings.model_copy(update={"flower": chosen}))
        _check_redis(settings)
        port = _listen(flower)
    except StagefleetError as error:
        sys.stderr.write(f"stagefleet: error: {error}\n")
        sys.exit(error.exit_code)
    atexit.register(flower.stop)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    address = flower.options.address
    has_login = settings.flower.user or flower_options.auth
    login = "yes" if has_login else "none: set flower.user and flower.password to open the API"
    _log.info("ready", action="start", url=f"http://{address}:{port}", login=login)
    try:
        flower.start()
    except KeyboardInterrupt:
        sys.exit(0)


def make_flower(app: object, settings: FlowerSettings) -> Flower:
    """Create Flower's application on the current event loop; it does not listen yet."""
    os.environ.pop(_OPENS_API, None)  # Flower itself asks the environment at each request
    flower_options.address = settings.address
    flower_options.port = settings.port
    flower_options.max_tasks = settings.max_tasks
    flower_options.tasks_columns = settings.tasks_columns
    flower_options.purge_offline_workers = settings.purge_offline_workers_seconds
    logins = {settings.user: settings.password, settings.viewer_user: settings.viewer_password}
    if settings.user:
        flower_options.basic_auth = [
            f"{user}:{password.get_secret_value()}" for user, password in logins.items() if user
        ]
    _set_options(settings.options)
    web_settings = {
        **flower_web_settings,
        "ui_modules": {"Template": _StyledTemplate},
        **_oauth_settings(settings),
    }
    if prefix := settings.url_prefix.strip("/"):
        flower_options.url_prefix = prefix
        for name in ("login_url", "static_url_prefix"):  # as in Flower's own command
            web_settings[name] = f"/{prefix}{web_settings[name]}"
    access = Access(settings, web_settings["cookie_secret"])
    return FleetFlower(access, capp=app, options=flower_options, **web_settings)


def _oauth_settings(settings: FlowerSettings) -> dict[str, Any]:
    """Return what Flower's own command makes of its options for logins by OAuth."""
    for name, pattern in (("options.auth", flower_options.auth), ("operators", settings.operators)):
        if not validate_auth_option(pattern):
            raise SettingsError(f"flower.{name}: write addresses with | between them, or .*@DOMAIN")
    if settings.operators and not flower_options.auth:
        raise SettingsError("flower.operators is of logins by OAuth: set flower.options.auth, too")
    found = {"cookie_secret": flower_options.cookie_secret}
    if flower_options.auth:
        names = ("key", "secret", "redirect_uri")
        found["oauth"] = {name: getattr(flower_options, f"oauth2_{name}") for name in names}
    return found


class FleetFlower(Flower):  # type: ignore[misc]  # Flower ships no types
    """Flower's application, which refuses what a viewer's login would change on any route."""

    def __init__(self, access: Access, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.access = access

    def get_handler_delegate(
        self, request: HTTPServerRequest, target_class: Any, *more: Any, **about: Any
    ) -> Any:
        """Hand a request to its handler; an unknown path below `/api` to one that answers JSON."""
        api = f"{base_of(self.options.url_prefix or '')}/api"
        if target_class is NotFoundErrorHandler and f"{request.path}/".startswith(f"{api}/"):
            return super().get_handler_delegate(request, PathRefusalHandler)
        return super().get_handler_delegate(request, target_class, *more, **about)

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        """Find the handler of a request; for a viewer that would change something, one that refuses it."""
        if self.access.refuses(request):
            return self.get_handler_delegate(request, RefusalHandler)
        return super().find_handler(request, **options)


def add_pages(flower: FleetFlower, settings: Settings) -> None:
    """Add the pages of runs and their API; both connect at the first request."""
    assert settings.redis_url is not None, "the application has one"
    observer, reads = RunObserver(settings.redis_url, settings), SharedReads()
    flower.add_handlers(r".*", routes(Services(flower.access, observer, reads), settings.flower.url_prefix))
    atexit.register(observer.close)
    atexit.register(reads.close)


def _set_options(options: Mapping[str, str | float | bool]) -> None:
    """Set Flower's own options by name; refuse one that does not exist, or has a setting of ours."""
    for name, value in options.items():
        if name in _OURS:
            raise SettingsError(f"flower.options.{name}: {_OURS[name]}")
        if name not in _KNOWN:
            close = get_close_matches(name, _KNOWN, 1)
            advice = f": did you mean {close[0]}?" if close else ""
            raise SettingsError(f"flower.options.{name}: Flower has no such option{advice}")
        try:
            setattr(flower_options, name, value)
        except (TornadoError, ValueError, TypeError) as error:
            raise SettingsError(f"flower.options.{name}: {error}") from None


def _check_redis(settings: Settings) -> None:
    """Refuse an unsuitable Redis, as waiting does not help; Flower waits for one that is unreachable."""
    assert settings.redis_url is not None, "the application has one"
    try:
        check_redis(settings.redis_url, settings.key_prefix)
    except RedisUnreachableError as error:
        _log.warning("out_of_reach", action="start", error=str(error))


def _refuse_to_be_open(settings: FlowerSettings) -> None:
    """Refuse to show and control the fleet without a login on a public address."""
    loopback = is_loopback(settings.address) or is_loopback(f"[{settings.address}]")
    if not (settings.user or settings.options.get("auth")) and not loopback:
        raise SettingsError(
            f"Flower would listen at {settings.address or 'every address'} without a login, so that "
            "everybody who reaches it could see and steer the fleet: set flower.user and flower.password, or "
            "flower.address to 127.0.0.1"
        )


class _StartRun(Task):  # type: ignore[misc]  # Celery ships no types
    """Task that lets Flower's API publish by name; workers have the body."""

    name = task_name("start_run")
    ignore_result = True


def _listen(flower: Flower) -> int:
    try:
        return int(flower.start_http_server())
    except OSError as error:
        raise SettingsError(
            f"Flower cannot listen at {flower.options.address}:{flower.options.port}: {error.strerror}"
        ) from error


# Style of Flower's page of tasks, so that arguments and results are readable without scrolling sideways.
#
# Flower (2.2) shows each cell on one line, cut at the column's edge: of our tasks' arguments that is half
# of a stage id. Each of its pages contains `Template`, a module of Tornado's, and a module may add a style:
# https://www.tornadoweb.org/en/stable/web.html#tornado.web.UIModule.embedded_css

_STYLE = """
.tasks-table { font-size: 0.75rem; }
.tasks-table.table > :not(caption) > * > * { padding: 0.5rem; }
.tasks-table td { overflow-wrap: anywhere; }
.tasks-table td.text-nowrap, .tasks-table .worker-name-link, .tasks-table .task-uuid-full {
  white-space: normal !important;
}
.tasks-table .worker-name-link { display: inline; }
.tasks-table th[data-column="name"] { min-width: 9.5rem; }
.tasks-table th[data-column="kwargs"] { min-width: 21rem; }
.tasks-table th[data-column="result"] { min-width: 5.5rem; }
.tasks-table th[data-column="exception"] { min-width: 11.5rem; }
.tasks-table th[data-column="received"] { min-width: 4.5rem; }
.tasks-table th[data-column="worker"] { min-width: 7rem; }
.tasks-table th[data-column="uuid"] { min-width: 8.25rem; }
"""


_FIRST_LINKS = b'<ul class="app-nav navbar-nav">'
"""Where Flower's bar has its links, to workers, tasks and broker."""
_LINK = '<li class="nav-item"><a class="nav-link{active}" href="{address}"{current}>Runs</a></li>'


class _StyledTemplate(TemplateModule):
    """Tornado's `Template` module with our style, and a link to the pages of runs."""

    def embedded_css(self) -> str:
        """Return the style for the page's head; included once per page."""
        return f"{super().embedded_css()}{_STYLE}"

    def render(self, path: str, **values: Any) -> bytes:
        """Render a template; the bar of all pages gets a link to the runs."""
        rendered = super().render(path, **values)
        if path != "navbar.html":
            return rendered
        active = values.get("active_tab") == "runs"
        link = _LINK.format(
            address=xhtml_escape(self.handler.reverse_url("runs")),
            active=" active" if active else "",
            current=' aria-current="page"' if active else "",
        )
        return rendered.replace(_FIRST_LINKS, _FIRST_LINKS + link.encode(), 1)
