"""What every storage promises, whatever its medium."""

from __future__ import annotations

import pytest

from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.credentials import DockerConfig
from stagefleet.engine import Engine
from stagefleet.engine_address import EngineAddress
from stagefleet.errors import StageNotFoundError, UsageError
from stagefleet.locks import MemoryLocks
from stagefleet.names import EngineProject, LayoutPath, Repository, StageId
from stagefleet.records.ids import RecordKind
from stagefleet.records.models import ImportMetadata
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import EngineSettings, Settings
from stagefleet.shared_state.implementations import MemorySharedState
from stagefleet.storages.base import Storage, WriteResult
from stagefleet.storages.docker_engine import EngineHost
from stagefleet.storages.transfer import transfer
from tests.services import ImageMaker, archive_of, stage_id_of
from tests.stage_tasks import make_storages

PROJECT = "app"
LABELS = {"werf": PROJECT}
BASE = archive_of({"base": b"what all stages share" * 100})
ONE, OTHER = StageId.parse(stage_id_of("one")), StageId.parse(stage_id_of("other"))
IMPORT = ImportMetadata("0f" * 32, str(ONE), "sum")


@pytest.fixture
def storages(request, kind, tmp_path, cleanup):
    locks, logins = MemoryLocks(), DockerConfig(tmp_path / "config.json")
    client, host = RegistryClient(Settings(), config=logins), None
    cleanup.callback(locks.close)
    cleanup.callback(client.close)
    if kind == "engine":
        address = EngineAddress(request.getfixturevalue("engine").url)
        connection = Engine(address, EngineSettings(timeout_seconds=10), config=logins)
        cleanup.callback(connection.close)
        host = EngineHost(connection, "here", locks)
    return make_storages(client, locks=locks, host=host)


@pytest.fixture
def repository(registry):
    return Repository.parse(f"{registry.host}/stages/app")


@pytest.fixture(params=["repository", "engine", "layout"])
def kind(request):
    return request.param


@pytest.fixture
def address(request, kind, tmp_path):
    others = {"engine": EngineProject(PROJECT), "layout": LayoutPath.parse(str(tmp_path / "layout"))}
    return others.get(kind) or request.getfixturevalue("repository")


@pytest.fixture
def storage(storages, address):
    return storages.open(address)


@pytest.fixture
def put(request, address, storages):
    """Puts a stage into the storage."""

    def put(seed):
        stage_id = stage_id_of(seed)
        if address.is_engine:
            engine = request.getfixturevalue("engine")
            engine.import_image(f"{PROJECT}:{stage_id}", labels=LABELS, content=seed.encode())
            return
        repository = request.getfixturevalue("repository")
        with ImageMaker(request.getfixturevalue("registry")) as maker:
            maker.push_image(
                repository.path, stage_id, labels=LABELS, layers=[archive_of({"own": seed.encode()})]
            )
        if address.is_layout:
            transfer(storages, repository, address, StageId.parse(stage_id), Attempt("r", stage_id))

    return put


def test_it_says_where_it_is_and_answers(storage, address):
    assert isinstance(storage, Storage)
    assert address == storage.address
    storage.check()


def test_one_without_stages_has_none(storage):
    assert [] == list(storage.stage_ids())
    assert [None] == storage.known([ONE])
    for look in (storage.describe, storage.read):
        with pytest.raises(StageNotFoundError, match=str(ONE)):
            look(ONE)


def test_a_stage_is_listed_described_and_read(storage, put):
    put("one")
    assert [ONE] == list(storage.stage_ids())
    assert storage.exists()
    described = storage.describe(ONE)
    assert (ONE, described) == (described.stage_id, storage.read(ONE))
    assert PROJECT == described.info.labels["werf"]


def test_a_deletion_takes_one_stage_and_leaves_the_others(storage, put):
    put("one")
    put("other")
    options = {"repository": str(storage.address)}
    for run, expected in (("r", ItemResult()), ("another", NOT_THERE)):
        attempt = Attempt(run, str(ONE), options, to_delete=lambda: [str(ONE)])
        assert expected == storage.delete(ONE, attempt)
    assert [OTHER] == list(storage.stage_ids())


def test_a_stage_is_verified(storage, put):
    put("one")
    for shallow in (False, True):
        result = storage.verify(ONE, Attempt("r", str(ONE)), MemorySharedState(), shallow=shallow)
        assert ([], None) == (result.faults, result.error)


def test_import_metadata_is_written_once_read_and_deleted(storage):
    if storage.address.is_layout:
        with pytest.raises(UsageError, match="is an OCI layout, which keeps no records"):
            _ = storage.records
        return
    records = storage.records
    assert (None, []) == (records.read(IMPORT.id), list(records.ids()))
    assert WriteResult.WRITTEN == records.write(IMPORT, project=PROJECT)
    assert WriteResult.PRESENT == records.write(IMPORT)
    found = records.read(IMPORT.id)
    assert found is not None
    assert (IMPORT, PROJECT) == (found.record, found.project)
    assert [IMPORT.id] == list(records.ids(RecordKind.IMPORT_METADATA))
    assert ItemResult() == records.delete(IMPORT.id, Attempt("r", to_delete=lambda: [IMPORT.id.tag]))
    assert NOT_THERE == records.delete(IMPORT.id, Attempt("s"))
