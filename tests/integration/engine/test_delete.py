"""Removing stages from a real engine, and what keeps them."""

from __future__ import annotations

import pytest

from stagefleet.attempt import NOT_THERE
from stagefleet.errors import ImageInUseError
from stagefleet.leases import NO_LEASE
from stagefleet.locks.stage_locks import ImageLocks, image_of
from stagefleet.names import EngineProject, StageId
from stagefleet.operations.delete import InUsePolicy
from tests.integration.engine.conftest import LABELS
from tests.services import stage_id_of

ONE = StageId.parse(stage_id_of("one"))
NAME = f"app:{ONE}"
APP = EngineProject("app")


def delete(host, **policy):
    return host.delete_stage(APP, ONE, InUsePolicy(**policy), run_id="d", lease=NO_LEASE)


def test_a_stage_goes_with_its_name(engine, host):
    engine.import_image(NAME, labels=LABELS)
    assert not delete(host).skipped
    assert [] == engine.tags()


def test_a_stage_that_is_gone_is_skipped(host):
    assert NOT_THERE == delete(host)


def test_other_names_of_the_image_stay(engine, host):
    engine.import_image(NAME, labels=LABELS)
    engine.client().api.tag(NAME, "kept", "one")
    delete(host)
    assert ["kept:one"] == engine.tags()


def test_a_used_stage_is_an_error_that_names_container_and_option(engine, host):
    engine.import_image(NAME, labels=LABELS)
    container = engine.run_container(NAME, "job-17")
    with pytest.raises(ImageInUseError, match="--remove-containers") as caught:
        delete(host)
    assert f"container job-17 ({container[:12]})" in str(caught.value)
    assert [NAME] == engine.tags()


def test_a_used_stage_can_be_skipped(engine, host):
    engine.import_image(NAME, labels=LABELS)
    engine.run_container(NAME, "job")
    assert delete(host, skip_used=True).skipped
    assert [NAME] == engine.tags()


def test_stopped_containers_go_with_the_stage(engine, host):
    engine.import_image(NAME, labels=LABELS)
    engine.client().containers.get(engine.run_container(NAME, "job")).kill()
    delete(host, remove_containers=True)
    assert ([], []) == (engine.tags(), engine.client().api.containers(all=True))


def test_running_containers_go_only_by_force(engine, host):
    engine.import_image(NAME, labels=LABELS)
    engine.run_container(NAME, "job")
    with pytest.raises(ImageInUseError, match="--force"):
        delete(host, remove_containers=True)
    assert [NAME] == engine.tags()
    delete(host, remove_containers=True, force=True)
    assert ([], []) == (engine.tags(), engine.client().api.containers(all=True))


def test_a_stage_that_a_job_holds_stays(engine, host, locks):
    engine.import_image(NAME, labels=LABELS)
    with ImageLocks(locks, "here").lock_shared(image_of(APP, ONE)):
        with pytest.raises(ImageInUseError, match="--skip-used"):
            delete(host, remove_containers=True, force=True)
        assert delete(host, skip_used=True).skipped
        assert [NAME] == engine.tags()
    delete(host)
    assert [] == engine.tags()


def test_a_hold_on_another_host_does_not_matter(engine, host, locks):
    engine.import_image(NAME, labels=LABELS)
    with ImageLocks(locks, "there").lock_shared(image_of(APP, ONE)):
        delete(host)
    assert [] == engine.tags()
