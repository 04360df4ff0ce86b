"""Raw bytes in the queues of a live worker: each costs itself alone."""

import base64
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from stagefleet.runs.messages import message_template
from tests.integration.workers.conftest import eventually

QUEUE = "stagefleet:mq:wait"
COORDINATE = "stagefleet:mq:coordinate"
PIDBOX = "stagefleet:mq:/0.celery.pidbox"
SECRET = "planted-in-a-message-0a1b2c"
"""Stands in most of them: nothing of what a message holds is logged."""


def item_message(**changes: Any) -> dict[str, Any]:
    """A message as the ledger publishes it, with changes."""
    text = message_template("wait").replace("@RUN@", "0123456789ab").replace("@TASK@", "a-task")
    text = text.replace("@INDEX@", "0").replace("@QUEUE@", "wait").replace("@ITEM@", "x")
    message: dict[str, Any] = json.loads(text) | changes
    return message


def called(arguments: Any, embed: Any = None, **headers: Any) -> dict[str, Any]:
    """A message with other arguments or headers."""
    message = item_message(body=json.dumps([[], arguments, embed or {}]))
    return message | {"headers": message["headers"] | headers}


def without(field: str, *, inside: str) -> dict[str, Any]:
    message = item_message()
    del message[inside][field]
    return message


def properties(**changes: Any) -> dict[str, Any]:
    message = item_message()
    return message | {"properties": message["properties"] | changes}


SOUND = {"run": "0123456789ab", "index": 0}
NO_ENVELOPES: dict[str, bytes] = {
    "garbage": b"\x00\x01garbage " + SECRET.encode(),
    "no utf-8": b'{"body": "\xff\xfe"}',
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "an empty object": b"{}",
    "cut short": json.dumps(item_message()).encode()[:-20],
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "a long number": b'{"properties": ' + b"9" * 5000 + b"}",
    "a typed value": b'{"__type__": "uuid", "__value__": 5}',
    "huge": b'"' + b"x" * 17_000_000 + b'"',
}
ENVELOPES: dict[str, dict[str, Any]] = {
    "properties null": item_message(properties=None),
    "properties a string": item_message(properties=SECRET),
    "no delivery tag": without("delivery_tag", inside="properties"),
    "a list as delivery tag": properties(delivery_tag=[SECRET]),
    "an empty delivery tag": properties(delivery_tag=""),
    "delivery info a string": properties(delivery_info=SECRET),
    "an unknown body encoding": properties(body_encoding="rot13"),
    "no base64": properties(body_encoding="base64"),
    "headers a string": item_message(headers=SECRET),
    "headers a list": item_message(headers=[SECRET]),
    "no headers": item_message(headers=None),
    "a body that is no text": item_message(body=[1]),
    "a body with half a surrogate": item_message(body='"\ud800"'),
    "no body": item_message(body=None),
    "compressed": called(SOUND, compression="application/x-gzip"),
    "pickle": item_message(
        body=base64.b64encode(pickle.dumps([[], SOUND, {}])).decode(),
        **{"content-type": "application/x-python-serialize"},
    ),
    "an unknown content type": item_message(**{"content-type": "text/x-nothing"}),
    "a content type that is none": item_message(**{"content-type": [SECRET]}),
    "an unknown content encoding": item_message(**{"content-type": None, "content-encoding": "klingon"}),
    "a body that is no json": item_message(body="{" + SECRET),
    "a body of another shape": item_message(body=json.dumps({"secret": SECRET})),
    "a body of two": item_message(body=json.dumps([[], {}])),
    "arguments that are no list": item_message(body=json.dumps([SECRET, {}, {}])),
    "keywords that are a list": item_message(body=json.dumps([[], [SECRET], {}])),
    "a deep body": item_message(body="[" * 50_000 + "]" * 50_000),
    "callbacks that are a number": called(SOUND, {"callbacks": 5, "errbacks": "x", "chain": 1, "chord": []}),
    "an unknown task": called(SOUND, task="stagefleet.nothing"),
    "a task that is a list": called(SOUND, task=[SECRET]),
    "no task": without("task", inside="headers"),
    "no id": without("id", inside="headers"),
    "a list as id": called(SOUND, id=[SECRET]),
    "a time limit that is a number": called(SOUND, timelimit=5),
    "retries that are text": called(SOUND, retries=SECRET),
    "an eta that is none": called(SOUND, eta=SECRET),
    "an eta that is a number": called(SOUND, eta=5),
    "an expiry that is none": called(SOUND, expires=SECRET),
    "stamps that are text": called(SOUND, stamps=SECRET, stamped_headers=5),
    "an index that is text": called({"run": "0123456789ab", "index": "0"}),
    "a negative index": called({"run": "0123456789ab", "index": -1}),
    "an index that is true": called({"run": "0123456789ab", "index": True}),
    "an enormous index": called({"run": "0123456789ab", "index": 10**30}),
    "no index": called({"run": "0123456789ab"}),
    "a run that is a number": called({"run": 5, "index": 0}),
    "a run that is another key": called({"run": "0123456789ab:items", "index": 0}),
    "an argument named self": called(SOUND | {"self": SECRET}),
    "positional arguments": item_message(body=json.dumps([[SECRET], SOUND, {}])),
}
CONTROL: dict[str, dict[str, Any]] = {
    "a list": {"body": json.dumps([SECRET])},
    "an unknown command": {"body": json.dumps({"method": SECRET})},
    "no method": {"body": json.dumps({"destination": None})},
    "arguments of another shape": {"body": json.dumps({"method": "ping", "arguments": SECRET})},
    "a reply to nowhere": {"body": json.dumps({"method": "ping", "reply_to": SECRET, "ticket": "x"})},
    "a clock that is text": {"body": json.dumps({"method": "ping"}), "headers": {"clock": SECRET}},
    "no json": {"body": SECRET},
}


