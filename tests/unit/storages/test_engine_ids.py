"""Ids of images in engines: of the configuration, or of the manifest, as containerd keeps images."""

from __future__ import annotations

from typing import Any

import pytest

from stagefleet.errors import RegistryUnavailableError, UsageError
from stagefleet.images import Platform
from stagefleet.locks import MemoryLocks
from stagefleet.names import EngineProject, Reference, StageId
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.storages.docker_engine import EngineHost
from tests.stage_tasks import StageTasks


class FakeEngine:
    """An engine that pulls from and pushes to registries in memory.

    Attributes:
        transfers: What it pulled and pushed.
    """

    platform = Platform.parse("linux/amd64")

    def __init__(self, registries, *, id_of):
        self.registries = registries
        self.id_of = id_of
        self.images = {}
        self.transfers = []

    def find(self, name):
        manifest = self.images.get(name)
        return manifest and {"Id": self.id_of(manifest), "Config": {"Labels": {PROJECT_LABEL: "app"}}}

    def image_ids(self, name):
        return {self.find(name)["Id"]}

    def pull(self, reference, *, lease):
        del lease
        self.transfers.append("pull")
        self.images[str(reference)] = self.registries.fetch_manifest(reference)
        return 1

    def push(self, reference, *, lease):
        del lease
        self.transfers.append("push")
        self.registries.put_manifest(reference, self.images[str(reference)])
        return 1

    def tag(self, name, repository, tag):
        self.images[f"{repository}:{tag}"] = self.images[name]

    def remove(self, name):
        self.images.pop(name, None)


CLASSIC, CONTAINERD = (
    lambda manifest: str(manifest.config.digest),
    lambda manifest: str(manifest.digest),
)


@pytest.fixture(params=[CLASSIC, CONTAINERD], ids=["classic", "containerd"])
def engine(request, fakes):
    engine: Any = FakeEngine(fakes.registries, id_of=request.param)
    fakes.stage_tasks = StageTasks(
        fakes.registries, fakes.shared_state, host=EngineHost(engine, "here", MemoryLocks())
    )
    return engine


@pytest.fixture
def stage_id(fakes):
    stage_id = fakes.stage(1)
    fakes.registries.push(fakes.source, str(stage_id), labels={PROJECT_LABEL: "app"})
    return stage_id


def test_a_stage_that_an_engine_has_is_not_pulled_again(fakes, engine, stage_id):
    """W40."""
    ends = [
        fakes.stage_tasks.copy_stage(fakes.source, EngineProject("app"), stage_id, run_id=run, verify=True)
        for run in "ab"
    ]
    assert [False, True] == [end.skipped for end in ends]
    assert ["pull"] == engine.transfers


def test_a_stage_that_a_registry_has_is_not_pushed_again(fakes, engine, stage_id):
    """W40."""
    engine.images[f"app:{stage_id}"] = fakes.registries.fetch_manifest(
        Reference.of(fakes.source, str(stage_id))
    )
    assert fakes.stage_tasks.copy_stage(
        EngineProject("app"), fakes.source, stage_id, run_id="a", verify=True
    ).skipped
    assert [] == engine.transfers


@pytest.fixture
def many(fakes, engine):
    """A multi-platform stage of the engine, whose image no index has."""
    many = StageId.parse("0" * 56)
    fakes.registries.push(fakes.destination, "one", labels={PROJECT_LABEL: "app"})
    engine.images[f"app:{many}"] = fakes.manifest(fakes.destination, "one")
    return many


def push_platforms(fakes, tag, *architectures):
    """Push an index with an image for each architecture."""
    members = [
        fakes.registries.push(fakes.destination, None, layers=[each.encode()]) for each in architectures
    ]
    platforms = [{"os": "linux", "architecture": name} for name in architectures]
    return fakes.registries.push_index(fakes.destination, str(tag), members, platforms=platforms)


@pytest.mark.parametrize("verify", [True, False])
def test_an_index_with_other_platforms_is_not_replaced_by_one_image(fakes, engine, many, verify):
    index = push_platforms(fakes, many, "amd64", "arm64", "s390x")
    with pytest.raises(UsageError, match="an index for linux/arm64, linux/s390x, too,"):
        fakes.stage_tasks.copy_stage(EngineProject("app"), fakes.destination, many, run_id="a", verify=verify)
    assert [] == engine.transfers
    assert index == fakes.manifest(fakes.destination, str(many)).digest


def test_an_index_for_the_images_own_platform_alone_is_replaced(fakes, engine, many):
    push_platforms(fakes, many, "amd64")
    fakes.stage_tasks.copy_stage(EngineProject("app"), fakes.destination, many, run_id="a", verify=True)
    assert ["push"] == engine.transfers


def test_nothing_is_pushed_over_what_a_failing_registry_may_have(fakes, engine, many, monkeypatch):
    def fail(*_args, **_options):
        raise RegistryUnavailableError("502", status=502)

    monkeypatch.setattr(fakes.registries, "fetch_manifest", fail)
    with pytest.raises(RegistryUnavailableError):
        fakes.stage_tasks.copy_stage(EngineProject("app"), fakes.destination, many, run_id="a", verify=True)
    assert [] == engine.transfers
