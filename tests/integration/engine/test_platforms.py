"""The platforms of a stage in a real engine: fetched from real registries, each under a name of its own."""

from __future__ import annotations

import threading

import pytest

from stagefleet.errors import ImageInUseError, PlatformNotFoundError
from stagefleet.images import PlatformSelection
from stagefleet.leases import NO_LEASE
from stagefleet.locks.stage_locks import ImageLocks, image_of
from stagefleet.names import EngineProject, Repository, StageId
from stagefleet.operations.delete import InUsePolicy
from stagefleet.project_addresses import Project
from stagefleet.records.ids import RecordId
from tests.integration.engine.conftest import LABELS
from tests.services import ImageMaker, archive_of, stage_id_of

AMD64 = {"os": "linux", "architecture": "amd64"}
ARM64 = {"os": "linux", "architecture": "arm64", "variant": "v8"}
ARMV6 = {"os": "linux", "architecture": "arm", "variant": "v6"}
APP = EngineProject("app")
STAGE = StageId.parse(stage_id_of("many platforms", None))


@pytest.fixture
def host(host, connection):
    assert "linux/amd64" == str(connection.platform), "these tests take the engine's for granted"
    return host


@pytest.fixture
def push_index(registry):
    """Pushes a multi-platform stage; returns its members and, last, the index."""

    def push(*platforms, into=None, path="stages/app", tag=str(STAGE)):
        with ImageMaker(into or registry) as maker:
            members = [
                maker.push_image(
                    path,
                    None,
                    layers=[archive_of({"own": repr(platform).encode() * 100})],
                    labels=LABELS,
                    platform=platform,
                )
                for platform in platforms
            ]
            return [*members, maker.push_index(path, tag, members)]

    return push


def fetch(host, primary, *platforms, caches=(), everything=False, stage_id=STAGE):
    choice = PlatformSelection.parse(platforms, everything=everything)
    return host.fetch_stage(
        Project("app", primary, caches=caches), stage_id, choice, run_id="run", lease=NO_LEASE
    )


def test_the_engines_own_platform_has_the_name_of_the_stage_and_every_other_one_of_its_own(
    engine, host, repository, push_index
):
    amd64, arm64, armv6, index = push_index(AMD64, ARM64, ARMV6)
    own = f"{repository}:{STAGE}"
    item_result = fetch(host, repository, "linux/arm64", "linux/amd64", "linux/arm/v6")
    assert [own, f"{own}.linux.arm.v6", f"{own}.linux.arm64"] == engine.tags()
    assert {
        "linux/arm64": f"{own}.linux.arm64",
        "linux/amd64": own,
        "linux/arm/v6": f"{own}.linux.arm.v6",
    } == item_result.result["platforms"]
    expected = [engine.id_of(amd64, index), engine.id_of(armv6), engine.id_of(arm64)]
    assert expected == list(map(engine.image_id, engine.tags()))
    # The first that was named is described.
    assert (engine.id_of(arm64), f"{own}.linux.arm64") == (
        item_result.result["image_id"],
        item_result.result["name"],
    )
    assert f"{repository}@{arm64.digest}" == item_result.result["repo_digest"]
    assert engine.tells_progress(item_result.bytes)


def test_what_is_there_is_judged_by_platform_and_without_a_request(
    engine, registry, host, repository, push_index
):
    push_index(AMD64, ARM64)
    assert not fetch(host, repository, "linux/arm64").skipped
    assert not fetch(host, repository).skipped  # another platform is not the engine's own
    assert [f"{repository}:{STAGE}", f"{repository}:{STAGE}.linux.arm64"] == engine.tags()
    registry.forget_requests()
    for platforms in ((), ("linux/amd64",), ("linux/arm64/v8",), ("linux/arm64", "linux/amd64")):
        assert fetch(host, repository, *platforms).skipped
    assert [] == registry.requests()


def test_a_stages_name_that_somebody_gave_to_another_platform_is_given_back(
    engine, connection, host, repository, push_index
):
    amd64, _, index = push_index(AMD64, ARM64)
    engine.client().images.pull(str(repository), tag=str(STAGE), platform="linux/arm64")
    assert not fetch(host, repository).skipped
    assert engine.id_of(amd64, index) == engine.image_id(f"{repository}:{STAGE}")


def test_all_platforms_are_those_that_the_engine_can_keep(engine, host, repository, push_index):
    windows = {"os": "windows", "architecture": "amd64"}
    attestation = {"os": "unknown", "architecture": "unknown"}
    push_index(AMD64, windows, ARM64, attestation)
    item_result = fetch(host, repository, everything=True)
    assert ["linux/amd64", "linux/arm64"] == list(item_result.result["platforms"])
    assert [f"{repository}:{STAGE}", f"{repository}:{STAGE}.linux.arm64"] == engine.tags()
    assert fetch(host, repository, everything=True).skipped


def test_a_platform_that_the_stage_does_not_have_is_an_error_with_those_that_it_has(
    engine, host, repository, push_index
):
    push_index(AMD64, ARM64)
    with pytest.raises(
        PlatformNotFoundError, match="no image for linux/s390x: it has linux/amd64, linux/arm64"
    ):
        fetch(host, repository, "linux/amd64", "linux/s390x")
    assert [] == engine.tags()


def test_a_stage_without_the_engines_own_platform_is_an_error_with_those_that_it_has(
    host, repository, push_index
):
    push_index(ARM64)
    with pytest.raises(PlatformNotFoundError, match="no image for linux/amd64: it has linux/arm64"):
        fetch(host, repository)


