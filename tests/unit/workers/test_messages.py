"""Which messages a worker takes."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from kombu.message import Message

from stagefleet.runs.messages import coordinator_template, message_template, problem_of_item, problem_of_run
from tasks.runs import CoordinateNextRunTask, CoordinateTask
from workers import consumer
from workers.consumer import problem_of

RUN = "0123456789ab"
TASKS = {
    "stagefleet.copy_stage": SimpleNamespace(problem_of=problem_of_item),
    "stagefleet.coordinate": SimpleNamespace(problem_of=problem_of_run),
    "stagefleet.start_run": SimpleNamespace(),
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def message(template: str | None = None, **changes: Any) -> Any:
    """A message as kombu hands it on."""
    text = (template or message_template("copy_stage")).replace("@RUN@", RUN).replace("@INDEX@", "0")
    raw = json.loads(text)
    made = {
        "body": raw["body"].encode(),
        "headers": raw["headers"],
        "content_type": raw["content-type"],
        "content_encoding": raw["content-encoding"],
    }
    return Message(accept={"application/json"}, **made | changes)


def called(named: Any, positional: Any = (), embedded: Any = None) -> Any:
    return message(body=json.dumps([positional, named, embedded]).encode())


@pytest.mark.parametrize("template", [message_template("copy_stage"), coordinator_template()])
def test_what_the_ledger_publishes_is_taken(template):
    assert problem_of(message(template), TASKS) is None


def test_a_coordinator_that_starts_the_next_run_is_no_task_of_a_release_without_next_runs():
    """Such a worker would end the coordination, and nobody would start the next run."""
    template = coordinator_template(starts_next=True)
    assert CoordinateNextRunTask.name == message(template).headers["task"] not in TASKS
    assert CoordinateTask.name == message(coordinator_template()).headers["task"]


def test_what_a_later_release_adds_is_left_alone():
    assert problem_of(called({"run": RUN, "index": 0, "version": 3}), TASKS) is None


def test_a_sound_message_for_a_task_of_another_release_is_told_of_before_it_is_dropped():
    """R9: what is wrong with a task's name is for who fails its item, not for who checks messages."""
    unknown = called({"run": RUN, "index": 0})
    unknown.headers["task"] = "stagefleet.squash_stage"
    assert problem_of(unknown, TASKS) is None


def test_a_task_without_rules_of_its_own_takes_any_arguments():
    request = message(body=json.dumps([[1], {"operation": ["copy"]}, None]).encode())
    request.headers["task"] = "stagefleet.start_run"
    assert problem_of(request, TASKS) is None


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (called({"run": RUN, "index": "0"}), "its index is no item's number"),
        (called({"run": RUN, "index": -1}), "its index is no item's number"),
        (called({"run": RUN, "index": True}), "its index is no item's number"),
        (called({"run": RUN, "index": 1_000_000}), "its index is no item's number"),
        (called({"run": RUN}), "its index is no item's number"),
        (called({"index": 0}), "its run is no run's id"),
        (called({"run": 5, "index": 0}), "its run is no run's id"),
        (called({"run": f"{RUN}:items", "index": 0}), "its run is no run's id"),
        (called({"run": RUN, "index": 0}, [1]), "it has positional arguments"),
        (called({"run": RUN, "index": 0, "self": 1}), "an argument has no name of its own"),
        (called([]), "parts: dict_type"),
        (called({"run": RUN, "index": 0}, embedded={"callbacks": 5}), "parts.callbacks: list_type"),
        (message(body=b"{}"), "its body is no list"),
        (message(body=b"\xff"), "its body cannot be decoded (DecodeError)"),
        (message(content_type="application/x-python-serialize"), "content_type: literal_error"),
        (message(headers={"id": "a"}), "task: missing"),
    ],
)
def test_another_message_is_refused_with_a_reason(wrong, problem):
    """R9: what a task of ours could not read is dropped before a thread is taken for it."""
    assert problem == problem_of(wrong, TASKS)


@settings(deadline=None)  # the machine may be busy
@given(
    header=st.sampled_from(
        [
            "task",
            "id",
            "root_id",
            "eta",
            "expires",
            "retries",
            "timelimit",
            "argsrepr",
            "stamps",
            "ignore_result",
        ]
    ),
    value=VALUES,
    body=st.binary(max_size=30) | VALUES.map(lambda value: json.dumps(value).encode()),
)
def test_any_message_is_taken_or_refused(header, value, body):
    """R9: nothing in a message raises."""
    odd = message(body=body)
    odd.headers[header] = value
    problem = problem_of(odd, TASKS)
    assert problem is None or problem.isascii()


@pytest.mark.parametrize("template", [message_template("copy_stage"), coordinator_template()])
def test_what_the_ledger_publishes_needs_no_model(template):
    """Issue 10: the models took a twentieth of the CPU of an item that does nothing."""
    usual = message(template)
    assert consumer._are_usual(usual.headers)
    assert consumer._is_usual(usual.decode())


@settings(deadline=None)  # the machine may be busy
@given(
    header=st.sampled_from([*message().headers, "more"]),
    value=VALUES | st.sampled_from([0, 0.0, False, 1, True, "", "a\x7f", "a" * 256, {}, [None], None]),
    part=st.integers(0, 3),
    key=st.sampled_from(["callbacks", "chord", "more", None]),
)
def test_the_models_accept_what_is_usual(header, value, part, key):
    headers = message().headers | {header: value}
    if consumer._are_usual(headers):
        consumer._Headers.model_validate(headers)
    body = message().decode()
    body[part : part + 1] = [value] if key is None or part != 2 else [body[2] | {key: value}]
    if consumer._is_usual(body):
        consumer._Body.model_validate({"parts": tuple(body)})
