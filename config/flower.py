"""Flower, as this fleet shows itself in it: `python -I -m config.flower` [--address A] [--port P].

Flower's own command would read `flowerconfig.py` from the current directory, options from any `FLOWER_*`
variable, and the password from its arguments, where every user of the host sees it. So its application is
started here, with options from the settings alone.
"""

from __future__ import annotations

import argparse
import atexit
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import structlog
from celery import Task
from flower.app import Flower
from flower.options import options as flower_options
from flower.urls import settings as flower_web_settings

from config.celery import make_app
from config.logging import configure_logging
from stagefleet.errors import SettingsError, StagefleetError
from stagefleet.registry.hosts import is_loopback
from stagefleet.runs.dispatch import task_name
from stagefleet.settings import FlowerSettings, load_settings

__all__ = ["main", "make_flower"]

_log = structlog.get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run Flower until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -I -m config.flower")
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
        flower = make_flower(app, chosen)
        port = _listen(flower)
    except StagefleetError as error:
        sys.stderr.write(f"stagefleet: error: {error}\n")
        sys.exit(error.exit_code)
    atexit.register(flower.stop)
    signal.signal(signal.SIGTERM, _leave)
    address = flower.options.address
    login = "yes" if settings.flower.user else "none: set flower.user and flower.password to open the API"
    _log.info("ready", action="start", url=f"http://{address}:{port}", login=login)
    try:
        flower.start()
    except KeyboardInterrupt:
        sys.exit(0)


def make_flower(app: object, settings: FlowerSettings) -> Flower:
    """Flower's application for a Celery application; it listens to nothing yet.

    Args:
        app: The Celery application.
        settings: Where to listen, the login, and how much to remember.
    """
    flower_options.address = settings.address
    flower_options.port = settings.port
    flower_options.max_tasks = settings.max_tasks
    if settings.user:
        flower_options.basic_auth = [f"{settings.user}:{settings.password.get_secret_value()}"]
    return Flower(capp=app, options=flower_options, **flower_web_settings)


def _refuse_to_be_open(settings: FlowerSettings) -> None:
    """Refuse to show and steer the fleet to whoever reaches this host.

    Raises:
        SettingsError: There is no login, and the address is not a loopback one.
    """
    loopback = is_loopback(settings.address) or is_loopback(f"[{settings.address}]")
    if not settings.user and not loopback:
        raise SettingsError(
            f"Flower would listen at {settings.address or 'every address'} without a login, so that "
            "everybody who reaches it could see and steer the fleet: set flower.user and flower.password, or "
            "flower.address to 127.0.0.1"
        )


class _StartRun(Task):  # type: ignore[misc]  # Celery ships no types
    """Lets Flower's API publish the task by name; its body is the workers'."""

    name = task_name("start_run")
    ignore_result = True


def _listen(flower: Flower) -> int:
    try:
        return int(flower.start_http_server())
    except OSError as error:
        raise SettingsError(
            f"Flower cannot listen at {flower.options.address}:{flower.options.port}: {error.strerror}"
        ) from error


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