def test_a_stage_of_one_image_is_for_its_platform_alone(engine, host, repository, push):
    stage_id, _ = push("one", platform=ARM64)
    with pytest.raises(PlatformNotFoundError, match="no image for linux/amd64: it has linux/arm64"):
        fetch(host, repository, "linux/amd64", stage_id=stage_id)
    assert [] == engine.tags()
    item_result = fetch(host, repository, everything=True, stage_id=stage_id)
    assert [f"{repository}:{stage_id}"] == engine.tags()
    assert {"linux/arm64": f"{repository}:{stage_id}"} == item_result.result["platforms"]
    assert fetch(host, repository, "linux/arm64", stage_id=stage_id).skipped


def test_the_settings_of_a_host_say_which_platform_the_name_of_a_stage_means(
    engine, connect, make_host, repository, push_index
):
    _, arm64, index = push_index(AMD64, ARM64)
    host = make_host(connect(engine, platform="linux/arm64"))
    fetch(host, repository)
    fetch(host, repository, "linux/amd64")
    assert [f"{repository}:{STAGE}", f"{repository}:{STAGE}.linux.amd64"] == engine.tags()
    assert engine.id_of(arm64, index) == engine.image_id(f"{repository}:{STAGE}")


def test_a_cache_serves_the_members_of_its_index_and_one_that_lacks_it_gets_it_whole(
    engine, registry, make_registry, host, repository, push_index
):
    servers = [make_registry(), make_registry()]
    caches = tuple(Repository(server.host, "cache") for server in servers)
    *members, index = push_index(AMD64, ARM64)
    push_index(AMD64, ARM64, into=servers[1], path="cache")
    registry.forget_requests()
    fetch(host, repository, "linux/arm64", "linux/amd64", caches=caches[1:])
    assert [] == registry.requests()
    assert [f"{repository}:{STAGE}", f"{repository}:{STAGE}.linux.arm64"] == engine.tags()
    engine.client().api.remove_image(f"{repository}:{STAGE}.linux.arm64")
    assert [] == [image for image in engine.client().api.images(all=True) if not image["RepoTags"]]

    fetch(host, repository, "linux/arm64", caches=caches)
    with ImageMaker(servers[0]) as maker:
        assert index.digest == maker.digest("cache", str(STAGE))
        assert [member.digest for member in members] == [
            maker.digest("cache", member.digest) for member in members
        ]


def test_fetches_of_different_platforms_at_once_do_not_harm_each_other(
    engine, make_registry, host, repository, push_index
):
    server = make_registry()
    amd64, arm64, armv6, index = push_index(AMD64, ARM64, ARMV6)
    push_index(AMD64, ARM64, ARMV6, into=server, path="cache")
    caches = (Repository(server.host, "cache"),)
    failures = []

    def run(*platforms):
        try:
            fetch(host, repository, *platforms, caches=caches)
        except Exception as error:  # noqa: BLE001 - shown below
            failures.append(error)

    wanted = [(), ("linux/arm64",), ("linux/arm/v6",), ("linux/amd64", "linux/arm64")]
    threads = [threading.Thread(target=run, args=platforms) for platforms in wanted * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failures
    own = f"{repository}:{STAGE}"
    assert {
        own: engine.id_of(amd64, index),
        f"{own}.linux.arm64": engine.id_of(arm64),
        f"{own}.linux.arm.v6": engine.id_of(armv6),
    } == {tag: engine.image_id(tag) for tag in engine.tags()}


class TestInAProject:
    """What `docker-daemon:app` makes of the names of platforms."""

    OWN = f"app:{STAGE}"
    ARM = f"app:{STAGE}.linux.arm64"

    @pytest.fixture(autouse=True)
    def _images(self, engine):
        engine.import_image(self.OWN, labels=LABELS)
        engine.import_image(self.ARM, labels=LABELS, content=b"other")

    def delete(self, host, **policy):
        return host.delete_stage(APP, STAGE, InUsePolicy(**policy), run_id="run", lease=NO_LEASE)

    def test_they_are_no_stages_and_no_records(self, host):
        assert [STAGE] == list(host.stage_ids(APP))
        for tag in (f"{STAGE}.linux.arm64", f"{STAGE}-1700000000000.linux.arm.v6"):
            assert StageId.from_tag(tag) is None
            assert RecordId.from_tag(tag) is None

    def test_they_go_with_the_stage_and_no_other_name_does(self, engine, host):
        others = [f"app:{STAGE}-1700000000000", f"app:{STAGE}.latest", f"app:{'0' * 56}.linux.arm64"]
        for name in others:
            engine.client().api.tag(self.ARM, *name.split(":"))
        self.delete(host)
        assert sorted(others) == engine.tags()

    def test_they_go_where_the_engines_own_is_not_there(self, engine, host):
        engine.client().api.remove_image(self.OWN)
        self.delete(host)
        assert [] == engine.tags()

    def test_a_container_of_one_keeps_them_all(self, engine, host):
        engine.run_container(self.ARM, "job-17")
        with pytest.raises(ImageInUseError, match=r"linux\.arm64 is used by container job-17"):
            self.delete(host)
        assert self.delete(host, skip_used=True).skipped
        assert [self.OWN, self.ARM] == engine.tags()
        self.delete(host, remove_containers=True, force=True)
        assert ([], []) == (engine.tags(), engine.client().api.containers(all=True))

    def test_a_job_that_holds_the_stage_keeps_them_all(self, engine, host, locks):
        with ImageLocks(locks, "here").lock_shared(image_of(APP, STAGE)), pytest.raises(ImageInUseError):
            self.delete(host)
        assert [self.OWN, self.ARM] == engine.tags()
