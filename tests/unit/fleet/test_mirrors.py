"""Mirrors: what the source no longer has goes from the destination when all is copied, and never too much."""

from __future__ import annotations

import json

import pytest

from stagefleet import RemoteCallback
from stagefleet.errors import (
    ForbiddenError,
    KeyConflictError,
    PruneLimitError,
    RepositoryNotFoundError,
    UsageError,
)
from stagefleet.manifests import Manifest
from stagefleet.names import Reference, Repository, parse_address
from stagefleet.operations.base import fingerprint
from stagefleet.operations.delete import PruneOperation
from stagefleet.runs.models import RunState
from stagefleet.testing import in_memory_fleet

SOURCE, DESTINATION = "registry.test/app", "mirror.test/app"
STAGES = [f"{number:056x}-{1_700_000_000_000 + number}" for number in range(40)]
OLD, KEPT, NEW = STAGES[:2], STAGES[2:30], STAGES[30:]


@pytest.fixture
def notices():
    return []


@pytest.fixture
def fleet(notices):
    stages = {SOURCE: KEPT + NEW, DESTINATION: OLD + KEPT}
    with in_memory_fleet(stages=stages, on_notice=notices.append) as fleet:
        yield fleet


def project(fleet):
    return fleet.project(parse_address(SOURCE))


def listed(fleet, address=DESTINATION):
    return sorted(str(stage_id) for stage_id in fleet.stage_ids(address, missing_ok=True))


def follow(fleet, mirror):
    return [fleet.wait(run).state for run in mirror.runs]


def test_what_the_source_no_longer_has_goes_after_the_copy(fleet):
    mirror = project(fleet).start_mirror(DESTINATION)
    assert mirror.refusal is None
    outcomes: list[str] = []
    copied = fleet.wait(mirror.runs[0], lambda outcome: outcomes.append(outcome.item))
    deleted = fleet.wait(mirror.runs[1], lambda outcome: outcomes.append(outcome.item))
    assert (10, 28, 2) == (copied.succeeded, copied.skipped, deleted.succeeded)
    assert OLD == sorted(outcomes[-2:])
    assert sorted(KEPT + NEW) == listed(fleet)


@pytest.fixture
def signed(fleet):
    """What refers to the two stages that go, and to one that stays, by digest; in the destination."""
    repository, registries = Repository.parse(DESTINATION), fleet.registries

    def sign(stage):
        image = registries.fetch_manifest(repository.tagged(stage))
        subject = {"mediaType": image.media_type, "digest": str(image.digest), "size": image.size}
        document = json.loads(image.raw) | {"artifactType": "application/x.signature", "subject": subject}
        signature = Manifest.of(document)
        registries.put_manifest(Reference.of(repository, signature.digest), signature)
        return signature.digest

    return [sign(stage) for stage in (*OLD, KEPT[0])]


@pytest.mark.parametrize("referrers", [False, True])
def test_what_refers_to_the_deleted_goes_along_where_it_is_asked_for(fleet, signed, referrers):
    mirror = project(fleet).start_mirror(DESTINATION, referrers=referrers)
    assert [RunState.SUCCEEDED] * 2 == follow(fleet, mirror)
    left = fleet.registries.stored(Repository.parse(DESTINATION)).manifests
    assert (signed[2:] if referrers else signed) == [digest for digest in signed if digest in left]


def test_without_referrers_older_workers_take_the_deletion(fleet):
    """They refuse an option that they do not know."""
    mirror = project(fleet).start_mirror(DESTINATION)
    assert {"repository", "source", "max_percent"} == set(mirror.runs[1].spec.options)


def test_a_key_of_a_release_that_left_the_referrers_of_the_deleted_goes_on(fleet):
    """The fingerprint is the one that such a release wrote."""
    mirror = project(fleet).start_mirror(DESTINATION, referrers=True, idempotency_key="nightly")
    prune = PruneOperation(repository=Repository.parse(DESTINATION), source=Repository.parse(SOURCE))
    written = fingerprint(prune, ["copy_stage", "False", "False", "referrers"])
    assert [written] * 2 == [run.spec.fingerprint for run in mirror.runs]


