"""What a purge would delete."""

from __future__ import annotations

import pytest

from stagefleet.errors import UsageError
from stagefleet.manager.purge import plan_purge
from stagefleet.names import DockerDaemon
from stagefleet.records import CustomTag, ManagedImage, RecordId, RecordImage, RecordKind, RejectedStage
from stagefleet.registry.leash import UNLEASHED
from stagefleet.roles import Roles
from stagefleet.storages.record_writer import put_record
from stagefleet.use_policy import UsePolicy


class Engine:
    """What a project has in an engine."""

    def __init__(self, stages=(), records=()):
        self._stages, self._records = stages, records

    def stage_ids(self, address):
        return iter(self._stages)

    def record_ids(self, address):
        return iter(self._records)


@pytest.fixture
def roles(world):
    return Roles("app", world.source, world.destination)


@pytest.fixture
def write(world):
    def write(record, **labels):
        image = RecordImage.of("app", labels or record.labels)
        put_record(world.registries, world.source.tagged(record.id.tag), image, leash=UNLEASHED)

    return write


@pytest.fixture
def plan(world, roles):
    return lambda sized=False: plan_purge(world.registries, Engine(), roles, sized=sized)


def items(plan):
    return {group.name: group.items for group in plan.groups if group.items}


def test_groups_come_in_the_order_of_a_purge(plan):
    assert [
        "stages",
        "import-metadata",
        "managed-images",
        "image-metadata",
        "custom-tags",
        "rejected-stages",
        "final-stages",
    ] == [group.name for group in plan().groups]
    assert ((), 0) == (plan().unknown, len(plan()))


def test_a_rejected_stage_goes_with_its_record_and_not_among_the_stages(world, write, plan):
    kept, rejected = world.stage(1), world.stage(2)
    for stage_id in (kept, rejected):
        world.registries.push(world.source, str(stage_id))
    write(RejectedStage(rejected))
    assert {"stages": (str(kept),), "rejected-stages": (str(rejected),)} == items(plan())


def test_a_custom_tag_with_a_record_is_no_unknown_tag(world, write, plan):
    world.registries.push(world.source, "latest")
    world.registries.push(world.source, "somebodys")
    write(CustomTag("latest", world.stage(1)))
    assert {"custom-tags": ("latest",)} == items(plan())
    assert (f"{world.source}:somebodys",) == plan().unknown
    assert ["latest"] == plan().groups[0].options["also"]


def test_the_tag_that_a_broken_record_may_mean_stays(world, write, plan):
    world.registries.push(world.source, "latest")
    write(CustomTag("latest", world.stage(1)), other="label")
    assert (f"{world.source}:latest",) == plan().unknown
    assert [] == plan().groups[0].options["also"]


def test_a_record_that_says_a_tag_of_another_record_means_none(world, write, plan):
    world.registries.push(world.source, "latest")
    write(CustomTag("other", world.stage(1)), **{"tag": "latest", "stage-id": str(world.stage(1))})
    assert ({"custom-tags": ("other",)}, (f"{world.source}:latest",)) == (items(plan()), plan().unknown)


def test_final_stages_go_and_foreign_tags_of_the_final_storage_stay(world, plan):
    stage_id = str(world.stage(1))
    world.registries.push(world.destination, stage_id)
    world.registries.push(world.destination, "v1")
    assert ({"final-stages": (stage_id,)}, (f"{world.destination}:v1",)) == (items(plan()), plan().unknown)


def test_a_blob_counts_once_and_what_stays_holds_counts_nowhere(world, plan):
    for number, own in enumerate((b"y" * 100, b"z" * 10)):
        world.registries.push(world.source, str(world.stage(number)), layers=(b"x" * 1000, own))
    one, other = world.registries.shelf(world.source).manifests.values()
    assert one.size + other.size + one.config.size + 1000 + 100 + 10 == plan(sized=True).size
    world.registries.push(world.source, "somebodys", layers=(b"x" * 1000,))  # of the same configuration
    assert one.size + other.size + 100 + 10 == plan(sized=True).size


def test_nothing_is_weighed_unless_asked_for(world, write, plan):
    write(ManagedImage("web"))
    assert (None, True) == (plan().size, plan(sized=True).size > 0)


def test_of_an_engine_stages_and_import_metadata_go_and_weigh_nothing_that_it_tells(world):
    engine = Engine([world.stage(1)], [RecordId.of(RecordKind.IMPORT_METADATA, "0f" * 32)])
    world.registries.push(world.destination, str(world.stage(1)))
    roles = Roles("app", DockerDaemon("app"), world.destination)
    found = plan_purge(world.registries, engine, roles, policy=UsePolicy(skip_used=True), sized=True)
    stage = str(world.stage(1))
    assert {"stages": (stage,), "import-metadata": ("0f" * 32,), "final-stages": (stage,)} == items(found)
    assert ["docker-daemon:app"] * 6 == [group.options["repository"] for group in found.groups[:6]]
    assert [None] * 6 == [group.size for group in found.groups[:6]]
    assert found.groups[6].size
    assert [True, None] == [group.options.get("skip_used") for group in found.groups[:2]]


def test_what_is_in_use_is_no_question_in_a_repository(world, roles):
    with pytest.raises(UsageError, match="no Docker Engine"):
        plan_purge(world.registries, Engine(), roles, policy=UsePolicy(skip_used=True))
