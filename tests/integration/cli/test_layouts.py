"""Commands on OCI layouts: copies to and from them, on this host and on the host that is named."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from config.celery import make_app
from stagefleet.errors import UsageError
from stagefleet.oci_layout.layout import OciLayout
from stagefleet.settings import EngineSettings, Settings, WorkerSettings
from tasks.runs import StartRunTask
from tests.integration.cli.conftest import HASTE
from workers.context import open_fleet

HERE = "oci:layout is on this host: starting a private Valkey and a worker for this command"


@pytest.fixture
def stages(registry, push_stages):
    return push_stages(registry, "app/stages", 3)


@pytest.fixture
def source(registry, stages):
    return f"{registry.host}/app/stages"


@pytest.fixture
def layout(tmp_path):
    return OciLayout(tmp_path / "layout")


def listed(result):
    assert 0 == result.code, result.err
    return set(result.out.splitlines())


def test_a_stage_goes_to_another_registry_by_a_layout_and_a_tar_file_with_its_digest(
    command, source, stages, make_registry, digests_in, tmp_path
):
    done = command("copy", source, "oci:layout")
    assert (0, "3 copied") == (done.code, done.out.partition("(")[2].partition(")")[0]), done.err
    assert set(stages) == listed(command("list", "oci:layout"))
    subprocess.run(["tar", "-cf", tmp_path / "layout.tar", "-C", tmp_path / "layout", "."], check=True)
    shutil.rmtree(tmp_path / "layout")
    assert set(stages) == listed(command("list", "oci:layout.tar"))
    other_registry = make_registry()
    assert 0 == command("copy", "oci:layout.tar", f"{other_registry.host}/app/elsewhere").code
    assert stages == digests_in(other_registry, "app/elsewhere")


def test_what_is_there_is_skipped_and_verified_if_asked(command, source, stages):
    one, other, _ = stages
    assert 0 == command("copy", source, "oci:layout", one).code
    again = command("copy", source, "oci:layout", "--json")
    assert {one: "skipped", other: "succeeded"}.items() <= {
        outcome["item"]: outcome["state"] for outcome in again.objects[:-1]
    }.items()
    assert "3 skipped" in command("copy", source, "oci:layout", "--verify").out


def test_stages_of_a_layout_are_described_verified_and_deleted(command, source, stages, layout, tmp_path):
    assert 0 == command("copy", source, "oci:layout").code
    found = command("list", "oci:layout", "--json").objects
    path = tmp_path / "layout"
    assert stages == {one["stage_id"]: one["repo_digest"].removeprefix(f"oci:{path}@") for one in found}
    assert {f"oci:{path}:{tag}" for tag in stages} == {one["name"] for one in found}
    described = command("describe", "oci:layout", "--json").objects[:-1]
    assert {one["stage_id"]: one for one in found} == {one["item"]: one["result"] for one in described}
    deleted = command("delete", "oci:layout", *stages, "f" * 56)
    assert (0, "3 deleted, 1 skipped") == (deleted.code, deleted.out.partition("(")[2].partition(")")[0])
    assert [] == list(layout.tags())
    assert [] == [blob for blob in path.glob("blobs/*/*") if blob.is_file()]


def test_a_layout_is_verified_blob_by_blob_and_mended_by_a_new_copy(
    command, source, stages, layout, tmp_path
):
    assert 0 == command("copy", source, "oci:layout").code
    assert 0 == command("verify", "oci:layout").code
    one = next(iter(stages))
    manifest = layout.fetch_manifest(layout.resolve(one).digest)
    (path,) = tmp_path.glob(f"layout/blobs/*/{manifest.layers[-1].digest.hex}")
    path.write_bytes(b"x" * path.stat().st_size)
    broken = command("verify", "oci:layout", "--json")
    assert 1 == broken.code
    failed = {told["item"]: told["error"]["type"] for told in broken.objects[:-1] if told["error"]}
    assert {one: "AlteredContentError"} == failed
    assert "1 skipped" in command("copy", source, "oci:layout", one, "--verify").out
    assert 0 == command("delete", "oci:layout", one).code
    assert 0 == command("copy", source, "oci:layout", one).code
    assert 0 == command("verify", "oci:layout", one).code


def test_one_that_is_not_there_is_refused_unless_it_may_be(command, tmp_path):
    refused = command("list", "oci:nowhere")
    assert 2 == refused.code
    assert f"there is no repository oci:{tmp_path}/nowhere" in refused.err
    assert "" == command("list", "oci:nowhere", "--missing-ok").out
    (tmp_path / "notes.txt").touch()
    refused = command("list", f"oci:{tmp_path}")
    assert (2, 1) == (refused.code, refused.err.count("\n"))
    assert "is no OCI image layout: it has no file oci-layout" in refused.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("copy", "docker-daemon:app", "oci:layout"), "from or to an engine stages go through a repository"),
        (("copy", "oci:layout", "docker-daemon:app"), "from or to an engine stages go through a repository"),
        (("copy", "oci:layout", "oci:./layout"), "source and destination are the same"),
        (("fetch", "oci:layout", "f" * 56), "which has no role in a project"),
        (("purge", "oci:layout"), "which keeps no records"),
        (("copy", "a.test/app", "oci:layout", "--prune"), "is on a host: name a registry's repository"),
        (("records", "list", "oci:layout"), "which keeps no records"),
        (("copy", "oci:", "oci:layout"), "is no path of an OCI layout"),
        (("copy", "oci:layout", "a.test/app", "--detach"), "name the host of oci:layout with --host"),
        (("copy", "oci:layout", "a.test/app", "--idempotency-key", "k"), "with --host"),
    ],
)
def test_what_a_layout_is_not_for_is_refused_in_one_line(command, redis_server, arguments, text):
    refused = command(*arguments, STAGEFLEET_REDIS_URL=redis_server.url)
    assert (2, 1) == (refused.code, refused.err.count("\n"))
    assert text in refused.err


def test_a_project_has_no_layout(command):
    refused = command("list", "--project", "app", STAGEFLEET_PROJECTS='{"app": {"primary": "oci:/srv/app"}}')
    assert 2 == refused.code
    assert "oci:/srv/app is an OCI layout, which has no role in a project" in refused.err


# Hosts


def test_without_a_host_it_is_worked_on_here_and_that_is_said(command, source, stages, redis_server):
    """No worker listens to that Redis: with it the command would end with 4."""
    done = command("copy", source, "oci:layout", STAGEFLEET_REDIS_URL=redis_server.url)
    assert (0, f"stagefleet: {HERE}\n") == (done.code, done.err)


@pytest.fixture
def worker(environment, redis_server, make_workers, tmp_path):
    """A worker without an engine that works on layouts of the host "files" below a directory."""
    root = tmp_path / "root"
    root.mkdir()
    own = {"STAGEFLEET_ENGINE__HOST": "files", "STAGEFLEET_WORKER__LAYOUT_ROOTS": json.dumps([str(root)])}
    make_workers(
        redis_server.url, environment={"DOCKER_CONFIG": environment["DOCKER_CONFIG"], **HASTE, **own}
    )
    environment["STAGEFLEET_REDIS_URL"] = redis_server.url
    return root


def test_with_a_host_its_worker_works_below_its_roots_alone(command, source, stages, worker, tmp_path):
    (worker / "link").symlink_to(tmp_path / "elsewhere")
    assert 0 == command("copy", source, "oci:root/layout", "--host", "files").code
    assert set(stages) == listed(command("list", "oci:root/layout"))
    assert [] == command("hosts", "--json").objects  # it cannot fetch
    for path in ("elsewhere", "root/link", "root/../elsewhere"):
        refused = command("copy", source, f"oci:{path}", "--host", "files", "--json")
        assert 1 == refused.code
        for outcome in refused.objects[:-1]:
            assert (
                f"work on layouts below {worker} alone (worker.layout_roots)" in outcome["error"]["message"]
            )
    assert not (tmp_path / "elsewhere").exists()
    deleted = command("delete", "oci:root/layout", *stages, "--host", "files", "--detach")
    assert (0, "") == (deleted.code, deleted.err)
    assert 0 == command("runs", "watch", deleted.out.strip()).code
    assert "" == command("list", "oci:root/layout").out


def test_a_host_whose_worker_works_on_no_layouts_is_refused(command, source, stages, fleet):
    refused = command("copy", source, "oci:layout", "--host", "elsewhere")
    assert 2 == refused.code
    assert (
        "no live worker of host 'elsewhere' works on OCI layouts (hosts that are there: none)" in refused.err
    )
    assert "with worker.layout_roots in its settings" in refused.err


def test_on_request_the_same_rules_hold(command, source, stages, worker, redis_server, tmp_path):
    settings = Settings(
        redis_url=redis_server.url,
        engine=EngineSettings(host="files"),
        worker=WorkerSettings(layout_roots=(worker,)),
    )
    task = make_app(settings).register_task(StartRunTask(lambda: open_fleet(settings)))

    def copy(destination, **arguments):
        task(operation="copy", source=source, destination=destination, stage_ids=list(stages), **arguments)

    with pytest.raises(UsageError, match=r"destination: .*'oci:root/layout' is relative to a directory"):
        copy("oci:root/layout", hosts=["files"])
    with pytest.raises(UsageError, match="name the hosts"):
        copy(f"oci:{worker}/layout")
    with pytest.raises(UsageError, match="work on layouts below"):  # by the plan, in this process
        copy(f"oci:{tmp_path}/elsewhere", hosts=["files"])
    copy(f"oci:{worker}/layout", hosts=["files"], idempotency_key="k")
    assert 0 == command("runs", "watch", command("runs", "list", "--json").objects[0]["run"]).code
    assert set(stages) == listed(command("list", "oci:root/layout"))