def test_the_report_of_the_copy_is_that_of_the_mirror(fleet):
    mirror = project(fleet).start_mirror(DESTINATION, idempotency_key="nightly")
    follow(fleet, mirror)
    report = fleet.report(fleet.run_under("nightly").id)
    assert [run.id for run in mirror.runs] == [run.id for run in report.runs]
    (deletion,) = report.as_json()["following"]
    assert (mirror.runs[1].id, "succeeded", 2, 0) == (
        deletion["run"],
        deletion["state"],
        deletion["total"],
        deletion["left"],
    )
    assert [] == fleet.report(mirror.runs[1].id).as_json()["following"]


def test_a_plan_changes_nothing(fleet):
    plan = project(fleet).plan_mirror(DESTINATION)
    assert (NEW, OLD, None) == (list(plan.copies.items), list(plan.deletions.items), plan.refusal)
    assert sorted(OLD + KEPT) == listed(fleet)
    assert [] == list(fleet.runs())


def test_nothing_is_deleted_if_a_copy_fails(fleet):
    fleet.worker.fail(NEW[0], ForbiddenError("denied"))
    mirror = project(fleet).start_mirror(DESTINATION)
    assert [RunState.FAILED, RunState.CANCELLED] == follow(fleet, mirror)
    assert set(OLD) <= set(listed(fleet))


def test_nothing_is_deleted_if_the_copy_is_cancelled(fleet):
    mirror = project(fleet).start_mirror(DESTINATION)
    fleet.cancel(mirror.runs[0].id)
    assert [RunState.CANCELLED, RunState.CANCELLED] == follow(fleet, mirror)
    assert set(OLD) <= set(listed(fleet))


def test_a_mirror_without_anything_to_copy_still_deletes(fleet):
    fleet.for_each_copy_stage(SOURCE, DESTINATION)
    assert [RunState.SUCCEEDED, RunState.SUCCEEDED] == follow(fleet, project(fleet).start_mirror(DESTINATION))
    assert sorted(KEPT + NEW) == listed(fleet)


def test_a_mirror_without_anything_to_delete_is_one_run(fleet):
    follow(fleet, project(fleet).start_mirror(DESTINATION))
    assert [RunState.SUCCEEDED] == follow(fleet, project(fleet).start_mirror(DESTINATION))


@pytest.mark.parametrize(("percent", "goes"), [(0, False), (6.6, False), (6.7, True), (100, True)])
def test_more_than_was_allowed_is_not_deleted_and_all_is_copied(fleet, percent, goes):
    """Two of the thirty stages that are there: 6.67 %."""
    mirror = project(fleet).start_mirror(DESTINATION, max_percent=percent)
    assert {RunState.SUCCEEDED} == set(follow(fleet, mirror))
    assert sorted((KEPT if goes else OLD + KEPT) + NEW) == listed(fleet)
    assert goes == (mirror.refusal is None)
    if mirror.refusal is not None:
        assert isinstance(mirror.refusal, PruneLimitError)
        assert f"2 of the 30 stages of {DESTINATION}" in str(mirror.refusal)
        assert f"more than {percent:g} %" in str(mirror.refusal)
        assert 1 == mirror.refusal.exit_code


def test_a_stage_that_came_back_to_the_source_stays(fleet):
    mirror = project(fleet).start_mirror(DESTINATION)
    fleet.registries.add_stages(SOURCE, OLD[:1])
    outcomes = {}
    fleet.wait(mirror.runs[0])
    fleet.wait(mirror.runs[1], lambda outcome: outcomes.update({outcome.item: str(outcome.state)}))
    assert {OLD[0]: "skipped", OLD[1]: "succeeded"} == outcomes
    assert OLD[0] in listed(fleet)


def test_a_source_without_stages_is_refused():
    with in_memory_fleet(stages={SOURCE: [], DESTINATION: OLD}) as fleet:
        with pytest.raises(UsageError, match="lists no stages"):
            project(fleet).start_mirror(DESTINATION, max_percent=100)
        assert OLD == listed(fleet)


def test_a_source_that_does_not_exist_is_refused():
    with in_memory_fleet(stages={DESTINATION: OLD}) as fleet, pytest.raises(RepositoryNotFoundError):
        project(fleet).start_mirror(DESTINATION, max_percent=100)


