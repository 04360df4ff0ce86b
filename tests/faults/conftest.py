"""Workers that die where they are told to, on a Redis that keeps what it holds and links that break."""

import sys
from pathlib import Path

import pytest

from stagefleet.settings import RunSettings, Settings, WorkerSettings
from tests.integration.workers.conftest import Fleet, Workers
from tests.services import setting_variables

SCRIPT = Path(__file__).with_name("faulty_worker.py")


class FaultyWorkers(Workers):
    """A supervisor and its processes, which die where `arm` says."""

    def __init__(self, redis_url, folder, settings):
        super().__init__(redis_url, folder / "worker.log", settings)
        self.folder = folder
        self.environment["FAULT_FOLDER"] = str(folder)

    def arm(self, step):
        self.environment["FAULT_DIE_IN"] = step

    def begin(self, processes=2):
        self.start([sys.executable, str(SCRIPT), "supervise", str(processes)])

    @property
    def deaths(self):
        return len(self.said("process_died"))

    @property
    def effects(self):
        return (self.folder / "effects").read_text().splitlines()


@pytest.fixture
def settings():
    """Short leases: what is lost comes back within seconds."""
    return Settings(
        runs=RunSettings(lease_seconds=3, renewal_seconds=1, sweep_seconds=0.5, republish_seconds=2),
        worker=WorkerSettings(concurrency=4, drain_seconds=4),
    )


@pytest.fixture
def redis_server(make_redis):
    return make_redis(append_only=True)


@pytest.fixture
def fleet(redis_server, settings, cleanup):
    fleet = Fleet(redis_server.url, settings)
    cleanup.callback(fleet.ledger.close)
    return fleet


@pytest.fixture
def make_faulty_workers(settings, tmp_path, cleanup):
    variables = setting_variables(settings, "runs", "worker")

    def make(redis_url):
        workers = FaultyWorkers(redis_url, tmp_path, variables)
        cleanup.callback(workers.close)
        return workers

    return make


@pytest.fixture
def workers(make_faulty_workers, redis_server):
    return make_faulty_workers(redis_server.url)


@pytest.fixture
def check(fleet):
    """Follows a run to its end: everything succeeded, with one outcome each."""

    def check(run, count):
        finished, outcomes = fleet.follow(run)
        assert ("succeeded", count) == (finished.state, finished.succeeded)
        assert {f"item-{number}" for number in range(count)} == {outcome.item for outcome in outcomes}
        assert count == len(outcomes)
        return outcomes

    return check
