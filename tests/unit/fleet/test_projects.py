"""What runs between the storages of a project would do: plans from tag lists alone, options for the tasks."""

from __future__ import annotations

import pytest

from stagefleet import Fleet
from stagefleet.errors import StagesNotFoundError, UsageError
from stagefleet.names import EngineProject, Repository, StageId, split_host
from stagefleet.operations.base import PlanStorages
from stagefleet.operations.delete import DeleteOperation
from stagefleet.operations.describe import DescribeOperation
from stagefleet.operations.publish import CacheOperation, PublishOperation, TakeOperation
from stagefleet.project_addresses import Project
from stagefleet.settings import ProjectSettings, Settings
from tests.unit.fleet.conftest import FakeConnections, FakeRegistries

PRIMARY, FINAL, CACHE, NEAR, FAR = (
    Repository("r.example.com", f"app/{name}") for name in ("primary", "final", "cache", "near", "far")
)
ROLES = Project("app", PRIMARY, FINAL, (CACHE,), (NEAR, FAR))
BARE = Project("bare", PRIMARY)


def stage(number: int, digest: str = "a") -> str:
    return f"{digest * 56}-{1_700_000_000_000 + number}"


class Lists:
    """Tag lists, and a note of whose were read."""

    host_name = "builder"

    def __init__(self, **stages: list[str]) -> None:
        self.stages = {f"r.example.com/app/{name}": ids for name, ids in stages.items()}
        self.read: list[str] = []

    def stage_ids(self, address):
        self.read.append(str(address))
        return map(StageId.parse, self.stages.get(str(address), ()))

    def listing(self, first, second):
        return self

    list_reachable = PlanStorages.list_reachable

    def ping(self, address):
        self.read.append(f"ping {address}")

    def expect(self, address):
        self.read.append(f"expect {address}")


def tag_lists(**stages):
    return Lists(**stages)


def publish(*, roles=ROLES, **options):
    return PublishOperation.of(roles, **options)


class TestPublishing:
    def test_of_all_stages_those_on_the_final_list_are_skipped(self):
        plan = publish().plan(None, tag_lists(primary=[stage(1), stage(2)], final=[stage(1)]))
        assert ([stage(2)], [stage(1)]) == (list(plan.items), list(plan.skipped))

    def test_named_stages_are_each_looked_at_in_the_order_of_naming(self):
        plan = publish().plan([stage(2), stage(1)], tag_lists(primary=[stage(1), stage(2)], final=[stage(2)]))
        assert ([stage(2), stage(1)], []) == (list(plan.items), list(plan.skipped))

    def test_a_dry_run_skips_what_the_final_storage_has_among_those_named_too(self):
        lists = tag_lists(primary=[stage(1), stage(2)], final=[stage(2)])
        plan = publish().plan_dry_run([stage(2), stage(1)], lists)
        assert ([stage(1)], [stage(2)]) == (list(plan.items), list(plan.skipped))

    def test_a_named_stage_that_the_primary_lacks_is_refused(self):
        with pytest.raises(StagesNotFoundError):
            publish().plan([stage(3)], tag_lists(primary=[stage(1)]))

    def test_what_should_be_built_is_decided_by_the_final_storage_alone(self):
        operation = publish(should_be_built=True)
        assert [stage(3)] == list(operation.plan([stage(3)], tag_lists()).items)
        assert operation.options["should_be_built"]

    def test_caches_get_also_what_the_final_storage_has(self):
        plan = publish(fill_caches=True).plan(None, tag_lists(primary=[stage(1), stage(2)], final=[stage(1)]))
        assert {stage(1), stage(2)} == set(plan.items)

    def test_the_tasks_get_the_project(self):
        assert ROLES == PublishOperation.model_validate(publish().options).storages

    def test_a_project_without_a_final_storage_is_refused(self):
        with pytest.raises(UsageError, match=r"set projects\.bare\.final"):
            publish(roles=BARE)


@pytest.mark.parametrize("operation", [DescribeOperation, CacheOperation])
class TestOfThePrimary:
    def test_no_cache_is_asked_before_the_run(self, operation):
        lists = tag_lists(primary=[stage(1)])
        assert [stage(1)] == list(operation.of(ROLES).plan(None, lists).items)
        assert [str(PRIMARY)] == lists.read

    def test_a_named_stage_has_to_be_there(self, operation):
        with pytest.raises(StagesNotFoundError):
            operation.of(ROLES).plan([stage(2)], tag_lists(primary=[stage(1)]))

    def test_the_tasks_get_the_project(self, operation):
        assert ROLES == operation.model_validate(operation.of(ROLES).options).storages


class TestCaching:
    def test_a_project_without_caches_is_refused(self):
        with pytest.raises(UsageError, match="no caches"):
            CacheOperation.of(BARE)


