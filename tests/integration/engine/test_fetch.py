"""Fetching stages to a real engine, from real registries."""

from __future__ import annotations

import logging
import threading
from urllib.parse import urlsplit

import pytest

from stagefleet.errors import (
    EngineUnreachableError,
    StorageStateChangedError,
)
from stagefleet.images import PlatformSelection
from stagefleet.leases import NO_LEASE
from stagefleet.names import EngineProject, Repository
from stagefleet.project_addresses import Project
from stagefleet.registry.http.transport import Transport
from tests.integration.engine.conftest import LABELS, RETRIES
from tests.services import ImageMaker


class Notes:
    """Remembers what was noted as used."""

    def __init__(self):
        self.images = []

    def note(self, host, image):
        self.images.append((host, image))

    def forget(self, host, image):
        self.images = [noted for noted in self.images if noted != (host, image)]

    def used_images(self, host):
        raise NotImplementedError


@pytest.fixture
def last_used():
    return Notes()


@pytest.fixture
def caches(make_registry):
    servers = [make_registry(), make_registry()]
    return servers, tuple(Repository(server.host, f"cache/{n}") for n, server in enumerate(servers))


def fetch(host, primary, stage_id, *caches):
    project = Project("app", primary, caches=caches)
    return host.fetch_stage(project, stage_id, PlatformSelection(), run_id="run", lease=NO_LEASE)


def tags_of(server, path):
    with ImageMaker(server) as maker:
        return maker.tags(path)


def test_a_stage_comes_from_the_primary_under_its_name(engine, host, repository, push, last_used):
    stage_id, pushed = push("one")
    item_result = fetch(host, repository, stage_id)
    assert [f"{repository}:{stage_id}"] == engine.tags()
    assert f"{repository}@{pushed.digest}" == item_result.result["repo_digest"]
    assert engine.tells_progress(item_result.bytes)
    assert item_result.bytes <= sum(layer["size"] for layer in pushed.document["layers"])
    assert [("here", f"{repository}:{stage_id}")] == last_used.images


def test_a_stage_that_is_there_is_skipped_without_a_request(
    engine, registry, host, repository, push, last_used
):
    stage_id, pushed = push("one")
    fetch(host, repository, stage_id)
    registry.forget_requests()
    item_result = fetch(host, repository, stage_id)
    assert item_result.skipped
    assert engine.id_of(pushed) == item_result.result["image_id"]
    assert [] == registry.requests()
    assert 2 == len(last_used.images)


def test_the_first_cache_that_has_it_serves_and_those_before_are_refilled(
    engine, registry, host, repository, push, caches
):
    servers, addresses = caches
    stage_id, pushed = push("one")
    push("one", into=servers[1], path="cache/1")
    servers[1].forget_requests()
    item_result = fetch(host, repository, stage_id, *addresses)
    assert [f"{repository}:{stage_id}"] == engine.tags()
    assert f"{repository}@{pushed.digest}" == item_result.result["repo_digest"]
    assert [str(stage_id)] == tags_of(servers[0], "cache/0")
    pulled = {request.path for request in servers[1].requests() if request.method == "GET"}
    assert {f"/v2/cache/1/blobs/{layer}" for layer in pushed.layers} <= pulled


def test_the_primary_is_asked_for_nothing_when_the_first_cache_serves(
    registry, host, repository, push, caches
):
    servers, addresses = caches
    stage_id, _ = push("one")
    push("one", into=servers[0], path="cache/0")
    registry.forget_requests()
    fetch(host, repository, stage_id, *addresses)
    assert [] == registry.requests()


def test_caches_that_lack_it_get_it_from_the_primary(host, repository, push, caches):
    servers, addresses = caches
    stage_id, pushed = push("one")
    fetch(host, repository, stage_id, *addresses)
    for number, server in enumerate(servers):
        with ImageMaker(server) as maker:
            assert pushed.digest == maker.digest(f"cache/{number}", str(stage_id))


