"""Copies between a real engine and a real registry."""

from __future__ import annotations

import pytest

from stagefleet.errors import EngineError, StageNotFoundError
from stagefleet.leases import NO_LEASE
from stagefleet.locks.stage_locks import ImageLocks, image_of
from stagefleet.names import EngineProject, Repository, StageId
from tests.integration.engine.conftest import LABELS
from tests.services import ImageMaker, archive_of, stage_id_of

APP = EngineProject("app")


def copy(host, source, destination, stage_id, *, verify=False):
    return host.copy_stage(source, destination, stage_id, run_id="r", verify=verify, lease=NO_LEASE)


def test_a_stage_of_a_repository_becomes_one_of_the_engine(engine, host, repository, push):
    stage_id, pushed = push("one")
    item_result = copy(host, repository, APP, stage_id)
    assert [f"app:{stage_id}"] == engine.tags()
    assert [stage_id] == list(host.stage_ids(APP))
    assert engine.id_of(pushed) == item_result.result["image_id"]
    assert f"app:{stage_id}" == item_result.result["name"]


def test_a_name_that_the_engine_had_already_stays(engine, host, repository, push):
    stage_id, _ = push("one")
    engine.client().api.pull(str(repository), tag=str(stage_id))
    copy(host, repository, APP, stage_id)
    assert sorted([f"app:{stage_id}", f"{repository}:{stage_id}"]) == engine.tags()


def test_a_name_that_a_job_holds_stays_too(engine, host, locks, repository, push):
    stage_id, _ = push("one")
    with ImageLocks(locks, "here").lock_shared(image_of(repository, stage_id)):
        copy(host, repository, APP, stage_id)
    assert sorted([f"app:{stage_id}", f"{repository}:{stage_id}"]) == engine.tags()


def test_a_stage_of_the_engine_becomes_one_of_a_repository(engine, registry, host, repository):
    stage_id = StageId.parse(stage_id_of("one"))
    image_id = engine.import_image(f"app:{stage_id}", labels=LABELS)
    item_result = copy(host, APP, repository, stage_id)
    assert [f"app:{stage_id}"] == engine.tags()
    assert f"{repository}:{stage_id}" == item_result.result["name"]
    assert image_id in {item_result.result["image_id"], item_result.result["repo_digest"].partition("@")[2]}
    assert engine.tells_progress(item_result.bytes, least=1_000_000)
    with ImageMaker(registry) as maker:
        assert [str(stage_id)] == maker.tags("stages/app")


def test_copies_are_uses_of_the_engines_image(engine, host, repository, push, last_used):
    there, _ = push("one")
    here = StageId.parse(stage_id_of("two"))
    engine.import_image(f"app:{here}", labels=LABELS)
    copy(host, repository, APP, there)
    copy(host, APP, repository, here)
    with pytest.raises(StageNotFoundError):
        copy(host, APP, repository, StageId.parse(stage_id_of("nobody has it")))
    assert [f"app:{there}", f"app:{here}"] == [used.image for used in last_used.used_images("here")]


def test_there_and_back_again_is_the_same_image(engine, host, repository):
    stage_id = StageId.parse(stage_id_of("one"))
    image_id = engine.import_image(f"app:{stage_id}", labels=LABELS)
    copy(host, APP, repository, stage_id)
    engine.renew()
    copy(host, repository, APP, stage_id)
    assert image_id == engine.image_id(f"app:{stage_id}")


def test_verified_copies_compare_image_ids_and_skip_what_is_the_same(engine, host, repository):
    stage_id = StageId.parse(stage_id_of("one"))
    engine.import_image(f"app:{stage_id}", labels=LABELS)
    assert not copy(host, APP, repository, stage_id, verify=True).skipped
    assert copy(host, APP, repository, stage_id, verify=True).skipped
    assert copy(host, repository, APP, stage_id, verify=True).skipped
    engine.renew()
    engine.import_image(f"app:{stage_id}", labels=LABELS, content=b"another")
    assert not copy(host, APP, repository, stage_id, verify=True).skipped


MANY = StageId.parse(stage_id_of("many platforms", None))


@pytest.fixture
def push_index(registry):
    """Pushes a stage for some architectures into a repository; returns its digest."""

    def push(path, *architectures):
        with ImageMaker(registry) as maker:
            members = [
                maker.push_image(
                    path,
                    None,
                    layers=[archive_of({"own": architecture.encode()})],
                    labels=LABELS,
                    platform={"os": "linux", "architecture": architecture},
                )
                for architecture in architectures
            ]
            return maker.push_index(path, str(MANY), members).digest

    return push


@pytest.mark.parametrize("others", [("arm64",), ("s390x",)], ids=["the same index", "another one"])
def test_a_verified_copy_out_leaves_a_stage_that_has_the_image_and_others(
    host, registry, repository, push_index, others
):
    """The engine has one of its platforms: the image is the same, and the others stay."""
    push_index("stages/app", "arm64", "amd64")
    copy(host, repository, APP, MANY)
    index = push_index("stages/app", *others, "amd64")
    assert copy(host, APP, repository, MANY, verify=True).skipped
    with ImageMaker(registry) as maker:
        assert index == maker.digest("stages/app", str(MANY))


def test_a_verified_copy_brings_the_engines_own_platform_where_another_is_there(
    engine, host, repository, push_index
):
    """With containerd's image store the name leads to the same index."""
    push_index("stages/app", "arm64", "amd64")
    engine.client().images.pull(str(repository), tag=str(MANY), platform="linux/arm64")
    engine.client().api.tag(f"{repository}:{MANY}", "app", str(MANY))
    assert not copy(host, repository, APP, MANY, verify=True).skipped
    assert "amd64" == engine.client().api.inspect_image(f"app:{MANY}")["Architecture"]


def test_a_platform_that_was_copied_out_is_the_same(host, registry, repository, push_index):
    """An engine that keeps manifests has the index, too, and pushes what it has of it."""
    push_index("stages/app", "arm64", "amd64")
    copy(host, repository, APP, MANY)
    elsewhere = Repository.parse(f"{registry.host}/stages/other")
    assert not copy(host, APP, elsewhere, MANY, verify=True).skipped
    assert copy(host, APP, elsewhere, MANY, verify=True).skipped


def test_another_project_s_stage_is_refused_with_where_it_belongs(engine, host, repository, push):
    stage_id, _ = push("one", labels={"werf": "shop"})
    with pytest.raises(EngineError, match="docker-daemon:shop"):
        copy(host, repository, APP, stage_id)
    assert [] == engine.tags()


def test_a_stage_that_is_not_there_is_not_found_in_either_direction(host, repository):
    stage_id = StageId.parse(stage_id_of("one"))
    for source, destination in ((repository, APP), (APP, repository)):
        with pytest.raises(StageNotFoundError, match=str(source)):
            copy(host, source, destination, stage_id)


def test_a_push_that_fails_leaves_no_name_behind(engine, registry, host, repository):
    stage_id = StageId.parse(stage_id_of("one"))
    engine.import_image(f"app:{stage_id}", labels=LABELS)
    registry.stop()
    with pytest.raises(Exception, match="connection refused"):
        copy(host, APP, repository, stage_id)
    assert [f"app:{stage_id}"] == engine.tags()
