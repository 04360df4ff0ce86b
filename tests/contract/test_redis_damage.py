"""What is damaged in Redis, or of another version, costs itself alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from stagefleet.runs.model import Callback, RunState
from tests.contract.twins import LEASE_SECONDS, RedisBroker, Twin


@pytest.fixture
def broker(redis_server: Any) -> Iterator[RedisBroker]:
    made = RedisBroker(redis_server.url)
    yield made
    made.close()


@pytest.fixture
def twin(broker: RedisBroker) -> Twin:
    made = Twin(broker)
    made.staff(4)
    return made


def spoil(broker: RedisBroker, run: str, part: str) -> None:
    """Put a value of another type where a key of a run is."""
    broker.client.set(f"{broker.prefix}run:{run}:{part}", "no such thing")


class TestOneRun:
    def test_the_others_are_swept(self, twin: Twin, broker: RedisBroker, caplog: pytest.LogCaptureFixture):
        """R28: a run whose script fails stops no sweep; it is logged once, with its id."""
        damaged, sound = twin.submit(["a"]), twin.submit(["b"])
        for _ in range(2):
            twin.take()
        spoil(broker, damaged, "waiting")
        twin.advance(LEASE_SECONDS + 1)
        with caplog.at_level(logging.ERROR, "stagefleet"):
            assert 1 == twin.ledger.sweep()
            twin.ledger.sweep()

        assert 1 == twin.ledger.run(sound).published
        assert [damaged] == [record.args[0] for record in caplog.records if isinstance(record.args, tuple)]

    def test_workers_beat_beside_it(self, twin: Twin, broker: RedisBroker):
        """R28: the slots of the fleet do not vanish because one run cannot be published."""
        damaged = twin.submit(["a", "b"], parallel=1)
        spoil(broker, damaged, "waiting")
        twin.pop_message()
        broker.client.delete(f"{broker.prefix}run:{damaged}:published")
        twin.staff(2, name="host:2")

        assert {"host:1", "host:2"} == {worker.name for worker in twin.ledger.workers()}

    def test_the_coordinators_of_others_are_called_again(self, twin: Twin, broker: RedisBroker):
        """R28: a call that cannot be made is put off, and those behind it are made."""
        order: dict[str, Any] = {"callback": Callback.WEBHOOK, "callback_target": "http://receiver.example"}
        damaged, sound = twin.submit(["a"], **order), twin.submit(["b"], **order)
        assert 2 == twin.work_off()
        twin.drop_messages()
        broker.client.hdel(f"{broker.prefix}run:{damaged}", "coordinate_message")
        twin.advance(LEASE_SECONDS + 1)
        twin.ledger.sweep()

        assert [sound] == [message.run for message in twin.messages()]


@pytest.mark.parametrize(
    "entry",
    ["{", "null", "7", "{}", '{"until": "soon", "queues": []}', '{"until": 1e18, "queues": 3}'],
)
class TestAWorkersEntry:
    def test_the_others_beat_and_are_counted(self, twin: Twin, broker: RedisBroker, entry: str):
        """R28: an entry that cannot be read takes no slot from anybody."""
        broker.client.hset(f"{broker.prefix}workers", "host:new", entry)
        twin.staff(3, name="host:2")

        assert 7 == int(broker.client.get(f"{broker.prefix}slots:copy"))
        assert ["host:1", "host:2"] == [worker.name for worker in twin.ledger.workers("copy")]

    def test_work_goes_on(self, twin: Twin, broker: RedisBroker, entry: str):
        """R28: runs are worked off beside it."""
        broker.client.hset(f"{broker.prefix}workers", "host:new", entry)
        run = twin.submit(["a", "b", "c"])
        twin.staff(4)
        twin.work_off()

        assert RunState.SUCCEEDED is twin.ledger.run(run).state