def test_a_cache_that_is_down_is_a_warning(engine, host, repository, push, caches, caplog):
    servers, addresses = caches
    stage_id, _ = push("one")
    servers[0].stop()
    with caplog.at_level(logging.WARNING):
        item_result = fetch(host, repository, stage_id, *addresses)
    assert [str(addresses[0])] == list(item_result.result["caches"])
    assert [f"{repository}:{stage_id}"] == engine.tags()
    assert [str(stage_id)] == tags_of(servers[1], "cache/1")
    assert 1 == sum(str(addresses[0]) in record.getMessage() for record in caplog.records)


def test_a_cache_that_is_down_is_asked_once_for_all_stages(
    host, repository, push, caches, caplog, monkeypatch
):
    servers, addresses = caches
    stages = [push(seed)[0] for seed in ("one", "two", "three")]
    servers[0].stop()
    sent, send = [], Transport.send

    def count(self, method, url, *arguments, **options):
        sent.append(urlsplit(url).netloc)
        return send(self, method, url, *arguments, **options)

    monkeypatch.setattr(Transport, "send", count)
    with caplog.at_level(logging.DEBUG, "stagefleet"):
        for stage_id in stages:
            fetch(host, repository, stage_id, *addresses)
    assert sorted(map(str, stages)) == sorted(tags_of(servers[1], "cache/1"))
    assert 1 + RETRIES == sent.count(servers[0].host)
    about = [record for record in caplog.records if str(addresses[0]) in record.getMessage()]
    warnings = [record.getMessage() for record in about if record.levelno == logging.WARNING]
    assert [True] == ["left alone for 60 s" in warning for warning in warnings]
    assert 2 * len(stages) == len(about) - 1  # each is neither read from it nor given to it


def test_a_cache_that_is_broken_is_passed_over_and_healed(engine, host, repository, push, caches, lose_blob):
    servers, addresses = caches
    stage_id, pushed = push("one")
    push("one", into=servers[0], path="cache/0")
    lose_blob(servers[0], pushed.layers[1])
    fetch(host, repository, stage_id, *addresses)
    assert [f"{repository}:{stage_id}"] == engine.tags()
    with ImageMaker(servers[0]) as maker:
        assert maker.blob("cache/0", pushed.layers[1]) is not None


def test_a_stage_that_is_gone_means_a_changed_state_that_can_be_tried_again(host, repository, push):
    stage_id, _ = push("one")
    other, _ = push("two")
    with ImageMaker(repository.host) as maker:
        maker.push_image("stages/app", other.rejected_tag)
    for absent in (other, type(stage_id)("0" * 56, 1)):
        with pytest.raises(StorageStateChangedError) as caught:
            fetch(host, repository, absent)
        assert caught.value.retryable


@pytest.mark.usefixtures("leaked_sockets")
def test_an_engine_that_is_gone_is_not_blamed_on_caches(
    make_engine, connect, make_host, repository, push, caches
):
    server = make_engine()
    host = make_host(connect(server))
    stage_id, _ = push("one")
    assert [] == list(host.stage_ids(EngineProject("app")))
    server.kill()
    with pytest.raises(EngineUnreachableError):
        fetch(host, repository, stage_id, *caches[1])


def test_many_fetches_of_one_stage_at_once_all_succeed(engine, host, repository, push, caches):
    servers, addresses = caches
    stage_id, _ = push("one")
    push("one", into=servers[0], path="cache/0")
    failures = []

    def run():
        try:
            fetch(host, repository, stage_id, *addresses[:1])
        except Exception as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failures
    assert [f"{repository}:{stage_id}"] == engine.tags()


def test_an_engine_as_primary_has_to_have_it(engine, host, push, last_used):
    stage_id, _ = push("one")
    with pytest.raises(StorageStateChangedError):
        fetch(host, EngineProject("app"), stage_id)
    engine.import_image(f"app:{stage_id}", labels=LABELS)
    assert fetch(host, EngineProject("app"), stage_id).skipped
    assert [("here", f"app:{stage_id}")] == last_used.images
