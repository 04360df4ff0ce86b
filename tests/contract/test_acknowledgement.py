"""What a worker's channel notes of the messages that it has, on a real Redis."""

import json
from types import SimpleNamespace

import pytest

from config.celery import make_app
from stagefleet.runs.messages import message_template, queue_key
from stagefleet.settings import Settings

QUEUE = "copy"
TRANSIENT, PERSISTENT = 1, 2


@pytest.fixture
def broker(redis_server):
    settings = Settings(redis_url=redis_server.url)
    client = redis_server.client()

    def push(tag, mode):
        message = json.loads(message_template("copy_stage").replace("@TASK@", tag).replace("@QUEUE@", QUEUE))
        message["properties"]["delivery_mode"] = mode
        client.lpush(queue_key(settings.key_prefix, QUEUE), json.dumps(message))

    def waiting():
        found = client.lrange(queue_key(settings.key_prefix, QUEUE), 0, -1)
        return [json.loads(message)["properties"]["delivery_tag"] for message in reversed(found)]

    def noted():
        return sorted(tag.decode() for tag in client.hkeys(queue_key(settings.key_prefix, "unacked")))

    with make_app(settings) as app, app.connection_for_read() as connection:
        yield SimpleNamespace(channel=connection.channel(), push=push, waiting=waiting, noted=noted)


def test_what_the_ledger_publishes_is_transient():
    assert TRANSIENT == json.loads(message_template("copy_stage"))["properties"]["delivery_mode"]


def test_only_a_persistent_message_is_noted_in_redis(broker):
    broker.push("hint", TRANSIENT)
    broker.push("order", PERSISTENT)

    taken = [broker.channel.basic_get(QUEUE) for _ in range(2)]

    assert ["hint", "order"] == [message.delivery_tag for message in taken]
    assert ["order"] == broker.noted()


@pytest.mark.parametrize("modes", [(TRANSIENT, PERSISTENT), (PERSISTENT, TRANSIENT)])
def test_an_acknowledgement_strikes_out_both_kinds(broker, modes):
    for mode in modes:
        broker.push(f"message {mode}", mode)

    for _ in range(2):
        broker.channel.basic_get(QUEUE).ack()
    broker.channel.qos.restore_unacked()

    assert [] == broker.noted()
    assert [] == broker.waiting()


def test_both_kinds_count_against_what_may_be_fetched_ahead(broker):
    broker.push("hint", TRANSIENT)
    broker.push("order", PERSISTENT)
    broker.channel.basic_qos(prefetch_count=2)

    hint = broker.channel.basic_get(QUEUE)
    assert broker.channel.qos.can_consume()
    broker.channel.basic_get(QUEUE)
    assert not broker.channel.qos.can_consume()
    hint.ack()
    assert broker.channel.qos.can_consume()


@pytest.mark.parametrize("mode", [TRANSIENT, PERSISTENT])
def test_a_rejected_message_goes_back_behind_the_others_or_nowhere(broker, mode):
    for tag in ("again", "never", "waits"):
        broker.push(tag, mode)

    broker.channel.basic_get(QUEUE).reject(requeue=True)
    broker.channel.basic_get(QUEUE).reject()

    assert ["waits", "again"] == broker.waiting()
    assert [] == broker.noted()


def test_a_channel_that_is_closed_puts_back_what_was_not_acknowledged(broker):
    for tag, mode in [("done", TRANSIENT), ("hint", TRANSIENT), ("order", PERSISTENT), ("waits", TRANSIENT)]:
        broker.push(tag, mode)
    done, _, _ = (broker.channel.basic_get(QUEUE) for _ in range(3))
    done.ack()

    broker.channel.close()

    assert ["hint", "order"] == sorted(broker.waiting()[:2])
    assert ["waits"] == broker.waiting()[2:]
    assert [] == broker.noted()


def test_what_cannot_be_put_back_does_not_keep_a_channel_open(broker, redis_server):
    broker.push("hint", TRANSIENT)
    broker.channel.basic_get(QUEUE)
    redis_server.stop()

    broker.channel.close()

    assert broker.channel.closed
