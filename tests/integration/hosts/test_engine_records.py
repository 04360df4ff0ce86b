"""Records of projects in the engines of two hosts: kept where the engine is, by the worker there."""

from __future__ import annotations

import pytest

from stagefleet import Fleet
from stagefleet.errors import UsageError
from stagefleet.names import StageId
from stagefleet.records import ImportMetadata, ManagedImage, RecordKind
from stagefleet.runs.model import ItemState, Outcome, RunState
from stagefleet.settings import EngineSettings
from stagefleet.storages.records import Written
from tests.services import stage_id_of

APP = "docker-daemon:app"
STAGE = StageId.parse(stage_id_of("one"))
IMPORTS = [ImportMetadata(letter * 32, "source", str(STAGE), "sum") for letter in "ab"]


def test_import_metadata_is_read_and_deleted_on_the_host_that_has_it(fleet, redis_server, engines, settings):
    there = settings.model_copy(update={"engine": EngineSettings(url=engines["two"].url, host="two")})
    with Fleet.connect(redis_server.url, settings=there) as neighbour:
        assert Written.WRITTEN == neighbour.write_record(APP, IMPORTS[1])
        assert [Written.WRITTEN, Written.PRESENT] == [fleet.write_record(APP, IMPORTS[0]) for _ in range(2)]
        outcomes: list[Outcome] = []

        fleet.for_each_get_import_metadata(APP, None, outcomes.append)
        fleet.for_each_get_import_metadata(APP, [IMPORTS[1].import_id], outcomes.append, host="two")
        fleet.for_each_rm_import_metadata(APP, [IMPORTS[1].import_id], host="two")

        assert [(IMPORTS[0].as_json(), "one"), (IMPORTS[1].as_json(), "two")] == [
            ({fact: (outcome.result or {})[fact] for fact in IMPORTS[0].as_json()}, outcome.host)
            for outcome in outcomes
        ]
        assert ([IMPORTS[0].id], []) == (list(fleet.record_ids(APP)), list(neighbour.record_ids(APP)))
    with pytest.raises(UsageError, match="name what is meant"):
        fleet.for_each_rm_import_metadata(APP, None, host="two")
    assert 1 == fleet.for_each_rm_import_metadata(APP, None).succeeded
    assert None is fleet.read_record(APP, RecordKind.IMPORT_METADATA, IMPORTS[0].import_id)


def test_other_records_are_written_nowhere_found_nowhere_and_deleted_already(fleet, engines):
    engines["one"].import_image(f"app:{STAGE}", labels={"werf": "app"})
    assert Written.IGNORED == fleet.write_record(APP, ManagedImage("web"))
    assert Written.IGNORED == fleet.add_stage_custom_tag(APP, "latest", STAGE)
    fleet.check_stage_custom_tag(APP, "latest", STAGE)
    assert [] == list(fleet.record_ids(APP))

    runs = [
        fleet.for_each_rm_managed_image(APP, ["web"]),
        fleet.for_each_rm_image_metadata(APP, "web", {STAGE: ["c0" * 20]}),
        fleet.for_each_delete_stage_custom_tag(APP, ["latest"]),
        fleet.for_each_delete_rejected_stage(APP, [STAGE]),
        fleet.for_each_rm_record(APP, "client-id", ["me-5"]),
    ]
    outcomes: list[Outcome] = []
    fleet.for_each_get_stage_custom_tag_metadata(APP, ["latest"], outcomes.append)

    assert [(RunState.SUCCEEDED, 1)] * 5 == [(run.state, run.succeeded) for run in runs]
    assert [ItemState.SKIPPED] == [outcome.state for outcome in outcomes]
    assert 0 == fleet.for_each_rm_managed_image(APP, None).total
    assert [f"app:{STAGE}"] == engines["one"].tags()
