"""The fleet in memory does what the real one does: one suite over `Fleet.embedded` and `in_memory_fleet`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from stagefleet import Fleet, Project, Settings
from stagefleet.errors import (
    InvalidNameError,
    KeyConflictError,
    RepositoryNotFoundError,
    RunNotFoundError,
    StageNotFoundError,
    StagesNotFoundError,
    UsageError,
)
from stagefleet.names import Repository, StageId
from stagefleet.operations.copy import CopyOperation
from stagefleet.operations.verify import VerifyOperation
from stagefleet.records.models import CustomTag, ImageMetadata, ManagedImage
from stagefleet.runs.models import ItemState, Outcome, RunState
from stagefleet.testing import InMemoryFleet, in_memory_fleet
from tests.services import RegistryServer
from tests.services.images import push_image

STAGES = [f"{number:056x}-{1_700_000_000_000 + number}" for number in range(1, 6)]
_NUMBERS = itertools.count()


@dataclass
class Storages:
    """A fleet, and repositories of a test's own."""

    fleet: Fleet
    notices: list[str]
    registry: RegistryServer | None

    def __post_init__(self) -> None:
        self.host = "registry.test" if self.registry is None else self.registry.host
        self.number = next(_NUMBERS)

    def repository(self, name: str) -> str:
        return f"{self.host}/test{self.number}/{name}"

    def filled(self, name: str, stage_ids: list[str]) -> str:
        address = self.repository(name)
        if isinstance(self.fleet, InMemoryFleet):
            self.fleet.registries.add_stages(address, stage_ids)
        elif self.registry is not None:
            for stage_id in stage_ids:
                push_image(self.registry, address.partition("/")[2], stage_id, layers=[stage_id.encode()])
        return address

    def listed(self, address: str) -> list[str]:
        return [str(stage_id) for stage_id in self.fleet.stage_ids(address, missing_ok=True)]


@pytest.fixture(scope="module")
def embedded() -> Iterator[tuple[Fleet, list[str]]]:
    notices: list[str] = []
    with Fleet.embedded(settings=Settings(), on_notice=notices.append) as fleet:
        yield fleet, notices


@pytest.fixture(params=["memory", "embedded"])
def storages(request):
    if request.param == "memory":
        notices: list[str] = []
        with in_memory_fleet(on_notice=notices.append) as fleet:
            yield Storages(fleet, notices, None)
    else:
        registry = request.getfixturevalue("registry")
        fleet, notices = request.getfixturevalue("embedded")
        notices.clear()
        yield Storages(fleet, notices, registry)


@pytest.fixture
def fleet(storages):
    return storages.fleet


@pytest.fixture
def source(storages):
    return storages.filled("source", STAGES)


@pytest.fixture
def destination(storages):
    return storages.repository("destination")


def test_a_copy_calls_back_once_per_item_and_adds_the_stages(fleet, storages, source, destination):
    storages.filled("destination", STAGES[:1])
    outcomes: list[Any] = []
    run = fleet.for_each_copy_stage(source, destination, None, outcomes.append, parallel=2)
    assert RunState.SUCCEEDED == run.state
    assert (5, 4, 1, 0) == (run.total, run.succeeded, run.skipped, run.failed)
    states = {outcome.item: outcome.state for outcome in outcomes}
    assert {STAGES[0]: ItemState.SKIPPED, **dict.fromkeys(STAGES[1:], ItemState.SUCCEEDED)} == states
    assert len(states) == len(outcomes)
    assert STAGES == storages.listed(destination)
    copied = next(outcome for outcome in outcomes if outcome.item == STAGES[1])
    assert f"{destination}:{STAGES[1]}" == copied.result["name"]


def test_named_stages_alone_are_copied_each_once(fleet, storages, source, destination):
    run = fleet.for_each_copy_stage(source, destination, [STAGES[2], STAGES[0], STAGES[2]])
    assert 2 == run.succeeded
    assert [STAGES[0], STAGES[2]] == storages.listed(destination)


