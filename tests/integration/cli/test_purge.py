"""Purging a project from the shell: everything of it goes, and nothing else."""

from __future__ import annotations

import json

import pytest

from stagefleet.credentials import DockerConfig
from stagefleet.names import Repository, StageId
from stagefleet.records.models import (
    ClientId,
    CustomTag,
    ImageMetadata,
    ImportMetadata,
    ManagedImage,
    RejectedStage,
)
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import Settings
from tests.integration.workers.conftest import eventually
from tests.services import ImageMaker, stage_id_of
from tests.stage_tasks import RecordTasks, make_storages

COMMIT = "c0" * 20
ORDER = [
    "stages",
    "import-metadata",
    "managed-images",
    "image-metadata",
    "custom-tags",
    "rejected-stages",
    "final-stages",
]


@pytest.fixture
def repository(registry):
    return f"{registry.host}/purged/app"


@pytest.fixture
def _project(tmp_path, registry, repository):
    """A project whose first cache is down."""
    caches = f'["127.0.0.1:9/cache", "{registry.host}/purged/cache"]'
    (tmp_path / "stagefleet.toml").write_text(
        f'[http]\nretries = 0\n[projects.app]\nprimary = "{repository}"\n'
        f'final = "{registry.host}/purged/final"\ncaches = {caches}\n'
    )


@pytest.fixture
def stages(registry, repository, tmp_path):
    """Three stages, the first with a custom tag and the last rejected; records, and foreign tags.

    The custom tag is in the final storage, which has the first stage; a foreign tag shares its digest there.
    """
    ids = [stage_id_of(f"purged {number}", 1_700_000_000_000 + number) for number in range(3)]
    with ImageMaker(registry) as maker:
        pushed = [maker.push_image("purged/app", tag, layers=[b"shared", tag.encode()]) for tag in ids]
        maker.push_tag(pushed[1], "somebodys")
        maker.push_image("purged/app", "v1.0", layers=[b"not ours"])
        maker.push_image(
            "purged/app", "latest", layers=[b"theirs"]
        )  # of the custom tag's name: nobody's here
        for path in ("purged/cache", "purged/final"):
            maker.push_image(path, ids[0], layers=[b"shared"])
            maker.push_image(path, "mine", layers=[b"shared"])
    first, _, last = map(StageId.parse, ids)
    where = Repository.parse(repository)
    with RegistryClient(Settings(), config=DockerConfig(tmp_path / "config.json")) as client:
        stage_tasks = RecordTasks(make_storages(client))
        for record in (
            ManagedImage("web/app"),
            ImageMetadata.of_image("web", COMMIT, first),
            ImportMetadata("0f" * 32, ids[0], "sum"),
            RejectedStage(last),
            ClientId("me", 1_700_000_000_000),
        ):
            stage_tasks.write(where, "app", record)
        final = Repository.parse(f"{registry.host}/purged/final")
        stage_tasks.add_custom_tag(where, "app", CustomTag("latest", first), final=final)
    return ids


@pytest.mark.usefixtures("_project")
def test_a_purge_takes_all_of_the_project_and_leaves_the_rest(
    command, registry, repository, stages, digests_in
):
    """I1: the custom tag goes in the final storage, and no tag of that name in the primary one."""
    before = digests_in(registry, "purged/app")
    shown = command("records", "show", "--project", "app", "custom-tag", "latest", "--json").objects[0]
    assert (True, stages[0]) == (shown["in_place"], shown["stage_id"])
    assert "latest" in digests_in(registry, "purged/final")

    planned = command("purge", "--project", "app", "--dry-run", "--json")
    assert 0 == planned.code
    *groups, summary = planned.objects
    assert ORDER == [group["group"] for group in groups]
    assert [2, 1, 1, 1, 1, 1, 1] == [group["total"] for group in groups]
    assert sorted(stages[:2]) == sorted(groups[0]["items"])
    assert ["latest"] == groups[4]["items"]
    assert all(group["size"] for group in groups[:4])
    assert 0 == groups[6]["size"]  # all of it is held by a tag that stays
    assert (8, "planned") == (summary["total"], summary["state"])
    final = f"{registry.host}/purged/final:mine"
    foreign = {f"{repository}:{tag}" for tag in ("somebodys", "v1.0", "latest")}
    assert {*foreign, final} == set(summary["unknown"])
    assert [f"{repository}:client-id-me-1700000000000"] == summary["kept"]
    assert before == digests_in(registry, "purged/app")

    refused = command("purge", repository)
    assert (2, before) == (refused.code, digests_in(registry, "purged/app"))
    assert "--yes" in refused.err

    purged = command("purge", "--project", "app", "--yes", "--json")
    *groups, summary = purged.objects
    assert (0, ORDER) == (purged.code, [group["group"] for group in groups]), purged.err
    assert (8, 8, 0) == (summary["total"], summary["succeeded"], summary["failed"])
    kept = ("client-id-me-1700000000000", "latest", "somebodys", "v1.0")
    assert {tag: before[tag] for tag in kept} == digests_in(registry, "purged/app")
    for path in ("purged/cache", "purged/final"):
        assert ["mine"] == list(digests_in(registry, path))


