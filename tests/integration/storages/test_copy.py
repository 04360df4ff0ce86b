"""Copies between real registries."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from stagefleet.errors import BrokenStageError, StageNotFoundError, TruncatedError
from stagefleet.names import Reference, Repository, StageId
from stagefleet.redis_client import connect_redis
from stagefleet.shared_state.implementations import RedisSharedState
from tests.services.images import push_image, push_index
from tests.stage_tasks import StageTasks

BASES = [bytes([number]) * 20_000 for number in range(3)]
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def stage(number):
    return StageId(f"{number:056x}", 1700000000000 + number)


def push_stage(host, number, *, path="team/app"):
    own = f"own {number} ".encode() * 1000
    return push_image(host, path, str(stage(number)), layers=[*BASES, own], labels={"n": str(number)})


@pytest.fixture
def source(make_registry):
    return make_registry()


@pytest.fixture
def destination(make_registry):
    return make_registry()


def repositories(*servers, path="team/app"):
    return [Repository(server.host, path) for server in servers]


def stored(repository, name):
    answer = requests.get(
        f"http://{repository.host}/v2/{repository.path}/manifests/{name}",
        headers={"Accept": MANIFEST},
        timeout=10,
    )
    answer.raise_for_status()
    return answer.content


def test_a_stage_takes_eight_requests_and_the_shared_layers_theirs_once(stage_tasks, source, destination):
    """Eight of its own; three for each shared layer and one list of tags, to its end, for all together."""
    stages = 40
    for number in range(stages):
        push_stage(source.host, number)
    here, there = repositories(source, destination)
    before = len(source.requests()), len(destination.requests())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: stage_tasks.copy_stage(here, there, stage(n), run_id="r"), range(stages)))
    requests_made = len(source.requests()) - before[0] + len(destination.requests()) - before[1]
    assert stages == len(list(stage_tasks.stage_ids(there)))
    assert 8 * stages + 3 * len(BASES) + 2 == requests_made
    assert all(stored(here, str(stage(n))) == stored(there, str(stage(n))) for n in range(stages))


def test_copying_again_sends_nothing_and_verifying_pulls_nothing(stage_tasks, source, destination):
    push_stage(source.host, 1)
    here, there = repositories(source, destination)
    assert stage_tasks.copy_stage(here, there, stage(1), run_id="r").bytes > 60_000
    assert 0 == stage_tasks.copy_stage(here, there, stage(1), run_id="s").bytes
    before = len(source.requests())
    assert stage_tasks.copy_stage(here, there, stage(1), run_id="t", verify=True).skipped
    assert ["HEAD"] == [method for method, path, _ in source.requests()[before:] if "manifests" in path]


def test_a_copy_within_one_registry_mounts(stage_tasks, source):
    push_stage(source.host, 1)
    here, there = Repository(source.host, "team/app"), Repository(source.host, "elsewhere")
    before = len(source.requests())
    assert 0 == stage_tasks.copy_stage(here, there, stage(1), run_id="r").bytes
    assert {201} == {status for method, _, status in source.requests()[before:] if method == "POST"}
    assert stored(here, str(stage(1))) == stored(there, str(stage(1)))


def test_an_index_arrives_whole(stage_tasks, source, destination):
    members = [push_image(source.host, "team/app", None, layers=[BASES[0], own]) for own in (b"arm", b"amd")]
    stage_id = StageId(stage(1).digest)
    index = push_index(source.host, "team/app", str(stage_id), members)
    here, there = repositories(source, destination)
    item_result = stage_tasks.copy_stage(here, there, stage_id, run_id="r")
    description = stage_tasks.describe_stage(there, stage_id)
    assert index.digest == description.info.image_id
    assert [member.digest for member in members] == [
        m.repo_digest.partition("@")[2] for m in description.info.members
    ]
    assert description.as_json() == item_result.result


def test_a_description_says_what_the_image_says(stage_tasks, source):
    pushed = push_image(
        source.host, "team/app", str(stage(1)), layers=[b"12345"], labels={"a": "b"}, env=["PATH=/bin"]
    )
    described = stage_tasks.describe_stage(Repository(source.host, "team/app"), stage(1))
    assert {"a": "b"} == described.info.labels
    assert ("PATH=/bin",) == described.info.env
    assert 5 == described.info.size
    assert f"{source.host}/team/app@{pushed.digest}" == described.info.repo_digest


def test_what_is_listed_are_stages_and_nothing_else(stage_tasks, source):
    repository = Repository(source.host, "team/app")
    assert [] == list(stage_tasks.stage_ids(repository))
    for tag in (
        str(stage(1)),
        str(stage(2)),
        stage(2).rejected_tag,
        stage(3).digest,
        "latest",
        "managed-image-x",
    ):
        push_image(source.host, "team/app", tag)
    assert [stage(1), StageId(stage(3).digest)] == sorted(stage_tasks.stage_ids(repository))


def test_what_is_not_there_is_not_found(stage_tasks, source, destination):
    here, there = repositories(source, destination)
    with pytest.raises(StageNotFoundError):
        stage_tasks.describe_stage(here, stage(1))
    with pytest.raises(StageNotFoundError):
        stage_tasks.copy_stage(here, there, stage(1), run_id="r")


def collect(registry, digest):
    """Take a blob out of the registry's storage, as a collection of garbage does."""
    shutil.rmtree(registry.root / "docker/registry/v2/blobs/sha256" / digest.hex[:2] / digest.hex)


