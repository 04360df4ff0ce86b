"""A fleet in memory: registries that are dictionaries, a ledger in memory, and a fake worker that works it
off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from stagefleet import Fleet
from stagefleet.attempt import NOT_THERE
from stagefleet.errors import StageNotFoundError
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.leases import NO_LEASE
from stagefleet.locks import MemoryLocks
from stagefleet.names import Repository, StageId
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.runs import coordinator
from stagefleet.runs.messages import live_hosts
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, WorkerInfo
from stagefleet.settings import RunSettings, Settings
from stagefleet.testing import MemoryLastUsed, MemoryLedger
from stagefleet.threads import Call


def stage(number: int) -> str:
    return f"{number:056x}-{1_700_000_000_000 + number}"


class FakeRegistries:
    def __init__(self, stages: dict[str, list[str]]) -> None:
        self.stages = stages
        self.pinged: list[str] = []
        self.looked_for: list[str] = []
        self.staying: dict[str, str] = {}

    def stage_ids(self, repository: Repository) -> Iterator[StageId]:
        return map(StageId.parse, list(self.stages.get(str(repository), ())))

    def record_ids(self, repository: Repository, kind: RecordKind) -> Iterator[RecordId]:
        return iter(())

    def records_of(self, repository: Repository) -> Any:
        return FakeRecords(self, repository)

    def describe_stage(self, repository: Repository, stage_id: StageId) -> StageDescription:
        if str(stage_id) not in self.stages.get(str(repository), ()):
            raise StageNotFoundError(f"{repository} has no stage {stage_id}")
        name = f"{repository}:{stage_id}"
        info = ImageInfo(
            name=name,
            repository=str(repository),
            tag=str(stage_id),
            repo_digest=f"{repository}@sha256:{'0' * 64}",
            image_id="sha256:" + "1" * 64,
            size=1234,
        )
        return StageDescription(stage_id=stage_id, info=info)

    def describe_remaining_tags(self, repositories: Iterable[Repository]) -> list[str]:
        return [self.staying[str(name)] for name in repositories if str(name) in self.staying]

    def ping(self, repository: Repository) -> None:
        self.pinged.append(str(repository))

    def exists(self, repository: Repository) -> bool:
        self.looked_for.append(str(repository))
        return str(repository) in self.stages

    def close(self) -> None:
        pass


class FakeStorages:
    """Opens storages that are answered for by the registries."""

    def __init__(self, registries: FakeRegistries) -> None:
        self.registries = registries

    def __getattr__(self, name: str) -> Any:
        return getattr(self.registries, name)

    def open(self, address: Repository) -> FakeStorage:
        return FakeStorage(self.registries, address)

    def side_by_side(self, calls: Sequence[Call]) -> None:
        for call in calls:
            call(NO_LEASE)


class FakeStorage:
    def __init__(self, registries: FakeRegistries, address: Repository) -> None:
        self.registries, self.address = registries, address

    def check(self) -> None:
        self.registries.ping(self.address)

    def exists(self) -> bool:
        return self.registries.exists(self.address)

    def stage_ids(self) -> list[StageId]:
        return list(self.registries.stage_ids(self.address))

    def describe(self, stage_id: StageId) -> StageDescription:
        return self.registries.describe_stage(self.address, stage_id)

    def known(self, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        return [None] * len(stage_ids)

    @property
    def records(self) -> Any:
        return self.registries.records_of(self.address)


class FakeRecords:
    def __init__(self, registries: FakeRegistries, address: Repository) -> None:
        self.registries, self.address = registries, address

    def ids(self, kind: RecordKind | None = None, **_: object) -> Iterator[RecordId]:
        assert kind is not None
        return self.registries.record_ids(self.address, kind)


class FakeConnections:
    starts_worker = False
    no_worker_advice = "start one with stagefleet worker"
    no_host_advice = "start stagefleet worker on it"

    def __init__(self, ledger: MemoryLedger, registries: FakeRegistries, settings: Settings) -> None:
        self.settings = settings
        self.ledger = ledger
        self.storages = FakeStorages(registries)
        self.locks = MemoryLocks()
        self.last_used = MemoryLastUsed()

    def hosts(self) -> list[str]:
        return live_hosts(self.ledger.heartbeats.workers())

    def begin_start(self) -> None:
        """The ledger is there."""

    def check(self) -> None:
        pass

    def close(self) -> None:
        self.locks.close()


_STOP_SECONDS = 60


class FakeWorker:
    """Works off what the ledger publishes, in one thread, until it is stopped."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.failing: set[str] = set()
        self.missing: set[str] = set()
        self.done: list[str] = []
        self.on_claim: Callable[[str], None] = lambda _: None
        self._ledger = ledger
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._ledger.heartbeats.beat(WorkerInfo("worker:1", 4, ("copy", "delete", "describe")), seconds=60)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_STOP_SECONDS)
        assert not self._thread.is_alive(), "the worker's item ends"

    def _work(self) -> None:
        while not self._stop.wait(0.001):
            while self._ledger.broker:
                message = self._ledger.broker.popleft()
                claim = self._ledger.claim(message.run_id, message.index, "worker:1")
                if claim is None:
                    continue
                self.on_claim(claim.item)
                self.done.append(claim.item)
                self._ledger.finish(claim, self._outcome(claim.item))

    def _outcome(self, item: str) -> Outcome:
        if item in self.failing:
            error = ErrorInfo(type="ForbiddenError", message="the registry forbids it")
            return Outcome(item=item, state=ItemState.FAILED, error=error)
        if item in self.missing:
            return Outcome(item=item, state=ItemState.SKIPPED, result=NOT_THERE.result)
        return Outcome(item=item, state=ItemState.SUCCEEDED, bytes=10)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(coordinator, "_BLOCK_SECONDS", 0.01)


@pytest.fixture
def settings():
    """Those of a client that says at its first or second look that nobody works, and gives up at the next."""
    return Settings(runs=RunSettings(no_worker_notice_seconds=0.001, no_worker_limit_seconds=0.001))


@pytest.fixture
def ledger(settings):
    return MemoryLedger(settings.runs)


@pytest.fixture
def registries():
    return FakeRegistries({"src.test/app": [stage(n) for n in range(5)], "dst.test/app": [stage(1)]})


@pytest.fixture
def notices():
    return []


@pytest.fixture
def services(ledger, registries, settings):
    return FakeConnections(ledger, registries, settings)


@pytest.fixture
def fleet(services, notices):
    with Fleet(services, on_notice=notices.append) as fleet:
        yield fleet


@pytest.fixture
def fake_worker(ledger):
    fake_worker = FakeWorker(ledger)
    fake_worker.start()
    yield fake_worker
    fake_worker.stop()


@pytest.fixture
def make_stage():
    return stage
