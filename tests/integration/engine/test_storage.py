"""A project's stages in a real engine."""

from __future__ import annotations

import gc

import pytest

from stagefleet.engine_address import find_engine
from stagefleet.errors import EngineUnreachableError, StageNotFoundError
from stagefleet.names import StageId
from tests.integration.engine.conftest import LABELS, PROJECT
from tests.services import stage_id_of
from tests.services.docker_command import DockerCommand

ONE, TWO = (StageId.parse(stage_id_of(seed)) for seed in ("one", "two"))


def test_stages_are_the_images_of_the_project_with_its_label(engine, storage):
    engine.import_image(f"app:{ONE}", labels=LABELS)
    engine.import_image(f"app:{TWO}", labels=LABELS, content=b"two")
    engine.client().api.tag(f"app:{ONE}", "other/app", str(ONE))
    engine.client().api.tag(f"app:{ONE}", "app", "latest")
    engine.import_image(f"app:{stage_id_of('three')}", labels={"werf": "other"}, content=b"three")
    engine.import_image(f"application:{stage_id_of('four')}", labels=LABELS, content=b"four")
    assert sorted([ONE, TWO]) == list(storage.stage_ids())


def test_an_engine_without_the_project_has_no_stages(storage):
    assert [] == list(storage.stage_ids())


def test_a_description_has_what_the_engine_knows(engine, storage):
    image_id = engine.import_image(f"app:{ONE}", labels={**LABELS, "werf.io/base-image-id": "sha256:parent"})
    info = storage.describe(ONE).info
    repo_digest = f"app@{image_id}" if engine.keeps_manifests else ""
    assert (f"app:{ONE}", "app", str(ONE), repo_digest, image_id) == (
        info.name,
        info.repository,
        info.tag,
        info.repo_digest,
        info.image_id,
    )
    assert ("sha256:parent", PROJECT) == (info.parent_id, info.labels["werf"])
    assert info.size > 1_000_000
    assert info.created_at is not None


def test_a_stage_that_is_not_there_cannot_be_described(storage):
    with pytest.raises(StageNotFoundError, match="docker-daemon:app has no stage"):
        storage.describe(ONE)


def test_an_image_of_another_project_under_a_stage_s_name_is_no_stage(engine, storage):
    engine.import_image(f"app:{ONE}", labels={"werf": "other"})
    with pytest.raises(StageNotFoundError, match="another project's"):
        storage.describe(ONE)


@pytest.mark.usefixtures("leaked_sockets")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_is_not_there_is_named_with_what_to_do(make_engine, connect):
    server = make_engine()
    connection = connect(server)
    server.kill()
    with pytest.raises(EngineUnreachableError, match="STAGEFLEET_ENGINE__URL") as caught:
        connection.find("app:one")
    assert server.url in str(caught.value)
    gc.collect()  # docker-py leaves the socket to a killed engine open: it ends here, not in another test


def test_a_silent_engine_is_not_waited_for_without_end(make_engine, connect, repository):
    server = make_engine()
    connection = connect(server, timeout_seconds=1)
    assert connection.ping()
    server.pause()
    try:
        with pytest.raises(EngineUnreachableError):
            connection.find("app:one")
        with pytest.raises(EngineUnreachableError):
            connection.pull(repository.tagged("one"))
    finally:
        server.resume()


def test_an_engine_that_comes_back_is_spoken_to_again(make_engine, connect):
    server = make_engine()
    connection = connect(server)
    image_id = server.import_image("app:one")
    assert connection.find("app:one")
    server.kill()
    server.start()
    assert image_id == connection.find("app:one")["Id"]


def test_an_engine_is_found_by_the_context_that_docker_s_command_made(engine, connect, monkeypatch, tmp_path):
    docker = DockerCommand(engine, tmp_path)
    assert 0 == docker("context", "create", "build", "--docker", f"host={engine.url}").returncode
    for name, value in {"DOCKER_HOST": "", "DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": "build"}.items():
        monkeypatch.setenv(name, value)
    found = find_engine()
    assert found is not None
    assert (engine.url, "context build") == (found.url, found.source)
    described = connect(found).describe()
    assert "with API 1." in described
    assert described.endswith("image store")