def test_a_plan_says_what_a_run_would_do_and_changes_nothing(fleet, storages, source, destination):
    storages.filled("destination", STAGES[:2])
    copy = CopyOperation(source=Repository.parse(source), destination=Repository.parse(destination))
    plan = fleet.plan(copy)
    assert (STAGES[2:], STAGES[:2]) == (list(plan.items), list(plan.skipped))
    assert STAGES[:2] == storages.listed(destination)


def test_descriptions_are_those_of_the_stages(fleet, source):
    described = list(fleet.describe_stages(source, STAGES[:2]))
    assert STAGES[:2] == [str(description.stage_id) for description in described]
    assert [f"{source}:{stage_id}" for stage_id in STAGES[:2]] == [found.info.name for found in described]


def test_a_stage_that_is_gone_is_left_out_of_descriptions(fleet, storages):
    source = storages.filled("source", STAGES[:1])
    left_out: dict[StageId, Exception] = {}
    described = list(fleet.describe_stages(source, STAGES[:2], on_left_out=left_out.__setitem__))
    assert 1 == len(described)
    assert [StageId.parse(STAGES[1])] == list(left_out)
    assert isinstance(left_out[StageId.parse(STAGES[1])], StageNotFoundError)


def test_a_missing_repository_is_refused_or_taken_for_empty(fleet, storages, destination):
    missing = storages.repository("missing")
    for refused in (
        lambda: list(fleet.stage_ids(missing)),
        lambda: fleet.for_each_copy_stage(missing, destination),
        lambda: fleet.for_each_delete_stage(missing, STAGES[:1]),
    ):
        with pytest.raises(RepositoryNotFoundError, match=f"there is no repository {missing}"):
            refused()
    assert 0 == fleet.for_each_copy_stage(missing, destination, missing_ok=True).total
    assert [f"there is no repository {missing}: it is taken for empty"] == storages.notices


def test_wrong_arguments_are_refused_before_anything_starts(fleet, storages, destination):
    source, before = storages.filled("source", STAGES[:1]), len(list(fleet.runs()))
    for error, stage_ids in (
        (StagesNotFoundError, STAGES[:2]),
        (InvalidNameError, ["latest"]),
        (UsageError, STAGES[0]),
    ):
        with pytest.raises(error):
            fleet.for_each_copy_stage(source, destination, stage_ids)
    with pytest.raises(UsageError, match="source and destination are the same"):
        fleet.for_each_copy_stage(source, source)
    assert before == len(list(fleet.runs()))


def test_an_exception_of_the_callback_cancels_the_run_and_is_raised(fleet, storages, source, destination):
    called: list[str] = []

    def refuse(outcome):
        called.append(outcome.item)
        raise ValueError("that is enough")

    with pytest.raises(ValueError, match="that is enough"):
        fleet.for_each_copy_stage(source, destination, None, refuse, parallel=1)
    run = next(fleet.runs())
    assert RunState.CANCELLED == run.state
    assert (run.error.type, run.error.message) == ("ValueError", "that is enough")
    assert [called[0]] == called == storages.listed(destination)
    assert 4 == run.cancelled


def test_a_cancelled_run_starts_no_item_any_more(fleet, storages, source, destination):
    called: list[str] = []

    def cancel(outcome):
        called.append(outcome.item)
        assert fleet.cancel(next(fleet.runs()).id)

    run = fleet.for_each_copy_stage(source, destination, None, cancel, parallel=1)
    assert (RunState.CANCELLED, 1, 4) == (run.state, run.succeeded, run.cancelled)
    assert called == storages.listed(destination)
    assert not fleet.cancel(run.id)


def test_a_key_starts_one_run(fleet, storages, source, destination):
    key = f"job {storages.number}"
    told: list[Outcome] = []
    first = fleet.for_each_copy_stage(source, destination, STAGES[:2], idempotency_key=key)
    second = fleet.for_each_copy_stage(
        source, destination, [STAGES[1], STAGES[0]], told.append, idempotency_key=key
    )
    assert first.id == second.id == fleet.run_under(key).id
    assert sorted(STAGES[:2]) == sorted(outcome.item for outcome in told)
    assert any("nothing was done now" in notice for notice in storages.notices)
    with pytest.raises(KeyConflictError):
        fleet.for_each_copy_stage(source, destination, STAGES[:3], idempotency_key=key)


