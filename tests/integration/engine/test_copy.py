"""Copies between a real engine and a real registry."""

from __future__ import annotations

import pytest

from stagefleet.errors import EngineError, StageNotFoundError
from stagefleet.leases import NO_LEASE
from stagefleet.locks.stage_locks import ImageLocks, image_of
from stagefleet.names import EngineProject, StageId
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


def test_a_verified_copy_back_leaves_a_stage_of_several_platforms(host, registry, repository):
    """The engine has one of them: the image is the same, and the others stay."""
    stage_id = StageId.parse(stage_id_of("many platforms", None))
    with ImageMaker(registry) as maker:
        members = [
            maker.push_image(
                "stages/app",
                None,
                layers=[archive_of({"own": architecture.encode()})],
                labels=LABELS,
                platform={"os": "linux", "architecture": architecture},
            )
            for architecture in ("arm64", "amd64")
        ]
        index = maker.push_index("stages/app", str(stage_id), members)
        copy(host, repository, APP, stage_id)
        assert copy(host, APP, repository, stage_id, verify=True).skipped
        assert index.digest == maker.digest("stages/app", str(stage_id))


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
