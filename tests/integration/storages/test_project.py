"""The storages of a project, in real registries: publish, fill caches, take from secondaries, look up."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from stagefleet.attempt import Attempt
from stagefleet.credentials import DockerConfig
from stagefleet.errors import (
    NotFoundError,
    RegistryUnreachableError,
    StageNotFoundError,
    StagesNotFoundError,
    UsageError,
)
from stagefleet.locks import RedisLocks
from stagefleet.names import EngineProject, Reference, Repository, StageId
from stagefleet.project_addresses import Project
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import HttpSettings, LockSettings, Settings
from stagefleet.shared_state.implementations import RedisSharedState
from tasks.delete import delete_from_caches
from tests.services.images import push_image
from tests.stage_tasks import StageTasks

DIGEST = "a" * 56
NOBODY = Repository("127.0.0.1:9", "nobody/there")


def stage(number, digest=DIGEST):
    return StageId(digest, 1700000000000 + number)


def push(repository, stage_id):
    return push_image(
        repository.host, repository.path, str(stage_id), layers=[b"base" * 999, str(stage_id).encode()]
    )


def manifests(registry, method, since=0):
    return [path for verb, path, _ in registry.requests()[since:] if verb == method and "/manifests/" in path]


def lists(registry, repository):
    """How often the tags of a repository were listed; rejections are looked for in them too, once."""
    to_delete = [path for _, path, _ in registry.requests() if f"/{repository.path}/tags/list" in path]
    return sum(
        "last=" not in path for path in to_delete
    )  # the further page that brings nothing is the same list


@pytest.fixture
def client(tmp_path):
    settings = Settings(http=HttpSettings(retries=0))
    with RegistryClient(settings, config=DockerConfig(tmp_path / "config.json")) as client:
        yield client


@pytest.fixture
def roles(registry):
    return Project("app", Repository(registry.host, "app/primary"), Repository(registry.host, "app/final"))


@pytest.fixture
def project(stage_tasks, roles):
    return stage_tasks.project(roles)


class TestPublishing:
    def test_a_stage_goes_into_the_final_storage_once(self, project, roles, registry):
        push(roles.primary, stage(1))
        first = project.publish_stage(stage(1), run_id="r")
        before = len(registry.requests())
        again = project.publish_stage(stage(1), run_id="r")

        assert not first.skipped
        assert again.skipped
        assert first.result == again.result
        assert f"{roles.final}:{stage(1)}" == again.result["name"]
        assert [] == manifests(registry, "PUT", before)

    def test_the_final_storage_is_listed_once_a_run(self, project, roles, registry):
        for number in range(5):
            push(roles.primary, stage(number))
            project.publish_stage(stage(number), run_id="r")

        assert 1 == lists(registry, roles.final)

    def test_workers_of_a_run_share_the_list(self, roles, registry, redis_server, client):
        processes = [
            StageTasks(client, RedisSharedState(redis_server.client(), prefix="t:", lease_seconds=30))
            for _ in range(2)
        ]
        for number, stage_tasks in enumerate(processes):
            push(roles.primary, stage(number))
            stage_tasks.project(roles).publish_stage(stage(number), run_id="r")

        assert 1 == lists(registry, roles.final)

    def test_what_another_run_published_meanwhile_is_not_pushed_again(
        self, stage_tasks, project, roles, registry
    ):
        push(roles.primary, stage(1))
        push(roles.primary, stage(2))
        project.publish_stage(stage(1), run_id="r")
        stage_tasks.project(roles).publish_stage(stage(2), run_id="other")
        before = len(registry.requests())
        item_result = project.publish_stage(stage(2), run_id="r")

        assert item_result.skipped
        assert f"{roles.final}:{stage(2)}" == item_result.result["name"]
        assert [] == manifests(registry, "PUT", before)

    def test_two_jobs_at_once_push_a_stage_once(self, roles, registry, redis_server, client, cleanup):
        """Each with its own run and connections to shared state and locks, as two workers on two machines."""
        push(roles.primary, stage(1))
        jobs = []
        for name in ("r", "s"):
            locks = RedisLocks(redis_server.client(), prefix="t:", settings=LockSettings())
            cleanup.callback(locks.close)
            shared_state = RedisSharedState(redis_server.client(), prefix="t:", lease_seconds=30)
            jobs.append((name, StageTasks(client, shared_state, locks=locks).project(roles)))
        start = Barrier(len(jobs))

        def publish(job):
            name, project = job
            start.wait(30)
            return project.publish_stage(stage(1), run_id=name)

        with ThreadPoolExecutor(len(jobs)) as pool:
            item_result = list(pool.map(publish, jobs))

        assert 1 == len([path for path in manifests(registry, "PUT") if "/app/final/" in path])
        assert [False, True] == sorted(one.skipped for one in item_result)
        assert item_result[0].result == item_result[1].result

    def test_a_final_storage_that_lost_a_stage_gets_it_again(self, project, roles, client, caplog):
        pushed = push(roles.primary, stage(1))
        project.publish_stage(stage(1), run_id="r")
        client.delete_manifest(
            Reference.of(roles.final, client.head_manifest(roles.final.tagged(str(stage(1)))).digest)
        )
        with caplog.at_level(logging.WARNING):
            item_result = project.publish_stage(stage(1), run_id="r")

        assert not item_result.skipped
        assert pushed.digest == str(client.head_manifest(roles.final.tagged(str(stage(1)))).digest)
        assert "lost stage" in caplog.text

    def test_what_should_be_built_and_is_not_is_an_error_that_names_it(self, project, roles, registry):
        push(roles.primary, stage(1))
        with pytest.raises(StageNotFoundError, match=f"backend with digest {DIGEST} does not exist"):
            project.publish_stage(stage(1), run_id="r", should_be_built=True, image="backend")

        assert [] == [path for path in manifests(registry, "PUT") if "app/final" in path]

    def test_what_should_be_built_and_is_there_is_described(self, project, roles):
        push(roles.final, stage(1))

        assert project.publish_stage(stage(1), run_id="r", should_be_built=True).skipped

    def test_without_a_final_storage_there_is_nowhere_to_publish_to(self, stage_tasks, roles):
        with pytest.raises(UsageError, match="no final storage"):
            stage_tasks.project(replace(roles, final=None)).publish_stage(stage(1), run_id="r")


class TestCaches:
    def test_a_cache_that_is_down_fails_nothing(self, stage_tasks, roles, registry, caplog):
        cache = Repository(registry.host, "app/cache")
        push(roles.primary, stage(1))
        project = stage_tasks.project(replace(roles, caches=(NOBODY, cache)))
        with caplog.at_level(logging.WARNING):
            item_result = project.cache_stage(stage(1), run_id="r")

        assert "copied" == item_result.result["caches"][str(cache)]
        assert item_result.result["caches"][str(NOBODY)].startswith("failed: ")
        assert not item_result.skipped
        assert str(NOBODY) in caplog.text
        assert [stage(1)] == list(stage_tasks.stage_ids(cache))

    def test_a_cache_that_has_it_is_left_alone(self, stage_tasks, roles, registry):
        cache = Repository(registry.host, "app/cache")
        push(roles.primary, stage(1))
        project = stage_tasks.project(replace(roles, caches=(cache,)))
        project.cache_stage(stage(1), run_id="r")

        assert project.cache_stage(stage(1), run_id="r").skipped

    def test_a_stage_that_the_primary_lacks_is_no_fault_of_the_cache(self, stage_tasks, roles, registry):
        project = stage_tasks.project(replace(roles, caches=(Repository(registry.host, "app/cache"),)))
        with pytest.raises(StageNotFoundError):
            project.cache_stage(stage(1), run_id="r")

    def test_a_stage_goes_out_of_every_cache_that_lets_it(
        self, stage_tasks, roles, registry, make_registry, caplog
    ):
        fixed = make_registry(delete=False)
        caches = (NOBODY, Repository(fixed.host, "app"), Repository(registry.host, "app/cache"))
        for cache in caches[1:]:
            push(cache, stage(1))
        with caplog.at_level(logging.WARNING):
            attempt = Attempt("r", to_delete=lambda: [str(stage(1))])
            assert delete_from_caches(stage_tasks.storages, caches, stage(1), attempt)

        assert [] == list(stage_tasks.stage_ids(caches[2]))
        assert [stage(1)] == list(stage_tasks.stage_ids(caches[1]))
        assert 2 == caplog.text.count("keeps stage")


class TestSecondaries:
    def test_a_stage_comes_from_the_first_that_has_it(self, stage_tasks, roles, registry):
        empty, full = (Repository(registry.host, f"old/{name}") for name in ("empty", "full"))
        pushed = push(full, stage(1))
        project = stage_tasks.project(replace(roles, secondaries=(empty, full)))
        item_result = project.take_stage(stage(1), run_id="r")

        assert f"{roles.primary}@{pushed.digest}" == item_result.result["repo_digest"]
        assert project.take_stage(stage(1), run_id="r").skipped

    def test_a_stage_that_none_has_is_an_error_that_names_those_asked(self, stage_tasks, roles, registry):
        project = stage_tasks.project(replace(roles, secondaries=(Repository(registry.host, "old/app"),)))
        with pytest.raises(StageNotFoundError, match="old/app"):
            project.take_stage(stage(1), run_id="r")

    def test_of_a_digest_the_oldest_is_taken_unless_the_primary_has_one(self, stage_tasks, roles, registry):
        old = Repository(registry.host, "old/app")
        for number in (3, 2, 4):
            push(old, stage(number))
        project = stage_tasks.project(replace(roles, secondaries=(old,)))

        assert [str(stage(2))] == project.plan_take(DIGEST).items
        # by another rule: its stage is named
        assert str(stage(4)) == project.take_stage(stage(4), run_id="r").result["stage_id"]
        # the primary has one now: that one is suitable, and nothing is copied
        plan = project.plan_take(DIGEST)
        assert ([], (str(stage(4)),)) == (plan.items, plan.skipped)
        assert [stage(4)] == list(stage_tasks.stage_ids(roles.primary))
        with pytest.raises(StagesNotFoundError):
            project.plan_take("b" * 56)

    def test_an_unreachable_secondary_is_no_empty_one(self, stage_tasks, roles):
        project = stage_tasks.project(replace(roles, secondaries=(NOBODY,)))
        with pytest.raises(RegistryUnreachableError):
            project.plan_take(DIGEST)


class TestLookingUp:
    def test_a_cache_answers_under_the_primarys_name(self, stage_tasks, roles, registry):
        cache = Repository(registry.host, "app/cache")
        pushed = push(cache, stage(1))
        project = stage_tasks.project(replace(roles, caches=(NOBODY, cache)))
        info = project.lookup.describe(stage(1)).info

        assert f"{roles.primary}:{stage(1)}" == info.name
        assert str(roles.primary) == info.repository
        assert f"{roles.primary}@{pushed.digest}" == info.repo_digest

    def test_without_the_caches_the_primary_answers(self, stage_tasks, roles, registry):
        push(roles.primary, stage(1))
        project = stage_tasks.project(replace(roles, caches=(Repository(registry.host, "app/cache"),)))

        assert f"{roles.primary}:{stage(1)}" == project.lookup.describe(stage(1)).info.name
        with pytest.raises(StageNotFoundError):
            project.lookup.describe(stage(2))

    def test_a_rejected_stage_does_not_exist_even_in_a_cache(self, stage_tasks, roles, registry):
        cache = Repository(registry.host, "app/cache")
        push(cache, stage(1))
        push_image(roles.primary.host, roles.primary.path, stage(1).rejected_tag, layers=[])
        with pytest.raises(StageNotFoundError, match="rejected"):
            stage_tasks.project(replace(roles, caches=(cache,))).lookup.describe(stage(1))

    def test_what_was_remembered_of_the_primary_asks_no_storage(self, stage_tasks, roles, registry):
        cache = Repository(registry.host, "app/cache")
        push(roles.primary, stage(1))
        described = stage_tasks.describe_stage(roles.primary, stage(1))
        before = len(registry.requests())
        project = stage_tasks.project(replace(roles, caches=(cache,)))

        assert described == project.lookup.describe(stage(1))
        assert [] == registry.requests()[before:]

    def test_the_final_storage_is_described_by_itself(self, stage_tasks, roles, registry):
        cache = Repository(registry.host, "app/cache")
        push(cache, stage(1))
        push(roles.final, stage(2))
        project = stage_tasks.project(replace(roles, caches=(cache,)))

        assert [stage(2)] == list(project.lookup.final_stage_ids())
        assert f"{roles.final}:{stage(2)}" == project.lookup.describe_final(stage(2)).info.name
        with pytest.raises(StageNotFoundError):
            project.lookup.describe_final(stage(1))

    def test_by_digest_gives_those_of_the_digest_and_the_oldest_is_selected(self, project, roles):
        for stage_id in (stage(2), stage(1), stage(3, "b" * 56)):
            push(roles.primary, stage_id)
        found = project.lookup.by_digest(DIGEST)

        assert [stage(1), stage(2)] == [description.stage_id for description in found]
        assert stage(1) == project.lookup.select(found).stage_id
        assert stage(2) == project.lookup.select(found, lambda ids: max(ids, default=None)).stage_id
        assert None is project.lookup.select([])

    def test_the_last_known_list_answers_until_it_gives_nothing(self, project, roles, registry):
        push(roles.primary, stage(1))
        assert 1 == len(project.lookup.by_digest_as_known(DIGEST))
        before = lists(registry, roles.primary)
        push(roles.primary, stage(2))
        push(roles.primary, stage(3, "b" * 56))

        assert 1 == len(project.lookup.by_digest_as_known(DIGEST))
        assert before == lists(registry, roles.primary)
        assert 1 == len(project.lookup.by_digest_as_known("b" * 56))
        assert 2 == len(project.lookup.by_digest(DIGEST))

    def test_an_image_is_described_by_its_name(self, project, roles):
        pushed = push(roles.primary, stage(1))
        by_tag = project.lookup.image_info(roles.primary.tagged(str(stage(1))))

        assert f"{roles.primary}@{pushed.digest}" == by_tag.repo_digest
        with pytest.raises(NotFoundError):
            project.lookup.image_info(roles.primary.tagged("nothing"))


class TestNamesForDeployments:
    def test_they_are_the_final_storages_where_there_is_one(self, project, roles):
        assert str(roles.final) == project.deployed_repository()
        assert f"{roles.final}:{stage(1)}" == project.deployed_image("backend", stage(1)).name

    def test_else_they_are_the_primarys(self, stage_tasks, roles):
        project = stage_tasks.project(replace(roles, final=None))
        assert f"{roles.primary}:{stage(1)}" == project.deployed_image("backend", stage(1)).name
        local = stage_tasks.project(Project("app", EngineProject("app")))
        assert f"app:{stage(1)}" == local.deployed_image("backend", stage(1)).name

    def test_a_rule_gives_a_custom_tag(self, project, roles):
        image = project.deployed_image("backend", stage(1), lambda name, tag: f"{name}-{tag[:4]}")
        assert f"{roles.final}:backend-aaaa" == image.name
