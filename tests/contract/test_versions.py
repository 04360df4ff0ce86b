"""What releases write one another in Redis, read by one that knows less, or something else."""

import json

import pytest

from stagefleet.bounds import compress_json
from stagefleet.errors import IncompatibleVersionError
from stagefleet.runs import redis_ledger
from stagefleet.runs.messages import queue_key
from stagefleet.runs.models import ItemState, RunState, WorkerInfo
from stagefleet.runs.versions import SCHEMA_VERSION, WriterVersion, own_version
from tests.contract.ledgers import LEASE_SECONDS, LedgerHarness

OWN = own_version()
NEWER = WriterVersion("9.9.9", f"{int(SCHEMA_VERSION.split('.')[0]) + 1}.0")


@pytest.fixture
def harness(broker):
    return LedgerHarness(broker)


@pytest.fixture
def submit_as(harness, monkeypatch):
    """Submits a run as a client of another version does."""

    def submit(version, *items, **order):
        with monkeypatch.context() as patch:
            patch.setattr(redis_ledger, "own_version", lambda: version)
            return harness.submit(items or ["a"], **order)

    return submit


def key(broker, run, part=""):
    return f"{broker.prefix}run:{run}" + (f":{part}" if part else "")


class TestRuns:
    def test_a_run_carries_the_version_of_who_opened_it(self, harness, submit_as):
        assert OWN == harness.ledger.run(harness.submit(["a"])).version
        minor = WriterVersion("0.7.1", SCHEMA_VERSION)
        assert minor == harness.ledger.run(submit_as(minor)).version

    def test_the_spec_of_another_major_version_is_refused_with_both_named(self, harness, submit_as):
        """O-A2: an order that this release cannot read is a typed error that names both versions."""
        run = submit_as(NEWER)

        for ask in (harness.ledger.spec, harness.ledger.run):
            with pytest.raises(IncompatibleVersionError) as refused:
                ask(run)
            assert str(NEWER) in str(refused.value)
            assert str(OWN) in str(refused.value)

    @pytest.mark.parametrize(
        "order", [b"", b"[]", b"nonsense", b'{"operation": 7}', b'{"operation": "x", "callback": "pigeon"}']
    )
    def test_one_of_another_form_is_refused_likewise(self, harness, broker, order):
        run = harness.submit(["a"])
        broker.client.hset(key(broker, run), "order", order)

        with pytest.raises(IncompatibleVersionError):
            harness.ledger.spec(run)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("schema", NEWER.schema), ("order", "{"), ("state", "dreaming"), ("total", "many"), ("error", "[]")],
    )
    def test_one_that_cannot_be_read_hides_no_other(self, harness, broker, field, value):
        """R28: one entry that cannot be read stops nothing else: lists of runs."""
        first, odd, last = (harness.submit(["a"]) for _ in range(3))
        broker.client.hset(key(broker, odd), field, value)

        found = {run.id: run for run in harness.ledger.runs()}

        assert {first, odd, last} == found.keys()
        assert RunState.UNREADABLE is found[odd].state
        assert "cannot read" in found[odd].error.message
        assert RunState.RUNNING is found[first].state is found[last].state

    @pytest.mark.parametrize("now", [False, True])
    def test_one_of_another_major_version_is_not_cancelled(self, harness, broker, submit_as, now):
        """Cancelling writes fields whose meaning this release does not know."""
        run = submit_as(NEWER)
        before = broker.client.hgetall(key(broker, run))

        with pytest.raises(IncompatibleVersionError, match=r"9\.9\.9"):
            harness.ledger.cancel(run, now=now)

        assert before == broker.client.hgetall(key(broker, run))

    def test_one_of_this_version_is_cancelled_also_if_its_order_is_damaged(self, harness, broker):
        run = harness.submit(["a"])
        broker.client.hset(key(broker, run), "order", "{")

        assert harness.ledger.cancel(run)

    def test_fields_that_a_later_release_added_are_ignored(self, harness, broker):
        """R28: readers ignore what they do not know."""
        run = harness.submit(["a"])
        name = key(broker, run)
        order = json.loads(broker.client.hget(name, "order")) | {"mood": "good"}
        broker.client.hset(name, mapping={"order": json.dumps(order), "colour": "blue"})

        assert "copy_stage" == harness.ledger.spec(run).operation
        assert RunState.RUNNING is harness.ledger.run(run).state


