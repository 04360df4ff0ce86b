"""Which images of an index are brought, however many it names."""

from __future__ import annotations

import pytest

from stagefleet.errors import PlatformNotFoundError, UnsupportedManifestError
from stagefleet.images import Platform, PlatformSelection
from stagefleet.manifests import Manifest
from stagefleet.names import StageId
from stagefleet.storages.repository import choose_images
from tests.unit.storages.conftest import OCI_INDEX, OCI_MANIFEST, entry

AMD64 = Platform("linux", "amd64")


@pytest.fixture
def choose(fakes):
    """Chooses of an index over so many platforms."""
    stage_id = StageId(fakes.stage(1).digest)

    def choose(count, choice):
        members = [
            entry(
                str(n).encode(),
                OCI_MANIFEST,
                platform={"os": "linux", "architecture": "arm", "variant": f"x{n}"},
            )
            for n in range(count)
        ]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": members}
        stored = fakes.registries.stored(fakes.source)
        index = Manifest.of(document)
        stored.manifests[index.digest], stored.tags[str(stage_id)] = index, index.digest
        return choose_images(fakes.stage_tasks.storages.open(fakes.source), stage_id, choice, AMD64)

    return choose


def test_an_index_for_more_platforms_than_there_are_is_not_brought_as_a_whole(choose):
    """R17: all platforms of it would be ten thousand pulls."""
    everything = PlatformSelection(everything=True)
    assert 100 == len(choose(100, everything))
    with pytest.raises(UnsupportedManifestError, match="name those to fetch"):
        choose(101, everything)
    assert 1 == len(choose(10_000, PlatformSelection((Platform("linux", "arm", "x7"),))))


def test_an_error_names_some_of_the_platforms(choose):
    """R18: its message is of bounded length."""
    with pytest.raises(PlatformNotFoundError, match="and 4980 more") as caught:
        choose(5000, PlatformSelection((AMD64,)))
    assert len(str(caught.value)) < 1000