def raw_messages() -> Iterator[bytes]:
    yield from NO_ENVELOPES.values()
    yield from (json.dumps(message).encode() for message in ENVELOPES.values())


@pytest.fixture
def log(workers):
    """What the workers have said; nothing of it is an error of theirs."""
    yield workers
    said = workers.log.read_text()
    assert SECRET not in said
    assert base64.b64encode(SECRET.encode()).decode()[:20] not in said
    troubles = {"Traceback", "Unrecoverable", "Connection to broker lost", "process_died", "unexpected_error"}
    assert [] == [trouble for trouble in troubles if trouble in said]


def test_a_malformed_message_costs_itself_alone(log, fleet, redis_server):
    """R9: whatever lies in a queue, the worker drops it, reconnects to nothing, and its items finish."""
    log.start(processes=1)
    (pid,) = log.pids
    client = redis_server.client()
    under_way = fleet.submit(2, parallel=2, seconds=1)
    eventually(lambda: fleet.ledger.run(under_way).claimed == 2, "both are under way")
    connections = {entry["id"] for entry in client.client_list(_type="pubsub")}

    hostile = list(raw_messages())
    client.lpush(QUEUE, *hostile)
    client.lpush(COORDINATE, *hostile, json.dumps(called({"run": 7}, task="stagefleet.coordinate")))
    for message in hostile:
        client.publish(PIDBOX, message)
    for number, changes in enumerate(CONTROL.values()):
        command = properties(delivery_tag=f"control-{number}") | {"headers": {"clock": 1}} | changes
        client.publish(PIDBOX, json.dumps(command))
    afterwards = fleet.submit(8, seconds=0)

    for run, count in ((under_way, 2), (afterwards, 8)):
        finished, outcomes = fleet.follow(run)
        assert ("succeeded", count) == (finished.state, finished.succeeded)
        assert {1} == {outcome.attempts for outcome in outcomes}
    eventually(lambda: not client.exists(QUEUE, COORDINATE), "all are taken")
    expected = 3 * len(hostile) + 1 + len(CONTROL)
    eventually(lambda: len(log.said("message_dropped")) >= expected, "all are told of")
    dropped = log.said("message_dropped")
    assert expected == len(dropped)
    assert all({"queue", "reason", "bytes", "sha256", "action"} <= record.keys() for record in dropped)
    assert [pid] == log.pids
    assert connections == {entry["id"] for entry in client.client_list(_type="pubsub")}
    assert 0 == client.zcard("stagefleet:mq:unacked_index")
