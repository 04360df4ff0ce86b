"""Pulls and pushes of a real engine, and what becomes of their errors."""

from __future__ import annotations

import shutil

import pytest

from stagefleet.errors import (
    BrokenStageError,
    CredentialsError,
    EngineError,
    EngineUnreachableError,
    ItemCancelledError,
    NotFoundError,
    RegistryUnreachableError,
)
from stagefleet.names import Repository
from tests.services import ImageMaker, archive_of
from tests.services.images import digest_of


def test_a_pull_brings_the_image_and_counts_its_bytes(engine, connection, repository, push):
    stage_id, pushed = push("one")
    moved = connection.pull(repository.tagged(str(stage_id)))
    assert engine.id_of(pushed) == engine.image_id(f"{repository}:{stage_id}")
    # The engine tells how far a layer is only now and then: of a small one perhaps nothing.
    assert engine.tells_progress(moved)
    assert moved <= sum(layer["size"] for layer in pushed.document["layers"])
    assert 0 == connection.pull(repository.tagged(str(stage_id)))


def test_a_push_keeps_the_image_s_id_and_counts_its_bytes(engine, connection, registry):
    image_id = engine.import_image(f"{registry.host}/app:one")
    reference = Repository.parse(f"{registry.host}/app").tagged("one")
    assert engine.tells_progress(connection.push(reference), least=1_000_000)
    assert 0 == connection.push(reference)
    with ImageMaker(registry) as maker:
        manifest = maker.manifest("app", "one") or b""
        assert image_id == digest_of(manifest) if engine.keeps_manifests else image_id.encode() in manifest


def test_an_image_that_the_registry_lacks_is_not_found(connection, repository):
    with pytest.raises(NotFoundError, match=r"manifest unknown|not found"):
        connection.pull(repository.tagged("one"))


def test_a_blob_that_the_registry_lacks_breaks_the_stage(
    engine, connection, registry, repository, push, lose_blob
):
    stage_id, pushed = push("one")
    lose_blob(registry, pushed.layers[1])
    with pytest.raises(BrokenStageError, match=r"unknown blob|not found"):
        connection.pull(repository.tagged(str(stage_id)))
    assert [] == engine.tags()


def test_a_blob_of_other_content_breaks_the_stage(connection, registry, repository, push):
    stage_id, pushed = push("one")
    name = pushed.layers[1].partition(":")[2]
    file = registry.root / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(BrokenStageError, match=r"verification failed|unexpected commit digest"):
        connection.pull(repository.tagged(str(stage_id)))


def test_a_layer_that_is_no_archive_is_the_engine_s_own_error(connection, repository, push):
    stage_id, _ = push("one", layers=[b"no archive"])
    with pytest.raises(EngineError, match=r"failed to (register|extract) layer"):
        connection.pull(repository.tagged(str(stage_id)))


def test_logins_come_from_the_docker_configuration_file(engine, connect, make_registry, docker_config, push):
    private = make_registry(htpasswd={"user": "secret"})
    stage_id, _ = push("one", into=private)
    reference = Repository.parse(f"{private.host}/stages/app").tagged(str(stage_id))
    stranger = connect(engine)
    for _ in range(2):  # the engine asks with a login, and without
        with pytest.raises(CredentialsError, match="login") as caught:
            stranger.pull(reference)
        assert "secret" not in str(caught.value)
        stranger = connect(engine, docker_config(**{private.host: ("user", "wrong secret")}))
    known = connect(engine, docker_config(**{private.host: ("user", "secret")}))
    known.pull(reference)
    assert [str(reference)] == engine.tags()
    known.push(reference)


def test_a_push_without_login_says_so(engine, connect, make_registry):
    private = make_registry(htpasswd={"user": "secret"})
    engine.import_image(f"{private.host}/app:one")
    with pytest.raises(CredentialsError, match="login"):
        connect(engine).push(Repository.parse(f"{private.host}/app").tagged("one"))


def test_a_registry_that_is_down_can_be_tried_again(engine, connection, registry, repository):
    engine.import_image(f"{repository}:one")
    registry.stop()
    for transfer in (connection.pull, connection.push):
        with pytest.raises(RegistryUnreachableError, match="connection refused") as caught:
            transfer(repository.tagged("one"))
        assert caught.value.retryable


def test_a_push_of_what_is_not_there_fails(connection, repository):
    with pytest.raises(EngineError, match="does not exist"):
        connection.push(repository.tagged("one"))


class _Slow:
    """A lease that is asked at each event of a pull, and does something at the first."""

    def __init__(self, action):
        self.action = action

    def check(self):
        action, self.action = self.action, lambda: None
        action()

    def require(self, seconds):
        self.check()


def test_an_engine_that_dies_in_the_middle_of_a_pull_fails_it(make_engine, connect, repository, push):
    server = make_engine()
    connection = connect(server)
    stage_id, _ = push("large", layers=[archive_of({"large": bytes(range(256)) * 200_000})])
    with pytest.raises(EngineUnreachableError) as caught:
        connection.pull(repository.tagged(str(stage_id)), lease=_Slow(server.kill))
    assert caught.value.retryable
    server.start()
    assert connection.pull(repository.tagged(str(stage_id))) > 0


def test_a_pull_is_left_as_soon_as_the_lease_says_so(engine, connection, repository, push):
    stage_id, _ = push("large", layers=[archive_of({"large": bytes(range(256)) * 200_000})])

    def cancel():
        raise ItemCancelledError("the run was cancelled")

    with pytest.raises(ItemCancelledError):
        connection.pull(repository.tagged(str(stage_id)), lease=_Slow(cancel))
    assert [] == engine.tags()


def test_a_pull_takes_the_platform_of_the_settings(engine, connect, registry, repository):
    platforms = [{"os": "linux", "architecture": architecture} for architecture in ("amd64", "arm64")]
    with ImageMaker(registry) as maker:
        members = [
            maker.push_image(
                "stages/app",
                None,
                layers=[archive_of({"for": platform["architecture"].encode()})],
                platform=platform,
            )
            for platform in platforms
        ]
        index = maker.push_index("stages/app", "one", members)
    connect(engine, platform="linux/arm64").pull(repository.tagged("one"))
    assert engine.id_of(members[1], index) == engine.image_id(f"{repository}:one")
    shutil.rmtree(registry.root)