def test_a_key_goes_on_with_what_a_cancelled_run_left(fleet, storages, source, destination):
    key = f"job {storages.number}"

    def stop(_outcome):
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fleet.for_each_copy_stage(source, destination, None, stop, parallel=1, idempotency_key=key)
    cancelled = fleet.run_under(key)
    run = fleet.for_each_copy_stage(source, destination, idempotency_key=key)
    assert (4, cancelled.id) == (run.total, run.spec.parent)
    assert STAGES == storages.listed(destination)


def test_a_started_run_is_followed_and_found(fleet, source, destination):
    copy = CopyOperation(source=Repository.parse(source), destination=Repository.parse(destination))
    started = fleet.start(copy, parallel=2)
    told: list[Outcome] = []
    assert RunState.SUCCEEDED == fleet.wait(started, told.append).state
    assert sorted(STAGES) == sorted(outcome.item for outcome in told)
    assert started.id == fleet.run(started.id[:10]).id
    with pytest.raises(RunNotFoundError):
        fleet.run("0000000000000000")


def test_a_run_ends_for_one_who_looks_at_its_state(fleet, source, destination):
    copy = CopyOperation(source=Repository.parse(source), destination=Repository.parse(destination))
    run = fleet.start(copy)
    while not run.state.is_final:
        run = fleet.run(run.id)
    assert 5 == run.succeeded


def test_a_deletion_removes_the_stages_and_skips_those_that_are_gone(fleet, storages, source):
    outcomes: list[Any] = []
    run = fleet.for_each_delete_stage(source, STAGES[:2], outcomes.append)
    assert 2 == run.succeeded
    assert STAGES[2:] == storages.listed(source)
    run = fleet.for_each_delete_stage(source, STAGES[:1], outcomes.append)
    assert (1, {"reason": "was not there"}) == (run.skipped, outcomes[-1].result)
    assert 3 == fleet.for_each_delete_stage(source, None).succeeded
    assert [] == storages.listed(source)


def test_a_verification_reads_all_content_or_asks_for_it(fleet, source):
    outcomes: list[Any] = []
    for shallow in (False, True):
        verify = VerifyOperation(repository=Repository.parse(source), shallow=shallow)
        assert 5 == fleet.for_each(verify, on_outcome=outcomes.append, parallel=1).succeeded
    assert [{"manifests": 1, "blobs": 2}] * 10 == [outcome.result for outcome in outcomes]
    read, asked = ([outcome.bytes for outcome in half] for half in (outcomes[:5], outcomes[5:]))
    assert min(read) > max(asked) > 0
    with pytest.raises(StagesNotFoundError):
        fleet.for_each(verify, ["f" * 56])


def test_failures_are_told_and_tried_again(fleet, storages, source):
    final = storages.filled("final", STAGES[:1])
    project = fleet.project(Project("app", Repository.parse(source), Repository.parse(final)))
    outcomes: list[Any] = []
    run = project.for_each_publish_stage(STAGES[:2], outcomes.append, should_be_built=True)
    assert (RunState.FAILED, 1, 1) == (run.state, run.skipped, run.failed)
    (failed,) = fleet.failures(run.id)
    assert (STAGES[1], "StageNotFoundError") == (failed.item, failed.error.type)
    assert "should have been built and published before" in failed.error.message
    storages.filled("final", STAGES[1:2])
    again = fleet.retry(run.id)
    assert (RunState.SUCCEEDED, 1, run.id) == (again.state, again.total, again.spec.parent)