def test_a_dry_run_goes_on_over_what_is_damaged_or_odd(command, registry, push_stages):
    """x1, W19: a manifest that answers 500, and BuildKit's cache under a foreign tag, each ended it."""
    first, second = push_stages(registry, "odd/app", 2).items()
    algorithm, _, hexadecimal = second[1].partition(":")
    blobs = registry.root / "docker/registry/v2/blobs" / algorithm / hexadecimal[:2] / hexadecimal
    (blobs / "data").write_bytes(b"")
    with ImageMaker(registry) as maker:
        layer = maker.push_blob("odd/app", b"cached layer")
        kind = "application/vnd.oci.image.index.v1+json"
        document = {
            "schemaVersion": 2,
            "mediaType": kind,
            "manifests": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": 12, "digest": layer}
            ],
        }
        raw = json.dumps(document).encode()
        maker.push_manifest("odd/app", "buildcache", raw, kind)
    planned = command(
        "purge", f"{registry.host}/odd/app", "--dry-run", "--json", STAGEFLEET_HTTP__RETRIES="0"
    )
    *groups, summary = planned.objects
    assert (0, sorted([first[0], second[0]])) == (planned.code, sorted(groups[0]["items"]))
    assert summary["size"] > 0
    assert [f"{registry.host}/odd/app:{second[0]}"] == list(summary["unweighed"])
    (line,) = [line for line in planned.err.splitlines() if "weighed" in line]
    assert second[0] in line


@pytest.mark.usefixtures("fleet", "_project", "stages")
def test_a_purge_goes_on_when_its_client_is_killed(start, command, registry, digests_in):
    """The fleet starts the later groups, and the same key finds the purge."""
    arguments = ("purge", "--project", "app", "--yes", "--idempotency-key", "nightly")
    client = start(*arguments, "-j", "1")

    def written():
        """The runs, once the first has started: by then all are written."""
        found = command("runs", "list", "--json").objects
        return found if any(run["state"] != "submitting" for run in found) else None

    runs = eventually(written, "the runs are written")
    client.kill()
    client.communicate()
    ended = command(*arguments, "--json")
    *groups, summary = ended.objects
    assert (0, "succeeded") == (ended.code, summary["state"]), ended.err
    assert {run["run"] for run in runs} <= {group["run"] for group in groups}
    for path in ("purged/cache", "purged/final"):
        assert ["mine"] == list(digests_in(registry, path))
    assert {group["run"] for group in groups} == {
        run["run"] for run in command("runs", "list", "--json").objects
    }


@pytest.mark.usefixtures("fleet", "_project", "stages")
def test_a_detached_purge_needs_no_client(command, registry, digests_in):
    started = command("purge", "--project", "app", "--yes", "--detach", "--json")
    assert (0, 7) == (started.code, len(started.objects)), started.err
    eventually(
        lambda: {"succeeded"} == {run["state"] for run in command("runs", "list", "--json").objects},
        "all groups are gone",
    )
    for path in ("purged/cache", "purged/final"):
        assert ["mine"] == list(digests_in(registry, path))
