from __future__ import annotations

import pytest

from stagefleet.errors import UsageError
from stagefleet.images import Platform
from stagefleet.names import Reference, Repository, StageId

REPOSITORY = Repository("src.test", "app")
INDEX = "cd" * 28


@pytest.fixture
def published(registries):
    published = []

    def publish_index(repository, stage_id, images):
        published.append((repository, stage_id, images))
        return {"stage_id": INDEX}

    registries.publish_index = publish_index
    return published


def test_images_are_stages_of_the_repository_or_any_others(fleet, published, make_stage):
    stage = make_stage(1)
    images = {"linux/amd64": stage, "linux/arm64": "dst.test/other:tag", "linux/s390x": StageId.parse(stage)}
    assert {"stage_id": INDEX} == fleet.publish_index("src.test/app", INDEX, images)
    expected = {
        Platform("linux", "amd64"): REPOSITORY.tagged(stage),
        Platform("linux", "arm64"): Reference.parse("dst.test/other:tag"),
        Platform("linux", "s390x"): REPOSITORY.tagged(stage),
    }
    assert [(REPOSITORY, StageId(INDEX), expected)] == published


@pytest.mark.parametrize("images", [{"linux": "x"}, {"linux/amd64": "no-image"}])
def test_what_is_malformed_is_refused(fleet, published, images):
    with pytest.raises(UsageError):
        fleet.publish_index(REPOSITORY, INDEX, images)
    assert [] == published