def test_a_project_publishes_caches_and_describes(fleet, storages, source):
    final, cache = (Repository.parse(storages.repository(name)) for name in ("final", "cache"))
    project = fleet.project(Project("app", Repository.parse(source), final, (cache,)))
    outcomes: list[Any] = []
    project.for_each_publish_stage(STAGES[:1], outcomes.append, fill_caches=True)
    assert {str(cache): "copied"} == outcomes[0].result["caches"]
    assert f"{final}:{STAGES[0]}" == outcomes[0].result["name"]
    project.for_each_cache_stage(STAGES[:2], outcomes.append)
    assert {STAGES[0]: "present", STAGES[1]: "copied"} == {
        outcome.item: outcome.result["caches"][str(cache)] for outcome in outcomes[1:]
    }
    project.for_each_describe_stage(STAGES[:1], outcomes.append)
    assert f"{source}:{STAGES[0]}" == outcomes[-1].result["name"]
    assert (STAGES[:1], STAGES[:2]) == (storages.listed(str(final)), storages.listed(str(cache)))


def test_a_project_takes_from_its_secondaries_what_it_lacks(fleet, storages, source):
    primary = storages.filled("primary", STAGES[:1])
    project = fleet.project(
        Project("app", Repository.parse(primary), secondaries=(Repository.parse(source),))
    )
    run = project.for_each_take_stage(STAGES[:2])
    assert (1, 1) == (run.succeeded, run.skipped)
    assert STAGES[:2] == storages.listed(primary)


def test_records_are_written_read_and_removed(fleet, source):
    for name in ("web", "api"):
        fleet.records.write(source, ManagedImage(name))
    metadata = ImageMetadata.of_image("web", "c" * 40, StageId.parse(STAGES[0]))
    fleet.records.write(source, metadata)
    assert ManagedImage("web") == fleet.records.read(source, "managed-image", "web").record
    assert {ManagedImage("api").id, ManagedImage("web").id} == set(fleet.records.ids(source, "managed-image"))
    run = fleet.records.for_each_rm_managed_image(source, ["web", "gone"])
    assert (1, 1) == (run.succeeded, run.skipped)
    run = fleet.records.for_each_rm_image_metadata(source, "web", {STAGES[0]: ["c" * 40]})
    assert 1 == run.succeeded
    assert [ManagedImage("api").id] == list(fleet.records.ids(source))


def test_custom_tags_name_a_stage_and_go_without_it(fleet, storages, source):
    fleet.records.add_custom_tag(source, "v1.0", STAGES[0])
    fleet.records.check_custom_tag(source, "v1.0", STAGES[0])
    outcomes: list[Any] = []
    fleet.records.for_each_get_stage_custom_tag_metadata(source, None, outcomes.append)
    assert "v1.0" == outcomes[0].result["name"]
    assert 1 == fleet.records.for_each_delete_stage_custom_tag(source, ["v1.0"]).succeeded
    assert None is fleet.records.read(source, "custom-tag", "v1.0")
    assert STAGES == storages.listed(source)
    with pytest.raises(StageNotFoundError):
        fleet.records.add_custom_tag(source, "v1.1", "f" * 56)
    assert CustomTag("v1.0", StageId.parse(STAGES[0])).id not in set(fleet.records.ids(source))


def test_a_purge_deletes_all_of_a_project(fleet, storages, source):
    fleet.records.write(source, ManagedImage("web"))
    project = fleet.project(Project("app", Repository.parse(source)))
    groups = project.purge()
    assert {"stages": 5, "managed-images": 1} == {
        group.name: group.run.succeeded for group in groups if group.run is not None
    }
    assert [] == storages.listed(source)
    assert [] == list(fleet.records.ids(source))


def test_a_purge_that_was_started_goes_on_group_by_group(fleet, storages, source):
    fleet.records.write(source, ManagedImage("web"))
    project = fleet.project(Project("app", Repository.parse(source)))
    for group in project.start_purge(project.plan_purge()):
        if group.run is not None:
            assert RunState.SUCCEEDED == fleet.wait(group.run).state
    assert [] == storages.listed(source)
    assert [] == list(fleet.records.ids(source))


def test_an_index_is_published_over_a_stage(fleet, storages, source):
    index = "f" * 56
    described = fleet.publish_index(source, index, {"linux/amd64": STAGES[0]})
    assert f"{source}:{index}" == described["name"]
    assert [*STAGES, index] == storages.listed(source)
