from __future__ import annotations

import pytest

from stagefleet.bounds import MAX_ITEMS
from stagefleet.errors import InvalidNameError, KeyConflictError, TooManyItemsError, UsageError
from stagefleet.operations import base as operations
from stagefleet.records.ids import RecordId, RecordKind
from tests.unit.fleet.conftest import stage

REPOSITORY = "src.test/app"
COMMIT = "c0" * 20


@pytest.fixture(autouse=True)
def _listed(registries):
    listed = [RecordId.of(RecordKind.MANAGED_IMAGE, name) for name in ("a", "", "b/c")]
    registries.record_ids = lambda _, kind: (found for found in listed if found.kind is kind)


def items(ledger):
    (run,) = ledger.runs()
    return [item for _, item in ledger.leftovers(run.id)]


def test_none_is_all_and_no_item_is_empty(fleet, ledger):
    fleet.records.for_each_rm_managed_image(REPOSITORY, None, detach=True)
    assert ["a", "__nameless__", "b/c"] == items(ledger)


def test_each_named_record_is_an_item_once_and_no_record_none(fleet, ledger):
    fleet.records.for_each_rm_managed_image(REPOSITORY, ["a", "", "a", "__nameless__"], detach=True)
    assert ["a", "__nameless__"] == items(ledger)
    assert 0 == fleet.records.for_each_rm_import_metadata(REPOSITORY, []).total


def test_an_item_of_image_metadata_is_a_commit_and_a_stage(fleet, ledger):
    fleet.records.for_each_rm_image_metadata(
        REPOSITORY, "web", {stage(1): [COMMIT, COMMIT], stage(2): [COMMIT]}, detach=True
    )
    assert [f"{COMMIT}_{stage(1)}", f"{COMMIT}_{stage(2)}"] == items(ledger)


def test_every_run_has_its_task(fleet, ledger):
    ids = ["0f" * 32]
    fleet.records.for_each_rm_image_metadata(REPOSITORY, "web", {stage(1): [COMMIT]}, detach=True)
    fleet.records.for_each_rm_managed_image(REPOSITORY, ids, detach=True)
    fleet.records.for_each_get_import_metadata(REPOSITORY, ids, detach=True)
    fleet.records.for_each_rm_import_metadata(REPOSITORY, ids, detach=True)
    fleet.records.for_each_get_stage_custom_tag_metadata(REPOSITORY, ids, detach=True)
    fleet.records.for_each_delete_stage_custom_tag(REPOSITORY, ids, detach=True)
    fleet.records.for_each_delete_rejected_stage(REPOSITORY, [stage(1)], detach=True)
    fleet.records.for_each_rm_record(REPOSITORY, "client-id", ["me-5"], detach=True)
    assert [
        "rm_image_metadata",
        "rm_managed_image",
        "get_import_metadata",
        "rm_import_metadata",
        "get_stage_custom_tag_metadata",
        "delete_stage_custom_tag",
        "delete_rejected_stage",
        "rm_record",
    ] == [run.spec.operation for run in ledger.runs()][::-1]


@pytest.mark.parametrize(
    ("method", "arguments", "error", "words"),
    [
        ("for_each_rm_managed_image", ("web",), UsageError, "hand in a list"),
        ("for_each_rm_image_metadata", ("web", {stage(1): COMMIT}), UsageError, "hand in a list"),
        ("for_each_rm_image_metadata", ("web", {"x": [COMMIT]}), InvalidNameError, "no stage id"),
        ("for_each_rm_image_metadata", ("web", {stage(1): ["main"]}), InvalidNameError, "commit in full"),
        ("for_each_rm_import_metadata", (["a/b"],), InvalidNameError, "names no import-metadata record"),
        ("for_each_delete_rejected_stage", (["v1"],), InvalidNameError, "no stage id"),
        ("for_each_rm_record", ("nonsense", []), UsageError, "no kind of record"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    fleet, ledger, method, arguments, error, words
):
    with pytest.raises(error, match=words):
        getattr(fleet.records, method)(REPOSITORY, *arguments)
    assert [] == list(ledger.runs())


def test_one_record_more_than_a_run_may_have_is_refused(fleet, ledger, monkeypatch):
    assert 1_000_000 == MAX_ITEMS
    monkeypatch.setattr(operations, "MAX_ITEMS", 2)
    with pytest.raises(TooManyItemsError, match="at most 2"):
        fleet.records.for_each_rm_managed_image(REPOSITORY, None)
    assert [] == list(ledger.runs())


def test_a_key_used_for_another_image_is_refused(fleet):
    arguments = {"idempotency_key": "job", "detach": True}
    fleet.records.for_each_rm_image_metadata(REPOSITORY, "web", {stage(1): [COMMIT]}, **arguments)
    with pytest.raises(KeyConflictError):
        fleet.records.for_each_rm_image_metadata(REPOSITORY, "api", {stage(1): [COMMIT]}, **arguments)
