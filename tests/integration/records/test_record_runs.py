"""Each run on records, from the shell and from Python: real registry, real Valkey, real workers."""

from __future__ import annotations

import pytest

from stagefleet import Fleet, Settings
from stagefleet.names import StageId
from stagefleet.operations.records import removal_of
from stagefleet.records.ids import RecordKind
from stagefleet.records.models import CustomTag, ImageMetadata, ImportMetadata, ManagedImage, RejectedStage
from stagefleet.runs.models import ItemState, RunState
from tests.integration.cli.conftest import (  # noqa: F401 - fixtures are used by name
    command,
    environment,
)
from tests.services import ImageMaker
from tests.services.images import push_image

PATH = "team/app"
STAGES = [StageId(f"{number:056x}", 1_700_000_000_000 + number) for number in range(4)]
COMMITS = [f"{number:040x}" for number in range(3)]


@pytest.fixture(scope="module")
def fleet():
    with Fleet.embedded(settings=Settings()) as fleet:
        yield fleet


@pytest.fixture
def repository(registry):
    return f"{registry.host}/{PATH}"


@pytest.fixture
def tags(registry):
    def tags():
        with ImageMaker(registry) as maker:
            return maker.tags(PATH)

    return tags


@pytest.fixture
def outcomes():
    return {}


@pytest.fixture
def note(outcomes):
    return lambda outcome: outcomes.update({outcome.item: outcome})


def states(outcomes):
    return {item: outcome.state for item, outcome in outcomes.items()}


def test_image_metadata_is_removed_by_stage_and_commit(fleet, repository, tags, outcomes, note):
    for stage_id in STAGES[:2]:
        for commit in COMMITS:
            fleet.records.write(repository, ImageMetadata.of_image("web", commit, stage_id))
    wanted = {str(STAGES[0]): COMMITS, str(STAGES[1]): COMMITS[:1]}
    run = fleet.records.for_each_rm_image_metadata(repository, "web", wanted, note)
    assert RunState.SUCCEEDED == run.state
    expected = {f"{commit}_{stage_id}" for stage_id, commits in wanted.items() for commit in commits}
    assert dict.fromkeys(expected, ItemState.SUCCEEDED) == states(outcomes)
    left = [ImageMetadata.of_image("web", commit, STAGES[1]).id.tag for commit in COMMITS[1:]]
    assert left == tags()


def test_managed_images_are_removed_by_name(fleet, repository, tags, outcomes, note):
    for name in ("web/app", "", "api"):
        fleet.records.write(repository, ManagedImage(name))
    fleet.records.for_each_rm_managed_image(repository, ["web/app", "", "gone"], note)
    removed = dict.fromkeys(("web/app", "__nameless__"), ItemState.SUCCEEDED)
    assert {**removed, "gone": ItemState.SKIPPED} == states(outcomes)
    assert ["managed-image-api"] == tags()


def test_import_metadata_is_read_and_removed(fleet, repository, tags, outcomes, note):
    ids = [f"{number:064x}" for number in range(3)]
    for number in ids[:2]:
        fleet.records.write(repository, ImportMetadata(number, str(STAGES[0]), "sum"), project="p")
    push_image(repository.partition("/")[0], PATH, f"import-metadata-{ids[2]}")
    run = fleet.records.for_each_get_import_metadata(repository, None, note)
    assert (RunState.FAILED, 2, 1) == (run.state, run.succeeded, run.failed)
    assert ("BrokenRecordError", ids[0], "p") == (
        outcomes[ids[2]].error.type,
        outcomes[ids[0]].result["source_id"],
        outcomes[ids[0]].result["project"],
    )
    run = fleet.records.for_each_rm_import_metadata(repository, None)
    assert (RunState.FAILED, 2, 1) == (run.state, run.succeeded, run.failed)
    assert [f"import-metadata-{ids[2]}"] == tags()
    run = fleet.records.for_each_get_import_metadata(repository, ids[:1])
    assert (RunState.SUCCEEDED, 1) == (run.state, run.skipped)


def test_custom_tags_are_read_and_deleted_and_their_stages_stay(fleet, repository, tags, outcomes, note):
    host = repository.partition("/")[0]
    for stage_id in STAGES[:2]:
        push_image(host, PATH, str(stage_id))  # both have one digest, as what is rebuilt without a change
    for tag, stage_id in (("v1", STAGES[0]), ("V2", STAGES[1]), ("v3", STAGES[1])):
        fleet.records.add_custom_tag(repository, tag, stage_id)
    fleet.records.check_custom_tag(repository, "v1", STAGES[0])
    fleet.records.for_each_get_stage_custom_tag_metadata(
        repository, ["v1", CustomTag("V2", STAGES[1]).id.name], note
    )
    assert {"v1": str(STAGES[0]), "V2": str(STAGES[1])} == {
        outcome.result["name"]: outcome.result["stage_id"] for outcome in outcomes.values()
    }
    outcomes.clear()
    fleet.records.for_each_delete_stage_custom_tag(repository, ["v1", "V2"], note)
    assert dict.fromkeys(("v1", "V2"), ItemState.SUCCEEDED) == states(outcomes)
    assert sorted([*map(str, STAGES[:2]), "custom-tag-meta-v3", "v3"]) == tags()


def test_rejected_stages_are_deleted_with_their_records(fleet, repository, tags, outcomes, note):
    host = repository.partition("/")[0]
    for number, stage_id in enumerate(STAGES):
        push_image(host, PATH, str(stage_id), layers=[b"%d" % number])
    for stage_id in STAGES[:2]:
        fleet.records.write(repository, RejectedStage(stage_id))
    run = fleet.records.for_each_delete_rejected_stage(repository, None, note)
    assert (RunState.SUCCEEDED, 2) == (run.state, run.succeeded)
    assert [str(stage_id) for stage_id in STAGES[2:]] == tags()


def test_a_callback_that_raises_stops_a_run_on_records(fleet, repository):
    for number in range(12):
        fleet.records.write(repository, ManagedImage(f"image-{number}"))

    def stop(_):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        fleet.records.for_each_rm_managed_image(repository, None, stop, parallel=1)
    assert 11 == len(list(fleet.records.ids(repository, RecordKind.MANAGED_IMAGE)))


def test_a_key_gives_the_same_run_and_a_plan_none(fleet, repository, tags):
    fleet.records.write(repository, ManagedImage("web"))
    assert ["web"] == list(fleet.plan(removal_of(RecordKind.MANAGED_IMAGE, repository=repository)).items)
    first, again = (
        fleet.records.for_each_rm_managed_image(repository, ["web"], idempotency_key="clean-up")
        for _ in range(2)
    )
    assert (first.id, []) == (again.id, tags())


def test_the_shell_removes_what_python_added(command, fleet, registry, repository, tags):  # noqa: F811 - the fixture
    push_image(registry.host, PATH, str(STAGES[0]))
    fleet.records.add_custom_tag(repository, "v1", STAGES[0])
    removed = command("records", "remove", repository, "custom-tag", "v1", "--json")
    assert (0, ["v1"]) == (removed.code, [found["item"] for found in removed.objects[:-1]])
    assert [str(STAGES[0])] == tags()
