"""The message that the ledger's scripts push, held against the one that Celery and kombu write."""

import base64
import json

import pytest

from config.celery import make_app
from stagefleet.runs.messages import queue_key, queue_of, task_name
from stagefleet.runs.models import RunSpec
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.runs.versions import SCHEMA_VERSION
from stagefleet.settings import Settings

ITEM = 'a "quoted" % item, @RUN@ and 日本'


@pytest.fixture
def settings(redis_server):
    return Settings(redis_url=redis_server.url)


@pytest.fixture
def ours(settings, redis_server):
    ledger = RedisLedger.connect(redis_server.url, settings)
    submission = ledger.open(RunSpec(operation="copy_stage"))
    ledger.append(submission, [ITEM])
    ledger.start(submission)
    message = json.loads(redis_server.client().rpop(queue_key(settings.key_prefix, "copy")))
    ledger.close()
    return submission.run_id, message


@pytest.fixture
def celerys(ours, settings, redis_server):
    run, _ = ours
    with make_app(settings) as app:
        app.send_task(
            task_name("copy_stage"),
            kwargs={"run": run, "index": 0},
            task_id=f"{run}.0.1",
            argsrepr=f"('{ITEM}',)",
            kwargsrepr=f"{{'stage': '{ITEM}', 'operation': 'copy_stage', 'run': '{run}'}}",
            queue=queue_of("copy_stage"),
            ignore_result=True,
        )
    message = json.loads(redis_server.client().rpop(queue_key(settings.key_prefix, "copy")))
    # kombu wraps bodies in base64 and says so; a body without `body_encoding` is taken as it stands
    assert message["properties"].pop("body_encoding") == "base64"
    # send_task hands all its options on as properties, these of the headers included
    message["properties"].pop("argsrepr")
    message["properties"].pop("kwargsrepr")
    return message


def test_the_envelope_has_exactly_what_kombu_writes(ours, celerys):
    _, message = ours

    assert celerys.keys() == message.keys()
    assert celerys["properties"].keys() == message["properties"].keys()
    assert celerys["properties"]["delivery_info"] == message["properties"]["delivery_info"]
    assert celerys["content-type"] == message["content-type"]
    assert celerys["content-encoding"] == message["content-encoding"]


def test_the_headers_are_those_that_celery_writes(ours, celerys):
    run, message = ours
    theirs, mine = celerys["headers"], message["headers"]
    assert SCHEMA_VERSION == mine.pop("stagefleet_schema")

    assert theirs.keys() == mine.keys()
    differing = {name for name in theirs if theirs[name] != mine[name]}
    assert {"origin"} == differing
    assert f"('{ITEM}',)" == mine["argsrepr"]
    assert f"{{'stage': '{ITEM}', 'operation': 'copy_stage', 'run': '{run}'}}" == mine["kwargsrepr"]


def test_the_body_is_celerys_without_the_wrapping(ours, celerys):

    _, message = ours

    assert json.loads(base64.b64decode(celerys["body"])) == json.loads(message["body"])


def test_the_message_to_a_coordinator_is_what_celery_writes(settings, redis_server):
    ledger = RedisLedger.connect(redis_server.url, settings)
    submission = ledger.open(RunSpec(operation="copy_stage", finish_url="https://ci.test/"))
    ledger.start(submission)
    ledger.close()
    queue = queue_key(settings.key_prefix, queue_of("coordinate"))
    mine = json.loads(redis_server.client().rpop(queue))
    with make_app(settings) as app:
        app.send_task(
            task_name("coordinate"),
            kwargs={"run": submission.run_id},
            task_id=f"{submission.run_id}.coordinate.1",
            queue=queue_of("coordinate"),
            ignore_result=True,
        )
    theirs = json.loads(redis_server.client().rpop(queue))

    assert SCHEMA_VERSION == mine["headers"].pop("stagefleet_schema")
    assert theirs["headers"].keys() == mine["headers"].keys()
    differing = {name for name in theirs["headers"] if theirs["headers"][name] != mine["headers"][name]}
    assert {"origin"} == differing
    assert json.loads(base64.b64decode(theirs["body"])) == json.loads(mine["body"])
    assert theirs["properties"]["delivery_info"] == mine["properties"]["delivery_info"]


@pytest.mark.parametrize("source", ["a/@RUN@/@SUBJECT@", "quo\"te/it's", "日本/\\n", "%d/%s", "x" * 2000])
def test_what_a_message_shows_is_display_alone(settings, redis_server, source):
    """O-A4: whatever a path holds, the message stays one, and its arguments are what they are."""
    ledger = RedisLedger.connect(redis_server.url, settings)
    submission = ledger.open(
        RunSpec(operation="copy_stage", options={"source": source, "destination": "b/c"})
    )
    ledger.append(submission, [ITEM])
    ledger.start(submission)
    ledger.close()

    message = json.loads(redis_server.client().rpop(queue_key(settings.key_prefix, "copy")))

    shown = message["headers"]["kwargsrepr"]
    assert source[:400] in shown
    assert len(shown) <= 512 + len(ITEM) + 100
    assert [[], {"run": submission.run_id, "index": 0}] == json.loads(message["body"])[:2]