class TestOutcomes:
    def test_unknown_fields_are_ignored_and_another_form_is_a_failure_of_its_item(self, harness, broker):
        """R28: an outcome of another form neither stops who reads nor hides those behind it."""
        run = harness.submit(["a"])
        stream = key(broker, run, "outcomes")
        error = {"type": "X", "message": "m", "mood": 1}
        odd = [
            json.dumps({"item": "a", "state": "failed", "error": error, "mood": "good"}).encode(),
            json.dumps({"item": "b", "state": "dreaming"}).encode(),
            b"{",
            b"\xff\xfe",
            compress_json(json.dumps({"item": "c", "state": "succeeded", "result": "x" * 500}).encode()),
            json.dumps({"item": "d", "state": "succeeded"}).encode(),
        ]
        for entry in odd:
            broker.client.xadd(stream, {"o": entry})

        found = harness.outcomes(run)

        assert ["a", "b", "?", "?", "c", "d"] == [outcome.item for outcome in found]
        assert [ItemState.FAILED] * 5 + [ItemState.SUCCEEDED] == [outcome.state for outcome in found]
        assert ["X"] + ["IncompatibleVersionError"] * 4 == [outcome.error.type for outcome in found[:5]]
        assert all(outcome.position for outcome in found)


class TestHeartbeats:
    ODD = (
        b"nonsense",
        b"[]",
        b"{}",
        b'{"until": "soon", "slots": 1, "queues": ["copy"]}',
        b'{"until": 1e15}',
    )

    def test_they_carry_the_version(self, harness):
        other = WriterVersion("0.0.9", "")
        harness.staff(4)
        harness.ledger.heartbeats.beat(WorkerInfo("old", 2, ("copy",), version=other), seconds=60)

        assert {"host:1": OWN, "old": other} == {
            worker.name: worker.version for worker in harness.ledger.heartbeats.workers("copy")
        }

    def test_one_of_another_form_stops_nobody_elses(self, harness, broker):
        """R28, O-A2: a heartbeat that cannot be read takes no worker of ours out of the count."""
        for number, entry in enumerate(self.ODD):
            broker.client.hset(f"{broker.prefix}workers", f"odd-{number}", entry)

        harness.staff(4)

        assert ["host:1"] == [worker.name for worker in harness.ledger.heartbeats.workers()]
        assert b"4" == broker.client.get(f"{broker.prefix}slots:copy")
        assert len(self.ODD) + 1 == broker.client.hlen(f"{broker.prefix}workers")  # left to who knows them


class TestSweep:
    def test_runs_of_a_newer_major_version_are_left_alone_and_the_others_mended(self, harness, submit_as):
        """R28: a sweep mends nothing whose fields may mean something else, and goes on with the others."""
        newer, own = submit_as(NEWER, "n"), harness.submit(["o"])
        while (message := harness.pop_message()) is not None:
            assert harness.ledger.claim(message.run_id, message.index, "w") is not None
        harness.ledger.sweep()
        for _ in range(4):  # the first sweep after a gap gives everybody a whole lease
            harness.advance(LEASE_SECONDS / 2)
            harness.ledger.sweep()

        assert own in {message.run_id for message in harness.messages()}
        assert newer not in {message.run_id for message in harness.messages()}


class TestMessages:
    def test_they_carry_the_schema_version(self, harness, broker):
        harness.submit(["a"])

        message = json.loads(broker.client.rpop(queue_key(broker.prefix, "copy")))

        assert SCHEMA_VERSION == message["headers"]["stagefleet_schema"]