def test_a_stage_whose_layer_was_collected_is_broken(stage_tasks, client, source, destination):
    layer = b"precious" * 1000
    push_image(source.host, "team/app", str(stage(1)), layers=[layer])
    here, there = repositories(source, destination)
    manifest = client.fetch_manifest(here.tagged(str(stage(1))))
    collect(source, manifest.layers[0].digest)
    with pytest.raises(BrokenStageError, match=str(manifest.layers[0].digest)[:15]):
        stage_tasks.copy_stage(here, there, stage(1), run_id="r")
    assert [] == list(stage_tasks.stage_ids(there))


def test_a_stage_whose_configuration_was_collected_is_broken(stage_tasks, client, source):
    push_image(source.host, "team/app", str(stage(1)))
    repository = Repository(source.host, "team/app")
    manifest = client.fetch_manifest(repository.tagged(str(stage(1))))
    collect(source, manifest.config.digest)
    with pytest.raises(BrokenStageError, match="build it again"):
        stage_tasks.describe_stage(repository, stage(1))


def test_a_layer_that_the_source_has_in_name_only_leaves_nothing_in_the_destination(
    stage_tasks, client, make_registry, destination
):
    source = make_registry(cache=True)
    push_image(source.host, "team/app", str(stage(1)), layers=[b"precious" * 1000])
    here, there = repositories(source, destination)
    layer = client.fetch_manifest(here.tagged(str(stage(1)))).layers[0]
    collect(source, layer.digest)
    with pytest.raises(TruncatedError):
        stage_tasks.copy_stage(here, there, stage(1), run_id="r")
    assert [] == list(stage_tasks.stage_ids(there))


def test_a_fleet_asks_redis_twice_a_stage_and_sends_shared_layers_once(
    client, source, destination, redis_server, monkeypatch
):
    monkeypatch.setattr(
        "stagefleet.storages.blob_transfer._TELL_SECONDS", 3600
    )  # however slow the machine is
    for number in range(20):
        push_stage(source.host, number)
    here, there = repositories(source, destination)
    clients = [connect_redis(redis_server.url) for _ in range(2)]
    shared_states = [RedisSharedState(connected, prefix="t:") for connected in clients]
    processes = [StageTasks(client, shared_state) for shared_state in shared_states]
    processes[0].copy_stage(here, there, stage(0), run_id="r")
    before = redis_server.client().info("commandstats")["cmdstat_evalsha"]["calls"]
    uploaded = len(destination.requests())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: processes[n % 2].copy_stage(here, there, stage(n), run_id="r"), range(1, 20)))
    to_delete = redis_server.client().info("commandstats")["cmdstat_evalsha"]["calls"] - before
    # The other process looks at the rejected stages, and at how the destination takes blobs.
    assert 2 * 19 + 2 == to_delete, "two for each, and two looks by the other process"
    assert 5 * 19 == len(destination.requests()) - uploaded
    for connected in clients:
        connected.close()


def test_a_blob_that_vanished_in_the_middle_of_a_run_is_sent_again(stage_tasks, client, source, destination):
    for number in (1, 2):
        push_stage(source.host, number)
    here, there = repositories(source, destination)
    stage_tasks.copy_stage(here, there, stage(1), run_id="r")
    shared = client.fetch_manifest(here.tagged(str(stage(1)))).layers[0]
    url = f"http://{there.host}/v2/{there.path}/blobs/{shared.digest}"
    requests.delete(url, timeout=10).raise_for_status()
    destination.forget_requests()
    stage_tasks.copy_stage(here, there, stage(2), run_id="r")
    answers = [status for method, path, status in destination.requests() if "/manifests/" in path]
    assert [400, 201] == answers, "the registry missed nothing, so nothing was healed"
    assert stored(here, str(stage(2))) == stored(there, str(stage(2)))
    assert shared.size == len(requests.get(url, timeout=10).content)


def test_a_stage_is_copied_anew_after_the_destinations_garbage_was_collected(
    stage_tasks, client, source, destination
):
    push_stage(source.host, 1)
    here, there = repositories(source, destination)
    stage_tasks.copy_stage(here, there, stage(1), run_id="r")
    digest = client.head_manifest(there.tagged(str(stage(1)))).digest
    client.delete_manifest(Reference.of(there, digest))
    destination.collect_garbage()
    assert stage_tasks.copy_stage(here, there, stage(1), run_id="s", verify=True).bytes > 60_000
    assert stored(here, str(stage(1))) == stored(there, str(stage(1)))


def test_a_layer_of_an_ordinary_type_is_copied_whatever_urls_it_carries(stage_tasks, source, destination):
    """W5: "done" means that the layer is there; the media type says what a registry may not have."""
    here, there = repositories(source, destination)
    push_stage(source.host, 1)
    document = json.loads(stored(here, str(stage(1))))
    layer = document["layers"][-1]
    layer["urls"] = ["http://127.0.0.1:1/x"]
    url = f"http://{here.host}/v2/{here.path}/manifests/{stage(2)}"
    headers = {"Content-Type": MANIFEST}
    requests.put(url, data=json.dumps(document), headers=headers, timeout=10).raise_for_status()

    stage_tasks.copy_stage(here, there, stage(2), run_id="r")

    blob = requests.get(f"http://{there.host}/v2/{there.path}/blobs/{layer['digest']}", timeout=10)
    assert (200, layer["size"]) == (blob.status_code, len(blob.content))
    assert stored(here, str(stage(2))) == stored(there, str(stage(2)))
