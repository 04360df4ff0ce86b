"""What Flower and remote commands show of a request to start a run."""

import json
from typing import Any

import pytest
from kombu.message import Message

from config.celery import make_app
from stagefleet.errors import StagefleetError
from stagefleet.fleet.fleet import Fleet
from stagefleet.settings import Settings
from tasks.flower_view import shown_arguments
from tasks.runs import StartRunTask
from workers.consumer import BatchedEventsConsumer

PLANTED = "planted-secret"
ARGUMENTS = {
    "operation": "copy",
    "source": "registry.test/app",
    "destination": f"me:{PLANTED}@registry.test/app",
    "on_outcome_url": f"https://hooks.test/services/{PLANTED}?token={PLANTED}",
    "on_finish_url": f"https://me:{PLANTED}@hooks.test:8443/{PLANTED}",
    "stage_ids": ["a", "b", "c", f"https://x/{PLANTED}"],
    f"https://x/?{PLANTED}": {"deep": PLANTED},
    "parallel": 4,
}


def test_arguments_are_shown_without_their_secrets():
    """R16: who reads Flower sees what is asked for, and whom it tells, by host alone."""
    shown = shown_arguments(ARGUMENTS)
    assert PLANTED not in shown
    for part in ("'copy'", "'registry.test/app'", "'https://hooks.test'", "'parallel': 4", "and 1 more"):
        assert part in shown


class Shown(BatchedEventsConsumer):
    """A consumer without a connection."""

    def __init__(self, app):
        self.app = app


@pytest.mark.parametrize("positional", [[], [PLANTED]])
def test_what_a_sender_wrote_to_be_shown_is_not(positional):
    """R16: Celery's clients, Flower among them, write all arguments into the header that events repeat."""
    app = make_app(Settings(redis_url="redis://localhost:1/0"))
    app.register_task(StartRunTask(lambda: Fleet.connect("redis://localhost:1/0")))
    message = Message(
        body=json.dumps([positional, ARGUMENTS, None]).encode(),
        headers={
            "task": "stagefleet.start_run",
            "id": "a",
            "argsrepr": repr(positional),
            "kwargsrepr": repr(ARGUMENTS),
        },
        content_type="application/json",
        content_encoding="utf-8",
        accept={"application/json"},
    )
    Shown(app)._prepare_headers(message)
    assert PLANTED not in repr(message.headers)
    assert "hooks.test" in message.headers["kwargsrepr"]
    assert ARGUMENTS == message.payload[1]


def test_a_worker_tells_no_more_to_who_asks_what_it_does():
    """R16: the answer to `inspect reserved` holds the arguments themselves, unless it is asked otherwise."""
    request: Any = object.__new__(StartRunTask.Request)
    for name, value in {"id": "a", "name": "n", "_args": [PLANTED], "_kwargs": ARGUMENTS}.items():
        setattr(request, name, value)
    for name in ("_argsrepr", "_kwargsrepr", "_type", "_hostname", "_delivery_info"):
        setattr(request, name, "shown")
    assert PLANTED not in repr(request.info())
    assert "shown" == request.info()["kwargs"]


def fail_if_asked() -> Fleet:
    raise AssertionError("what is refused needs no fleet")


def test_a_bug_is_shown_by_its_name_alone(caplog):
    """R16: other people's errors may quote what they were given."""
    app = make_app(Settings(redis_url="redis://localhost:1/0"))

    def fail():
        raise RuntimeError(PLANTED)

    task = app.register_task(StartRunTask(fail))
    with pytest.raises(StagefleetError, match="unexpected RuntimeError") as shown:
        task(operation="copy", source="a.test/app", destination="b.test/app")
    assert PLANTED not in f"{shown.value!r}"
    assert shown.value.__suppress_context__
    assert "unexpected_error" in caplog.text


def test_a_wrong_argument_is_named_without_its_value():
    """R16: a registry with a login, pasted where a repository is due."""
    app = make_app(Settings(redis_url="redis://localhost:1/0"))
    task = app.register_task(StartRunTask(fail_if_asked))
    for wrong in (f"me:{PLANTED}@registry.test/app", f"https://registry.test/app?token={PLANTED}"):
        with pytest.raises(StagefleetError, match="source") as refused:
            task(operation="copy", source=wrong, destination="b.test/app")
        assert PLANTED not in str(refused.value)
