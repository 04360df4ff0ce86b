"""What a worker's channel does with the messages that it has, on a real Redis."""

import json
import tempfile
from types import SimpleNamespace

import pytest

from config.celery import make_app
from stagefleet.runs.messages import broker_options, message_template, queue_key
from stagefleet.settings import Settings

QUEUE = "copy"


@pytest.fixture
def broker(redis_server):
    settings = Settings(redis_url=redis_server.url)
    client = redis_server.client()

    def push(tag):
        message = message_template("copy_stage").replace("@TASK@", tag).replace("@QUEUE@", QUEUE)
        client.lpush(queue_key(settings.key_prefix, QUEUE), message)

    def waiting():
        found = client.lrange(queue_key(settings.key_prefix, QUEUE), 0, -1)
        return [json.loads(message)["properties"]["delivery_tag"] for message in reversed(found)]

    def commands():
        """How many commands Redis has carried out."""
        return client.info("stats")["total_commands_processed"]

    def unacknowledged():
        return client.exists(*(queue_key(settings.key_prefix, f"unacked{part}") for part in ("", "_index")))

    with make_app(settings) as app, app.connection_for_read() as connection:
        channel = connection.channel()
        yield SimpleNamespace(
            channel=channel,
            push=push,
            waiting=waiting,
            commands=commands,
            unacknowledged=unacknowledged,
        )


def test_neither_a_delivery_nor_an_acknowledgement_costs_a_command(broker):
    for number in range(2):
        broker.push(f"message {number}")
    broker.channel.basic_get(QUEUE).ack()  # connects
    before = broker.commands()

    broker.channel.basic_get(QUEUE).ack()

    assert 2 == broker.commands() - before  # the RPOP, and the question before
    assert not broker.unacknowledged()


def test_workers_of_users_keep_kombus_account():
    """No ledger publishes a user's task again."""
    assert "ack_emulation" not in broker_options("fleet:")


def test_messages_count_against_what_may_be_fetched_ahead(broker):
    for tag in ("first", "second"):
        broker.push(tag)
    broker.channel.basic_qos(prefetch_count=2)

    first = broker.channel.basic_get(QUEUE)
    assert broker.channel.qos.can_consume()
    broker.channel.basic_get(QUEUE)
    assert not broker.channel.qos.can_consume()
    first.ack()
    assert broker.channel.qos.can_consume()


def test_a_rejected_message_goes_back_behind_the_others_or_nowhere(broker):
    for tag in ("again", "never", "waits"):
        broker.push(tag)

    broker.channel.basic_get(QUEUE).reject(requeue=True)
    broker.channel.basic_get(QUEUE).reject()

    assert ["waits", "again"] == broker.waiting()


def test_a_channel_that_is_closed_puts_back_what_was_not_acknowledged(broker):
    for tag in ("done", "first", "second", "waits"):
        broker.push(tag)
    done, _, _ = (broker.channel.basic_get(QUEUE) for _ in range(3))
    done.ack()

    broker.channel.close()

    assert "waits" == broker.waiting()[0]
    assert ["first", "second"] == sorted(broker.waiting()[1:])


def test_what_cannot_be_put_back_neither_keeps_a_channel_open_nor_is_written_to_a_file(
    broker, redis_server, tmp_path, monkeypatch, capfd
):
    """kombu's emergency dump would hold the arguments of tasks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for number in range(3):
        broker.push(f"message {number}")
        broker.channel.basic_get(QUEUE)
    redis_server.stop()

    broker.channel.close()

    assert broker.channel.closed
    assert [] == list(tmp_path.iterdir())
    assert "EMERGENCY" not in capfd.readouterr().err
