"""Logs: one JSON object a line, whoever wrote it, and no passwords."""

import json
import logging

import pytest
import structlog

from config.logging import configure_logging
from stagefleet.settings import LogSettings


@pytest.fixture(autouse=True)
def _restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def records(capsys):
    captured = capsys.readouterr()
    assert "" == captured.out
    return [json.loads(line) for line in captured.err.splitlines()]


def test_records_of_ours_and_of_libraries_look_alike(capsys):
    configure_logging(LogSettings(), worker="worker-1@here")
    with structlog.contextvars.bound_contextvars(run="r1", item="a"):
        structlog.get_logger().info("ours", action="test")
        logging.getLogger("some.library").warning("theirs %d", 1)
    ours, theirs = records(capsys)
    assert ("ours", "theirs 1") == (ours["event"], theirs["event"])
    for record in (ours, theirs):
        assert ("r1", "a", "worker-1@here") == (record["run"], record["item"], record["worker"])
        assert "timestamp" in record
    assert ("info", "warning") == (ours["level"], theirs["level"])


def test_what_is_below_the_level_is_not_written(capsys):
    configure_logging(LogSettings(level="warning"))
    structlog.get_logger().info("quiet")
    logging.getLogger("some.library").info("quiet")
    assert [] == records(capsys)


def test_celery_does_not_tell_of_each_task_except_when_asked(capsys):
    configure_logging(LogSettings(level="info"))
    logging.getLogger("celery.app.trace").info("Task succeeded")
    assert [] == records(capsys)
    configure_logging(LogSettings(level="debug"))
    logging.getLogger("celery.app.trace").info("Task succeeded")
    assert ["Task succeeded"] == [record["event"] for record in records(capsys)]


@pytest.mark.parametrize("json_lines", [True, False])
def test_passwords_in_urls_are_masked_also_in_tracebacks(capsys, json_lines):
    configure_logging(LogSettings(json_lines=json_lines))
    logging.getLogger("celery.worker").warning("Connected to %s", "redis://user:hunter2@host:1/0")

    def connect() -> None:
        raise OSError("no answer from redis://:hunter2@host:1/0")

    try:
        connect()
    except OSError as error:
        structlog.get_logger().error("failed", exc_info=error, url="https://me:hunter2@host/x")
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "user:***@host:1" in said
    assert "Traceback" in said
