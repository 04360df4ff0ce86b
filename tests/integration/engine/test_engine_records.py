from __future__ import annotations

import pytest

from stagefleet.attempt import Attempt
from stagefleet.errors import BrokenRecordError
from stagefleet.names import EngineProject, StageId
from stagefleet.records import ImportMetadata, LastCleanup, ManagedImage, RecordKind, RejectedStage
from stagefleet.storages.base import WriteResult
from stagefleet.storages.docker_engine import EngineRecords
from tests.integration.engine.conftest import PROJECT

STAGE = StageId("ab" * 28, 1_700_000_000_000)
IMPORT = ImportMetadata("0f" * 32, str(STAGE), 'any "$HOME" \\ text')
NAME = f"werf-import-metadata/{PROJECT}:{IMPORT.import_id}"


@pytest.fixture
def records(connection):
    return EngineRecords(connection, EngineProject(PROJECT))


def test_import_metadata_is_kept_under_its_name_with_its_labels(records, connection):
    assert records.read(IMPORT.id) is None
    assert WriteResult.WRITTEN == records.write(IMPORT)
    assert {"werf": PROJECT, **IMPORT.labels} == connection.find(NAME)["Config"]["Labels"]
    found = records.read(IMPORT.id)
    assert (IMPORT, PROJECT) == (found.record, found.project)
    assert [IMPORT.id] == list(records.ids()) == list(records.ids(RecordKind.IMPORT_METADATA))


def test_it_is_written_again_only_by_force_and_removed_twice(records, connection):
    records.write(IMPORT)
    changed = ImportMetadata(IMPORT.import_id, str(STAGE), "other")
    assert WriteResult.PRESENT == records.write(changed)
    assert IMPORT == records.read(IMPORT.id).record
    assert WriteResult.WRITTEN == records.write(changed, force=True)
    assert changed == records.read(IMPORT.id).record
    for _ in range(2):
        records.delete(IMPORT.id, Attempt("r"))
    assert connection.find(NAME) is None


@pytest.mark.parametrize("record", [ManagedImage("web"), RejectedStage(STAGE), LastCleanup(1)])
def test_other_records_are_nothing_here(records, record):
    assert WriteResult.IGNORED == records.write(record)
    assert records.read(record.id) is None
    records.delete(record.id, Attempt("r"))
    assert [] == list(records.ids())


def test_another_projects_image_under_the_name_stays(records, connection):
    other = EngineRecords(connection, EngineProject("other"))
    other.write(IMPORT)
    connection.tag(
        f"werf-import-metadata/other:{IMPORT.import_id}", f"werf-import-metadata/{PROJECT}", IMPORT.import_id
    )
    with pytest.raises(BrokenRecordError, match="left alone"):
        records.delete(IMPORT.id, Attempt("r"))
    assert connection.find(NAME) is not None
    assert [] == list(records.ids())
