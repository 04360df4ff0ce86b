"""Deletions in real registries: distribution 2 by digest, and one that deletes tags."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from stagefleet.attempt import ItemResult
from stagefleet.credentials import DockerConfig
from stagefleet.errors import DeletionDisabledError, SharedDigestError, StageNotFoundError
from stagefleet.names import Repository, StageId
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import HttpSettings, Settings
from stagefleet.shared_state.implementations import MemorySharedState
from tests.services.images import push_image, push_index
from tests.stage_tasks import StageTasks

PATH = "team/app"


def stage(number):
    return StageId(f"{number:056x}", 1700000000000 + number)


def tags(host):
    answer = requests.get(f"http://{host}/v2/{PATH}/tags/list", timeout=10)
    return set(answer.json().get("tags") or ()) if answer.ok else set()


def digest_at(host, name):
    accept = (
        "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
        "application/vnd.docker.distribution.manifest.v2+json"
    )
    url = f"http://{host}/v2/{PATH}/manifests/{name}"
    return requests.get(url, headers={"Accept": accept}, timeout=10).headers.get("Docker-Content-Digest")


def delete(stage_tasks, host, stage_id, *others, run_id="r"):
    to_delete = [str(named) for named in (stage_id, *others)]
    return stage_tasks.delete_stage(
        Repository(host, PATH), stage_id, run_id=run_id, to_delete=lambda: to_delete
    )


def test_stages_go_and_the_others_stay(stage_tasks, registry):
    for number in range(30):
        push_image(registry.host, PATH, str(stage(number)), layers=[f"{number}".encode()])
    gone = [stage(number) for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda stage_id: delete(stage_tasks, registry.host, stage_id, *gone), gone))
    assert {str(stage(number)) for number in range(20, 30)} == tags(registry.host)


def test_a_custom_tag_keeps_its_content(stage_tasks, registry):
    push_image(registry.host, PATH, str(stage(1)))
    pushed = push_image(registry.host, PATH, "release")
    assert ItemResult() == delete(stage_tasks, registry.host, stage(1))
    assert {"release"} == tags(registry.host)
    assert pushed.digest == digest_at(registry.host, "release")


def test_of_two_stages_of_one_digest_the_one_not_asked_for_stays(stage_tasks, registry):
    for number in (1, 2):
        pushed = push_image(registry.host, PATH, str(stage(number)))
    delete(stage_tasks, registry.host, stage(1))
    assert {str(stage(2))} == tags(registry.host)
    assert pushed.digest == digest_at(registry.host, str(stage(2)))


def test_two_stages_of_one_digest_both_asked_for_go_together(stage_tasks, registry):
    for number in (1, 2):
        push_image(registry.host, PATH, str(stage(number)))
    delete(stage_tasks, registry.host, stage(1), stage(2))
    assert set() == tags(registry.host)
    assert ItemResult() == delete(stage_tasks, registry.host, stage(2))


def test_a_member_of_an_index_that_stays_keeps_the_index_whole(stage_tasks, registry):
    member = push_image(registry.host, PATH, str(stage(1)))
    index = StageId(stage(9).digest)
    push_index(registry.host, PATH, str(index), [member])
    delete(stage_tasks, registry.host, stage(1))
    assert {str(index)} == tags(registry.host)
    assert member.digest == digest_at(registry.host, member.digest)
    assert stage_tasks.describe_stage(Repository(registry.host, PATH), index).info.members


def test_deletion_that_is_off_is_said_with_its_setting(stage_tasks, make_registry):
    registry = make_registry(delete=False)
    push_image(registry.host, PATH, str(stage(1)))
    with pytest.raises(DeletionDisabledError, match=r"storage\.delete\.enabled: true"):
        delete(stage_tasks, registry.host, stage(1))
    assert {str(stage(1))} == tags(registry.host)


class Death(BaseException):
    """Not caught by any code of the worker."""


class DyingClient(RegistryClient):
    """A client whose worker dies after its n-th write."""

    def __init__(self, config, writes):
        super().__init__(Settings(), config=config)
        self._left = writes

    def put_manifest(self, *arguments, **options):
        super().put_manifest(*arguments, **options)
        self._written()

    def delete_manifest(self, *arguments, **options):
        super().delete_manifest(*arguments, **options)
        self._written()

    def _written(self):
        self._left -= 1
        if self._left == 0:
            raise Death


@pytest.mark.parametrize("writes", range(1, 9))
def test_a_worker_that_dies_after_any_write_is_finished_by_the_next(client, registry, tmp_path, writes):
    """R12: until then the stage is there for all, or gone for all."""
    push_image(registry.host, PATH, str(stage(1)))
    pushed = push_image(registry.host, PATH, "release")
    repository = Repository(registry.host, PATH)
    with DyingClient(DockerConfig(tmp_path / "none.json"), writes) as dying, contextlib.suppress(Death):
        delete(StageTasks(dying, MemorySharedState()), registry.host, stage(1))
    survivor = StageTasks(client, MemorySharedState())
    if digest_at(registry.host, str(stage(1))) == pushed.digest:
        assert [stage(1)] == list(survivor.stage_ids(repository))
    else:
        assert [] == list(survivor.stage_ids(repository))
        with pytest.raises(StageNotFoundError):
            survivor.describe_stage(repository, stage(1))
    delete(survivor, registry.host, stage(1))
    assert {"release"} == {tag for tag in tags(registry.host) if "probe" not in tag}
    assert pushed.digest == digest_at(registry.host, "release")


def test_a_registry_that_deletes_tags_gets_one_request_a_stage(stage_tasks, tag_registry):
    for number in (1, 2, 3):
        push_image(tag_registry.host, PATH, str(stage(number)))
    push_image(tag_registry.host, PATH, "release")
    delete(stage_tasks, tag_registry.host, stage(1))
    tag_registry.log.clear()
    delete(stage_tasks, tag_registry.host, stage(2))
    delete(stage_tasks, tag_registry.host, stage(4))
    manifests = f"/v2/{PATH}/manifests"
    assert [
        ("DELETE", f"{manifests}/{stage(2)}", 202),
        ("DELETE", f"{manifests}/{stage(4)}", 404),
    ] == tag_registry.log
    assert {str(stage(3)), "release"} == tags(tag_registry.host)


def test_where_each_deletion_ends_half_way_nothing_is_told_as_deleted(registry, tmp_path, caplog):
    """R48, R12, x2: an empty tag link makes distribution 2.8 take manifests, answer 500 and keep tags."""
    pushed = push_image(registry.host, PATH, str(stage(1)))
    push_image(registry.host, PATH, "latest", layers=[b"other"])
    link = registry.root / f"docker/registry/v2/repositories/{PATH}/_manifests/tags/latest/current/link"
    link.write_text("")
    settings = Settings(http=HttpSettings(retries=1, backoff_seconds=0.01))
    with RegistryClient(settings, config=DockerConfig(tmp_path / "none.json")) as client:
        for _ in range(2):
            stage_tasks = StageTasks(client, MemorySharedState())
            with pytest.raises(SharedDigestError, match="ends half way"):
                delete(stage_tasks, registry.host, stage(1))
    assert pushed.digest == digest_at(registry.host, str(stage(1)))
    left = {tag for tag in tags(registry.host) if "probe" in tag}
    assert {str(stage(1)), "latest", *left} == tags(registry.host)
    assert 2 == len(left)
    assert all(tag in caplog.text for tag in left)
