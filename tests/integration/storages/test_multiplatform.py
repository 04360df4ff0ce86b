"""Multi-platform stages in a real registry: published over images, described, copied, deleted whole."""

from __future__ import annotations

import json

import pytest

from stagefleet.attempt import Attempt
from stagefleet.errors import NotFoundError, UsageError
from stagefleet.images import Platform
from stagefleet.names import Reference, Repository, StageId
from stagefleet.records.models import RejectedStage
from stagefleet.storages.index_publication import IndexPublication
from tests.services import ImageMaker
from tests.stage_tasks import make_storages

AMD = {"os": "linux", "architecture": "amd64"}
ARM = {"os": "linux", "architecture": "arm64", "variant": "v8"}
INDEX = StageId("cd" * 28)


def stage(number):
    return StageId(f"{number:056x}", 1_700_000_000_000 + number)


@pytest.fixture
def repository(registry):
    return Repository(registry.host, "multi/app")


@pytest.fixture
def maker(registry):
    with ImageMaker(registry) as maker:
        yield maker


@pytest.fixture
def images(maker, repository):
    """An image for each of two platforms, the second in another repository."""
    amd = maker.push_image("multi/app", str(stage(1)), layers=[b"amd"], platform=AMD)
    arm = maker.push_image("arm/app", "latest", layers=[b"arm"], platform=ARM, oci=True)
    other = Repository(repository.host, "arm/app")
    return {
        Platform("linux", "amd64"): repository.tagged(amd.tag),
        Platform("linux", "arm64", "v8"): other.tagged(arm.tag),
    }


@pytest.fixture
def publish(client, repository):
    def publish(images, stage_id=INDEX):
        return IndexPublication(make_storages(client), repository, Attempt("r")).publish(stage_id, images)

    return publish


def test_an_index_is_published_over_images_of_several_repositories(maker, publish, images):
    item_result = publish(images)
    document = json.loads(maker.manifest("multi/app", str(INDEX)))
    assert [(AMD, maker.digest("multi/app", str(stage(1)))), (ARM, maker.digest("arm/app", "latest"))] == [
        (member["platform"], member["digest"]) for member in document["manifests"]
    ]
    assert len(b"amdarm") == item_result.result["size"]
    assert not item_result.skipped


def test_it_is_described_and_copied_with_its_members(maker, stage_tasks, repository, publish, images):
    publish(images)
    mirror = Repository(repository.host, "mirror/app")
    stage_tasks.copy_stage(repository, mirror, INDEX, run_id="r")
    assert maker.manifest("multi/app", str(INDEX)) == maker.manifest("mirror/app", str(INDEX))
    members = stage_tasks.describe_stage(mirror, INDEX).info.members
    assert [3, 3] == [member.size for member in members]


def test_published_again_it_is_there_already(registry, publish, images):
    publish(images)
    before = len([1 for method, *_ in registry.requests() if method == "PUT"])
    assert publish(images).skipped
    assert before == len([1 for method, *_ in registry.requests() if method == "PUT"])


def test_another_index_of_the_same_name_is_refused(maker, publish, images):
    publish(images)
    before = maker.manifest("multi/app", str(INDEX))
    with pytest.raises(UsageError, match="other images: delete it first"):
        publish(dict(list(images.items())[:1]))
    assert before == maker.manifest("multi/app", str(INDEX))


def test_a_member_of_another_index_can_be_named_by_that(maker, repository, publish, images):
    publish(images)
    index = repository.tagged(str(INDEX))
    copy = StageId("ef" * 28)
    publish(dict.fromkeys(images, index), copy)
    assert maker.digest("multi/app", str(INDEX)) == maker.digest("multi/app", str(copy))
    with pytest.raises(UsageError, match="without an image for linux/s390x"):
        publish({Platform("linux", "s390x"): index}, StageId("0e" * 28))


def test_an_image_for_another_platform_is_refused(maker, repository, publish, images):
    with pytest.raises(UsageError, match="is an image for linux/amd64, not for linux/arm64"):
        publish({Platform("linux", "arm64"): repository.tagged(str(stage(1)))})
    assert [str(stage(1))] == maker.tags("multi/app")


@pytest.mark.parametrize(
    ("stage_id", "count", "message"), [(stage(5), 2, "by DIGEST alone"), (INDEX, 0, "name one at least")]
)
def test_what_can_be_no_index_is_refused(publish, images, stage_id, count, message):
    with pytest.raises(UsageError, match=message):
        publish(dict(list(images.items())[:count]), stage_id)


def test_an_image_that_is_not_there_is_named(repository, publish):
    missing = repository.tagged(str(stage(7)))
    with pytest.raises(NotFoundError, match=str(stage(7))):
        publish({Platform("linux", "amd64"): missing})


def test_a_rejected_stage_is_not_published_again(client, repository, publish, images):
    make_storages(client).open(repository).records.write(RejectedStage(INDEX))
    with pytest.raises(UsageError, match="records remove"):
        publish(images)


def test_it_is_deleted_with_what_only_it_uses(maker, stage_tasks, repository, publish, images):
    publish(images)
    arm = maker.digest("arm/app", "latest")
    kept = maker.digest("multi/app", str(stage(1)))
    stage_tasks.delete_stage(repository, INDEX, run_id="r", to_delete=lambda: [str(INDEX)])
    assert [str(stage(1))] == maker.tags("multi/app")
    assert kept == maker.digest("multi/app", kept)
    assert maker.manifest("multi/app", arm) is None
    assert arm == maker.digest("arm/app", "latest")


def test_a_reference_by_digest_serves_too(maker, repository, publish, images):
    by_digest = {
        platform: Reference.parse(f"{image.repository}@{maker.digest(image.repository.path, image.tag)}")
        for platform, image in images.items()
    }
    first = publish(by_digest)
    assert (first.result, True) == (publish(images).result, publish(images).skipped)
