"""What a client of an embedded fleet leaves behind when it closes."""

from __future__ import annotations

import pytest

from stagefleet.connections import EmbeddedConnections
from stagefleet.errors import RedisUnreachableError
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
