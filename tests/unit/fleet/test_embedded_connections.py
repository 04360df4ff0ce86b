"""What a client of an embedded fleet leaves behind when it closes."""

from __future__ import annotations

import pytest

from stagefleet import embedded
from stagefleet.connections import Connections, EmbeddedConnections
from stagefleet.errors import RedisUnreachableError, UsageError
from stagefleet.fleet_storages import ClientStorages
from stagefleet.runs.models import RunSpec
from stagefleet.settings import Settings
from stagefleet.testing import MemoryLedger


class RecordingFleet:
    def __init__(self):
        self.ends = []

    def start(self):
        return "unix:///nowhere"

    def stop(self):
        self.ends.append("stopped")

    def kill(self):
        self.ends.append("killed")


class InMemory(EmbeddedConnections):
    """Connections with a fleet that records its end, and a ledger in memory."""

    def __init__(self):
        self.embedded, self.memory = RecordingFleet(), MemoryLedger()
        super().__init__(Settings())

    def _open_embedded(self):
        return self.embedded

    def _open_ledger(self):
        self._redis_url = self._embedded.value.start()
        return self.memory


@pytest.fixture
def connections():
    return InMemory()


def test_a_fleet_without_a_run_ends_at_once(connections):
    _ = connections.ledger
    connections.close()
    assert ["killed"] == connections.embedded.ends


def test_a_fleet_whose_runs_have_ended_ends_at_once(connections):
    submission = connections.ledger.open(RunSpec(operation="copy_stage", parallel=1))
    connections.ledger.start(submission)
    assert connections.ledger.run(submission.run_id).state.is_final
    connections.close()
    assert ["killed"] == connections.embedded.ends


def test_a_fleet_with_a_run_under_way_has_time_to_stop(connections):
    submission = connections.ledger.open(RunSpec(operation="copy_stage", parallel=1))
    connections.ledger.append(submission, ["an item"])
    connections.ledger.start(submission)
    connections.close()
    assert ["stopped"] == connections.embedded.ends


def test_a_fleet_whose_ledger_cannot_be_read_has_time_to_stop(connections, monkeypatch):
    _ = connections.ledger

    def fail():
        raise RedisUnreachableError("it has ended")

    monkeypatch.setattr(connections.memory, "runs", fail)
    connections.close()
    assert ["stopped"] == connections.embedded.ends


def test_a_fleet_that_only_looked_has_nothing_to_stop(connections):
    connections.close()
    assert [] == connections.embedded.ends


class TestInterruptedStart:
    """Ctrl-C while the ledger opens, when Valkey and the worker have started."""

    @pytest.fixture
    def announced(self):
        return []

    @pytest.fixture
    def started(self):
        return []

    @pytest.fixture
    def connections(self, monkeypatch, announced, started):
        def interrupt(_storages, _redis_url):
            raise KeyboardInterrupt

        class Interrupted(EmbeddedConnections):
            def _open_embedded(self):
                started.append(RecordingFleet())
                return started[-1]

        monkeypatch.setattr(embedded, "require_packages", lambda: None)
        monkeypatch.setattr(ClientStorages, "join", interrupt)
        connections = Interrupted(Settings(), on_start=lambda: announced.append("starting"))
        with pytest.raises(KeyboardInterrupt):
            _ = connections.ledger
        return connections

    def test_the_end_stops_what_has_started_and_starts_nothing(self, connections, announced, started):
        connections.close()
        assert (["starting"], [["killed"]]) == (announced, [fleet.ends for fleet in started])

    def test_nothing_starts_after_the_end(self, connections, started):
        connections.close()
        for use in (connections.begin_start, connections.check):
            with pytest.raises(UsageError, match="closed: open another one"):
                use()
        assert 1 == len(started)


@pytest.mark.parametrize("part", ["ledger", "locks", "last_used", "storages"])
@pytest.mark.parametrize("make", [InMemory, lambda: Connections("redis://redis.test", Settings())])
def test_a_closed_fleet_opens_no_connection(make, part):
    connections = make()
    connections.close()
    with pytest.raises(UsageError, match="closed: open another one"):
        getattr(connections, part)


def test_a_closed_fleet_can_be_closed_again(connections):
    _ = connections.ledger
    connections.close()
    connections.close()
    assert ["killed"] == connections.embedded.ends
