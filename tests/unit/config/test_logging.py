"""Logs: one JSON object a line, whoever wrote it, and no passwords."""

import json
import logging
import subprocess
import sys

import pytest
import structlog

from config.logging import configure_logging
from stagefleet.cli.session import configure_logs
from stagefleet.logs import EventLogger
from stagefleet.redaction import remember_secret
from stagefleet.settings import LogSettings


@pytest.fixture(autouse=True)
def _restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
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
        EventLogger("stagefleet.test").info("ours", action="test")
        logging.getLogger("some.library").warning("theirs %d", 1)
    ours, theirs = records(capsys)
    assert ("ours", "theirs 1") == (ours["event"], theirs["event"])
    for record in (ours, theirs):
        assert ("r1", "a", "worker-1@here") == (record["run"], record["item"], record["worker"])
        assert "timestamp" in record
    assert ("info", "warning") == (ours["level"], theirs["level"])


def test_what_is_below_the_level_is_not_written(capsys):
    configure_logging(LogSettings(level="warning"))
    EventLogger("stagefleet.test").info("quiet")
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
        EventLogger("stagefleet.test").error("failed", exc_info=error, url="https://me:hunter2@host/x")
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "user:***@host:1" in said
    assert "Traceback" in said


@pytest.mark.parametrize(
    "name", ["urllib3.connectionpool", "celery.pool", "docker.auth", "kombu", "redis", "any"]
)
def test_libraries_never_tell_what_they_tell_at_debug(capsys, name):
    """R16: urllib3 tells signed addresses there, Celery arguments, docker-py logins."""
    configure_logging(LogSettings(level="debug"))
    logging.getLogger(name).debug("GET /blob?X-Amz-Signature=planted")
    assert [] == records(capsys)


def test_urllib3_tells_no_address_at_warning_either(capsys):
    """R16: of a header that it cannot read it tells the whole address."""
    configure_logging(LogSettings(level="debug"))
    logging.getLogger("urllib3.connection").warning("Failed to parse headers (url=https://a.test/planted)")
    assert [] == records(capsys)


def test_ours_tell_what_they_tell_at_debug(capsys):
    configure_logging(LogSettings(level="debug"))
    logging.getLogger("stagefleet.storages").debug("ours")
    EventLogger("stagefleet.test").debug("ours, too")
    assert ["ours", "ours, too"] == [record["event"] for record in records(capsys)]


@pytest.mark.parametrize("json_lines", [True, False])
def test_what_was_read_as_a_secret_is_masked_in_every_record(capsys, json_lines):
    """R16: also in a traceback, in a value, and where JSON or Python escapes it."""
    secret = 'planted "secret" \\ of é'
    remember_secret(secret)
    configure_logging(LogSettings(json_lines=json_lines))
    logging.getLogger("some.library").warning("got %r", secret)
    EventLogger("stagefleet.test").warning("ours", value={"deep": [secret]}, text=secret)

    def fail() -> None:
        raise OSError(secret)

    try:
        fail()
    except OSError as error:
        EventLogger("stagefleet.test").error("failed", exc_info=error)
        logging.getLogger("some.library").exception("failed")
    said = capsys.readouterr().err
    assert "planted" not in said
    assert 4 <= said.count("***")


def test_a_command_s_logs_are_masked_too(capsys):
    """R16: rich tracebacks show local variables, and libraries tell addresses."""
    logging.getLogger().handlers[:] = []
    remember_secret("planted-secret")
    configure_logs(LogSettings(level="debug"))
    logging.getLogger("urllib3.connectionpool").debug("planted-secret")
    logging.getLogger("stagefleet").warning("to redis://me:planted@redis.test and planted-secret")

    def fail() -> None:
        password = "planted local variable"
        raise OSError("no answer", len(password))

    try:
        fail()
    except OSError as error:
        EventLogger("stagefleet.test").error("failed", exc_info=error)
    said = capsys.readouterr().err
    assert "planted@" not in said
    assert "planted-secret" not in said
    assert "local variable'" not in said.replace('password = "planted local variable"', "")
    assert "Traceback" in said


def test_a_record_of_ours_has_its_facts_as_fields(capsys):
    configure_logging(LogSettings())
    EventLogger("stagefleet.test").info("counted", action="test", total=3, url="https://me:hunter2@host/x")
    (record,) = records(capsys)
    assert {"event": "counted", "action": "test", "total": 3, "level": "info"}.items() <= record.items()
    assert "hunter2" not in record["url"]


def test_a_program_that_configures_nothing_hears_warnings_alone_and_on_stderr():
    """A library must not write to its user's stdout."""
    program = (
        "from stagefleet.logs import EventLogger\n"
        "EventLogger('stagefleet.test').info('quiet', item='a')\n"
        "EventLogger('stagefleet.test').warning('heard', item='a')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ("", "heard item=a\n") == (done.stdout, done.stderr)


def test_a_command_says_events_with_their_facts(capsys):
    configure_logs(LogSettings(), verbose=True)
    EventLogger("stagefleet.test").info("counted", total=3)
    assert "stagefleet: counted total=3\n" == capsys.readouterr().err


@pytest.mark.parametrize("json_lines", [True, False])
def test_no_record_changes_the_direction_of_text(capsys, json_lines):
    """A terminal may show the log of a worker, colours and all."""
    configure_logging(LogSettings(json_lines=json_lines))
    EventLogger("stagefleet.test").info("told", action="test", error="denied: \u202egpj.exe \x9b")
    logging.getLogger("some.library").warning("denied: \u202egpj.exe \x9b")
    told = capsys.readouterr().err
    assert 2 == told.count("gpj.exe")
    assert {"\u202e", "\x9b"}.isdisjoint(told)
