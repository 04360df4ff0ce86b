"""Ids of images in engines: of the configuration, or of the manifest, as containerd keeps images."""

from __future__ import annotations

from typing import Any

import pytest

from stagefleet.locks import MemoryLocks
from stagefleet.names import EngineProject, Reference
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.storages.docker_engine import EngineHost
from tests.stage_tasks import StageTasks


class FakeEngine:
    """An engine that pulls from and pushes to registries in memory.

    Attributes:
        transfers: What it pulled and pushed.
    """

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