def test_an_engine_has_no_project(fleet):
    with pytest.raises(UsageError, match="docker-daemon:app"):
        project(fleet).start_mirror("docker-daemon:app")
    with pytest.raises(UsageError, match="docker-daemon:app"):
        fleet.project(parse_address("docker-daemon:app")).start_mirror(DESTINATION)


def test_the_same_key_starts_a_mirror_once(fleet, notices):
    first = project(fleet).start_mirror(DESTINATION, idempotency_key="nightly")
    again = project(fleet).start_mirror(DESTINATION, idempotency_key="nightly")
    assert [run.id for run in first.runs] == [run.id for run in again.runs]
    follow(fleet, first)
    fleet.registries.add_stages(DESTINATION, OLD)
    assert [run.id for run in first.runs] == [
        run.id for run in project(fleet).start_mirror(DESTINATION, idempotency_key="nightly").runs
    ]
    assert any("nothing was done now" in notice for notice in notices)
    with pytest.raises(KeyConflictError):
        project(fleet).start_mirror(DESTINATION, idempotency_key="nightly", max_percent=50)
    with pytest.raises(KeyConflictError):
        fleet.for_each_copy_stage(SOURCE, DESTINATION, idempotency_key="nightly")


def test_a_mirror_that_did_not_succeed_is_begun_again_under_its_key(fleet):
    fleet.worker.fail(OLD[0], ForbiddenError("denied"))
    first = project(fleet).start_mirror(DESTINATION, idempotency_key="nightly")
    assert [RunState.SUCCEEDED, RunState.FAILED] == follow(fleet, first)
    fleet.worker.fail(OLD[0], ForbiddenError("denied"), attempts=0)
    again = project(fleet).start_mirror(DESTINATION, idempotency_key="nightly")
    assert first.runs[0].id != again.runs[0].id
    assert [RunState.SUCCEEDED, RunState.SUCCEEDED] == follow(fleet, again)
    assert sorted(KEPT + NEW) == listed(fleet)


def mirror_under_key(fleet):
    return project(fleet).start_mirror(DESTINATION, max_percent=4, idempotency_key="nightly")


def test_a_refusal_is_told_again_under_the_same_key_while_the_copy_goes_on(fleet):
    first = mirror_under_key(fleet)
    fleet.registries.add_stages(SOURCE, OLD)
    # Now none would go; the mirror under the key has been refused all the same.
    again = mirror_under_key(fleet)
    assert [run.id for run in first.runs] == [run.id for run in again.runs]
    assert "2 of the 30 stages" in str(first.refusal)
    assert str(first.refusal) == str(again.refusal)


def test_a_mirror_that_was_refused_is_begun_again_under_its_key(fleet, notices):
    first = mirror_under_key(fleet)
    assert [RunState.SUCCEEDED] == follow(fleet, first)
    refused_again = mirror_under_key(fleet)
    assert first.runs[0].id != refused_again.runs[0].id
    assert refused_again.refusal is not None
    follow(fleet, refused_again)
    fleet.registries.add_stages(SOURCE, OLD[:1])
    allowed = mirror_under_key(fleet)
    assert allowed.refusal is None
    assert [RunState.SUCCEEDED, RunState.SUCCEEDED] == follow(fleet, allowed)
    assert sorted(OLD[:1] + KEPT + NEW) == listed(fleet)
    assert not any("nothing was done now" in notice for notice in notices)


def test_the_fleet_calls_for_the_outcomes_of_both_runs(fleet):
    callback = RemoteCallback(outcome_url="https://ci.test/told", finish_url="https://ci.test/done")
    follow(fleet, project(fleet).start_mirror(DESTINATION, callback))
    told = [call for call in fleet.worker.remote_calls if call.target == "https://ci.test/told"]
    assert 40 == len(told)
    assert 2 == sum(call.target == "https://ci.test/done" for call in fleet.worker.remote_calls)


@pytest.mark.parametrize("percent", [-1, 100.5, float("nan"), float("inf")])
def test_what_is_no_percentage_is_refused(fleet, percent):
    for mirror in (project(fleet).plan_mirror, project(fleet).start_mirror):
        with pytest.raises(UsageError, match=r"max_percent. is .*: give a number"):
            mirror(DESTINATION, max_percent=percent)
