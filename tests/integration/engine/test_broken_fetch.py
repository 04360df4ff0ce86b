"""Fetches of stages that a registry cannot give, or seems not to: what is rejected, and what is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stagefleet.errors import (
    BrokenStageError,
    ForbiddenError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StorageStateChangedError,
    TruncatedError,
)
from stagefleet.images import PlatformSelection
from stagefleet.leases import NO_LEASE
from stagefleet.names import EngineProject, Repository, StageId
from stagefleet.project_addresses import Project
from stagefleet.storages import verification
from tests.integration.engine.conftest import LABELS
from tests.services import ImageMaker, archive_of, stage_id_of
from tests.services.front import Answer, RegistryFront

PATH = "stages/app"
INDEX = StageId.parse(stage_id_of("many platforms", None))
AMD64 = {"os": "linux", "architecture": "amd64"}
ARM64 = {"os": "linux", "architecture": "arm64"}
ATTESTATION = {"os": "unknown", "architecture": "unknown"}


@pytest.fixture
def between_looks(monkeypatch):
    """What happens between the first look and the second; no test waits for it."""
    changes: list[Callable[[], object]] = []
    monkeypatch.setattr(verification, "pause", lambda *_: [change() for change in changes])
    return changes


@pytest.fixture
def file_of(registry):
    """Where the registry keeps a blob."""

    def file_of(digest):
        name = digest.partition(":")[2]
        return registry.root / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    return file_of


@pytest.fixture
def push_index(registry):
    """Pushes a multi-platform stage; returns its members by architecture, and the `index`."""

    def push(*platforms):
        with ImageMaker(registry) as maker:
            members = [
                maker.push_image(
                    PATH,
                    None,
                    layers=[archive_of({"own": repr(platform).encode() * 100})],
                    labels=LABELS,
                    platform=platform,
                )
                for platform in platforms
            ]
            index = maker.push_index(PATH, str(INDEX), members)
        names = (platform["architecture"] for platform in platforms)
        return {**dict(zip(names, members, strict=True)), "index": index}

    return push


@pytest.fixture
def delete_manifest(registry):
    """Deletes a manifest by digest, as a clean-up by platform does."""

    def delete(pushed):
        with registry.session() as session:
            url = f"{registry.url}/v2/{PATH}/manifests/{pushed.digest}"
            session.delete(url, timeout=10).raise_for_status()

    return delete


@pytest.fixture
def tags(registry):
    def tags():
        with ImageMaker(registry) as maker:
            return maker.tags(PATH)

    return tags


def fetch(host, primary, stage_id, *platforms):
    choice = PlatformSelection.parse(platforms)
    return host.fetch_stage(Project("app", primary), stage_id, choice, run_id="run", lease=NO_LEASE)


def damage(file, how):
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes({"altered": content[:-1] + b"?", "cut": content[:10], "empty": b""}[how])


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("layer", "missing"),
        ("layer", "altered"),
        ("layer", "cut"),
        ("configuration", "missing"),
        ("configuration", "altered"),
        ("configuration", "empty"),
    ],
)
def test_a_stage_that_is_broken_at_two_looks_is_rejected(
    host, repository, push, between_looks, file_of, tags, part, how
):
    """R5: so that nobody picks it again."""
    stage_id, pushed = push("one")
    looks = []
    between_looks.append(lambda: looks.append(how))
    damage(file_of(pushed.layers[1] if part == "layer" else pushed.document["config"]["digest"]), how)
    with pytest.raises(StorageStateChangedError):
        fetch(host, repository, stage_id)
    assert sorted([str(stage_id), stage_id.rejected_tag]) == tags()
    assert [how] == looks


def test_a_stage_that_is_whole_at_the_second_look_is_not_rejected(
    host, repository, push, between_looks, file_of, tags
):
    """R5: a storage backend that was away for a moment."""
    stage_id, pushed = push("one")
    file = file_of(pushed.layers[1])
    content = file.read_bytes()
    damage(file, "missing")
    between_looks.append(lambda: file.write_bytes(content))
    with pytest.raises(TruncatedError, match="try again") as caught:
        fetch(host, repository, stage_id)
    assert caught.value.retryable
    assert [str(stage_id)] == tags()
    fetch(host, repository, stage_id)


def test_a_registry_that_goes_between_the_looks_is_no_reason(
    host, registry, repository, push, between_looks, file_of, tags
):
    """R5: it restarts; the item fails, and is tried again."""
    stage_id, pushed = push("one")
    damage(file_of(pushed.layers[1]), "missing")
    between_looks.append(registry.stop)
    with pytest.raises(RegistryUnreachableError):
        fetch(host, repository, stage_id)
    registry.start()
    assert [str(stage_id)] == tags()


@pytest.mark.parametrize("status", [500, 503])
def test_a_registry_that_fails_at_the_second_look_is_no_reason(
    host, registry, push, between_looks, file_of, tags, status
):
    """R5: whatever the first look had shown."""
    stage_id, pushed = push("one")
    damage(file_of(pushed.layers[1]), "missing")
    with RegistryFront(registry.host) as front:

        def break_down():
            front.rule = lambda _, path: Answer(status) if pushed.layers[1] in path else None

        between_looks.append(break_down)
        with pytest.raises(RegistryUnavailableError):
            fetch(host, Repository(front.host, PATH), stage_id)
    assert [str(stage_id)] == tags()


def test_a_rejection_that_may_not_be_written_is_an_error(
    host, repository, push, between_looks, file_of, tags, monkeypatch
):
    stage_id, pushed = push("one")
    damage(file_of(pushed.layers[1]), "missing")

    def forbidden(*arguments, **options):
        raise ForbiddenError("pushing is not allowed", status=403)

    monkeypatch.setattr("stagefleet.records.image.put_record", forbidden)
    with pytest.raises(ForbiddenError):
        fetch(host, repository, stage_id)


class TestOfAnIndex:
    """A multi-platform stage is never rejected."""

    @pytest.mark.parametrize("lacking", [ARM64, ATTESTATION], ids=["platform", "attestation"])
    def test_that_lacks_what_nobody_asked_for_the_rest_is_brought(
        self, engine, host, repository, push_index, delete_manifest, between_looks, tags, lacking
    ):
        """W3: the engine's own platform comes, and nothing is rejected."""
        members = push_index(AMD64, lacking)
        delete_manifest(members[lacking["architecture"]])
        item_result = fetch(host, repository, INDEX)
        assert [f"{repository}:{INDEX}"] == engine.tags()
        assert engine.id_of(members["amd64"], members["index"]) == engine.image_id(f"{repository}:{INDEX}")
        assert f"{repository}:{INDEX}" == item_result.result["name"]
        fetch(host, repository, INDEX, "linux/amd64")
        assert [str(INDEX)] == tags()

    def test_that_lacks_what_the_engine_does_not_take_it_is_copied_into_the_engine(
        self, engine, host, repository, push_index, delete_manifest
    ):
        """W3: a copy into an engine asks for one platform, too."""
        members = push_index(AMD64, ARM64)
        delete_manifest(members["arm64"])
        host.copy_stage(repository, EngineProject("app"), INDEX, run_id="r", verify=False, lease=NO_LEASE)
        assert engine.id_of(members["amd64"], members["index"]) == engine.image_id(f"app:{INDEX}")

    @pytest.mark.parametrize("platforms", [(), ("linux/amd64",)], ids=["own", "named"])
    @pytest.mark.parametrize("part", ["member", "configuration", "layer"])
    def test_that_lacks_what_was_asked_for_the_fetch_fails_and_says_what_to_do(
        self, host, repository, push_index, delete_manifest, between_looks, file_of, tags, part, platforms
    ):
        """I2, W3: the member is named, and how the stage is had built again."""
        amd64 = push_index(AMD64, ARM64)["amd64"]
        if part == "member":
            delete_manifest(amd64)
        else:
            damage(
                file_of(amd64.layers[0] if part == "layer" else amd64.document["config"]["digest"]), "missing"
            )
        with pytest.raises(BrokenStageError, match=amd64.digest) as caught:
            fetch(host, repository, INDEX, *platforms)
        assert f"stagefleet delete {repository} {INDEX}" in str(caught.value)
        assert not caught.value.retryable
        assert [str(INDEX)] == tags()

    def test_that_is_whole_at_the_second_look_the_fetch_is_tried_again(
        self, host, repository, push_index, between_looks, file_of, tags
    ):
        """R5: it is not said to lack what it has."""
        file = file_of(push_index(AMD64, ARM64)["amd64"].layers[0])
        content = file.read_bytes()
        damage(file, "missing")
        between_looks.append(lambda: file.write_bytes(content))
        with pytest.raises(TruncatedError):
            fetch(host, repository, INDEX)
        assert [str(INDEX)] == tags()