class TestTaking:
    def test_for_each_digest_that_the_primary_lacks_the_oldest_of_the_first_is_taken(self):
        lists = tag_lists(
            primary=[stage(9, "a")],
            near=[stage(1, "a"), stage(5, "b"), stage(4, "b")],
            far=[stage(1, "b"), stage(2, "c")],
        )
        assert [stage(4, "b"), stage(2, "c")] == list(TakeOperation.of(ROLES).plan(None, lists).items)

    def test_a_stage_named_in_full_is_taken_beside_others_of_its_digest(self):
        lists = tag_lists(primary=[stage(9)], near=[stage(1), stage(2)])
        plan = TakeOperation.of(ROLES).plan([stage(2), stage(9)], lists)
        assert ([stage(2)], [stage(9)]) == (list(plan.items), list(plan.skipped))

    def test_a_digest_stands_for_any_stage_of_it_and_the_primarys_come_first(self):
        lists = tag_lists(primary=[stage(9, "a")], near=[stage(1, "a")], far=[stage(3, "b"), stage(2, "b")])
        plan = TakeOperation.of(ROLES).plan(["a" * 56, "b" * 56], lists)
        assert ([stage(2, "b")], [stage(9, "a")]) == (list(plan.items), list(plan.skipped))

    def test_a_digest_that_is_itself_a_stage_is_that_stage(self):
        lists = tag_lists(near=[stage(1)], far=["a" * 56])
        assert ["a" * 56] == list(TakeOperation.of(ROLES).plan(["a" * 56], lists).items)

    def test_what_nobody_has_is_refused_with_all_that_were_asked(self):
        with pytest.raises(StagesNotFoundError) as caught:
            TakeOperation.of(ROLES).plan([stage(1), "b" * 56], tag_lists())
        for name in (PRIMARY, NEAR, FAR, stage(1), "b" * 56):
            assert str(name) in str(caught.value)

    def test_a_project_without_secondaries_is_refused(self):
        with pytest.raises(UsageError, match="no secondary storages"):
            TakeOperation.of(BARE)


def deletion(roles):
    return DeleteOperation(repository=roles.primary, caches=roles.caches)


class TestDeleting:
    def test_the_caches_go_with_the_options_and_are_not_asked(self):
        operation, lists = deletion(ROLES), tag_lists()
        assert [stage(1)] == list(operation.plan([stage(1)], lists).items)
        assert [f"expect {PRIMARY}"] == lists.read
        assert [str(CACHE)] == operation.options["caches"]
        assert str(PRIMARY) == operation.options["repository"]


class TestOnTheHostOfAnEngine:
    LOCAL = Project("app", EngineProject("app"), FINAL, (CACHE,))

    def test_the_items_are_for_the_host_and_skipped_as_elsewhere(self):
        lists = tag_lists(final=[stage(1)])
        lists.stages["docker-daemon:app"] = [stage(1), stage(2)]
        plan = publish(roles=self.LOCAL, hosts=["builder"]).plan(None, lists)
        assert ([(stage(2), "builder")], [(stage(1), "builder")]) == (
            list(map(split_host, plan.items)),
            list(map(split_host, plan.skipped)),
        )

    def test_what_is_named_on_another_host_is_found_by_the_tasks(self):
        lists = tag_lists()
        plan = publish(roles=self.LOCAL, hosts=["far"]).plan([stage(1)], lists)
        assert [(stage(1), "far")] == list(map(split_host, plan.items))
        assert [] == lists.read

    def test_all_of_another_host_is_refused(self):
        with pytest.raises(UsageError, match="name what is meant"):
            publish(roles=self.LOCAL, hosts=["far"]).plan(None, tag_lists())


class TestFleet:
    @pytest.fixture
    def services(self, ledger):
        project = ProjectSettings(primary=PRIMARY, final=FINAL, parallel=3)
        settings = Settings(projects={"app": project})
        return FakeConnections(ledger, FakeRegistries({str(PRIMARY): [stage(1)]}), settings)

    def test_a_project_has_its_own_limit_and_a_caller_may_set_another(self, services):
        with Fleet(services) as fleet:
            runs = [fleet.project("app").for_each_publish_stage(parallel=n, detach=True) for n in (None, 7)]
        assert [3, 7] == [run.spec.parallel for run in runs]
        assert {"publish_stage"} == {run.spec.operation for run in runs}

    def test_a_plan_to_describe_starts_nothing_and_takes_no_host_for_a_registry(self, services):
        with Fleet(services) as fleet:
            project = fleet.project("app")
            operation = DescribeOperation.of(project.storages)
            assert [stage(1)] == list(project.plan(operation).items)
            with pytest.raises(UsageError, match="registries have no hosts"):
                project.plan(operation.on_hosts(["builder"]))
            assert [] == list(fleet.runs())
